"""Fixtures: the tiny network, and a work folder to run commands in."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> type:
    """Classifiers made in this test have the tiny network."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("lightning_cifake.training.classifier.ResNet50Detector", module.TinyNetwork)
    return module.TinyNetwork


@pytest.fixture
def workplace(tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with the session's decoded images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what LightningCLI itself calls
    return tmp_path


@pytest.fixture
def tiny_command(workplace: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line with the tiny network in a process of its own."""

    def run(*arguments: str, send: str | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **({"TINY_SIGNAL": send} if send else {})}
        return subprocess.run(
            [sys.executable, str(TINY), *arguments],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
