"""Fixtures: the tiny network, a work folder to run commands in, and processes that run them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import Warm


@pytest.fixture(scope="session")
def tiny_network() -> type:
    """A small network of the user's own, as the package sees it; ``--model.network tiny.TinyNetwork``."""
    from tiny import TinyNetwork  # not above: the process that hands out the tests needs no torch

    return TinyNetwork


@pytest.fixture
def workplace(tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with the session's decoded images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what LightningCLI itself calls
    return tmp_path


@pytest.fixture(scope="session")
def warm() -> Iterator[Any]:
    """A process that has Lightning imported: ``warm.run(*arguments, folder=...)`` runs a command in a child of it."""
    made = Warm()
    yield made
    made.close()


@pytest.fixture
def tiny_command(workplace: Path, warm: Any) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line with the tiny network in a process of its own."""

    def run(*arguments: str, send: str | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **({"TINY_SIGNAL": send} if send else {})}
        return warm.run(*arguments, folder=workplace, environment=environment)

    return run
