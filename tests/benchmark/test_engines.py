"""The engines of TensorFlow run the reference of a checkout, from any current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cifake import shipped
from lightning_cifake.benchmark.engines import ENGINES, Worker
from lightning_cifake.errors import UserError


def test_the_reference_is_found_from_another_folder_behind_what_the_user_has_named(workplace, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    seen = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: seen.update(options))
    Worker(ENGINES["tf"], {"threads": 1}).log.close()
    assert seen["env"]["PYTHONPATH"].split(os.pathsep)[0] == "mine"
    monkeypatch.undo()
    program = "import importlib.util; print(importlib.util.find_spec('tf_reference.benchmark').origin)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workplace, env=seen["env"], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == Path(__file__).parents[2] / "tf_reference" / "benchmark.py"


def test_without_a_checkout_the_engine_says_that_it_needs_one(workplace, monkeypatch):
    monkeypatch.setattr(shipped, "_CHECKOUT", workplace)
    with pytest.raises(UserError, match="it needs tf_reference/, which is not installed: run it in a checkout"):
        Worker(ENGINES["tf"], {"threads": 1})


def test_a_framework_that_is_missing_is_said_with_its_name(workplace, monkeypatch):
    """A module of TensorFlow's name stands in its way."""
    for name in ("tensorflow", "keras"):
        (workplace / f"{name}.py").write_text(f"raise ImportError('No module named {name}, as made here')\n")
    monkeypatch.setenv("PYTHONPATH", str(workplace))
    spec = {"threads": 1, "device": "cpu", "precision": "32-true", "task": "train", "data": "", "batch_size": 64}
    with Worker(ENGINES["tf"], spec) as worker, pytest.raises(UserError, match=r"No module named \w+, as made here"):
        worker.ask({"first": "step"})
