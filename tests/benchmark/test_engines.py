"""The engines of TensorFlow run the reference of a checkout, from any current folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cifake import shipped
from lightning_cifake.benchmark import engines
from lightning_cifake.benchmark.engines import ENGINES, Worker
from lightning_cifake.benchmark.measure import Settings
from lightning_cifake.errors import UserError
from tf_reference.benchmark import with_policy


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


def test_an_engine_that_hangs_is_ended_and_said(monkeypatch):
    monkeypatch.setattr(engines, "LONGEST", 0.1)
    monkeypatch.setattr(engines, "command", lambda engine, spec: ["timeit", "-n1", "while True: pass"])
    with Worker(ENGINES["torch"], {"threads": 1}) as worker, pytest.raises(UserError, match="no reply within 0 s"):
        worker.ask({"first": "step"})
    assert worker.process.returncode != 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_keras_and_lightning_are_measured_at_both_batch_sizes_with_their_best_settings(precision):
    sizes = Settings(threads=1, precision=precision)
    at = {name: sizes.batch_of(engine) for name, engine in ENGINES.items() if engine.trains}
    assert {name for name, size in at.items() if size == 32} == {"tf", "tf-tuned-small", "torch", "lightning"}
    assert {name for name, size in at.items() if size == 128} == {"tf-tuned", "lightning-large", "lightning-tuned"}
    assert ENGINES["lightning-large"].configs == ENGINES["lightning"].configs == ("published",)
    halves = {name for name, engine in ENGINES.items() if engine.answers_in(precision) == precision}
    assert halves >= {"tf", "tf-tuned", "torch", "lightning"} and "onnxruntime-int8" not in halves
    assert ("onnxruntime" in halves) is (precision == "32-true")


def test_a_keras_files_layers_are_put_into_the_policy_that_is_asked_for():
    layer = {"class_name": "Dense", "config": {"dtype": {"class_name": "DTypePolicy", "config": {"name": "float32"}}}}
    config = {
        "config": {"layers": [layer, {"class_name": "Sequential", "config": {"layers": [layer]}}]},
        "dtype": "float32",
    }
    asked = with_policy(config, "mixed_bfloat16")
    assert json.dumps(asked) == json.dumps(config).replace('"name": "float32"', '"name": "mixed_bfloat16"')
    assert layer["config"]["dtype"]["config"]["name"] == "float32"  # what is given is not changed


def test_a_framework_that_is_missing_is_said_with_its_name(workplace, monkeypatch):
    """A module of TensorFlow's name stands in its way."""
    for name in ("tensorflow", "keras"):
        (workplace / f"{name}.py").write_text(f"raise ImportError('No module named {name}, as made here')\n")
    monkeypatch.setenv("PYTHONPATH", str(workplace))
    spec = {"threads": 1, "device": "cpu", "precision": "32-true", "task": "train", "data": "", "batch_size": 64}
    with Worker(ENGINES["tf"], spec) as worker, pytest.raises(UserError, match=r"No module named \w+, as made here"):
        worker.ask({"first": "step"})
