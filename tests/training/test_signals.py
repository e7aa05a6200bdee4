"""Runs of the command line that are killed or stopped, in processes of their own."""

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint

Command = Callable[..., "subprocess.CompletedProcess[str]"]
FIT = ("fit", "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "3",
       "--trainer.precision", "64-true", "--trainer.logger", "false")  # fmt: skip
EVERY_STEP = ("--checkpoint_minutes", "0")
STEPS = 6


@pytest.fixture(scope="module")
def whole(module_folder: Callable[[str], Path], demo_cache: Path, warm: Any) -> dict[str, Any]:
    """What an uninterrupted run leaves."""
    folder = module_folder("whole")
    ended = warm.run(*FIT, folder=folder, environment={**os.environ, "LIGHTNING_CIFAKE_CACHE": str(demo_cache)})
    assert ended.returncode == 0, ended.stderr
    return left_in(folder / "checkpoints" / "demo" / "1")


def left_in(run: Path) -> dict[str, Any]:
    with (run / "history.csv").open(newline="") as file:
        history = [
            {name: value for name, value in row.items() if name not in ("train_seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]
    last, best = read_checkpoint(run / "last.ckpt"), read_checkpoint(run / "best.ckpt")
    return {
        "history": history,
        "weights": last["state_dict"],
        "optimizer": last["optimizer_states"],
        "schedule": last["lr_schedulers"],
        "stopper": next(state for name, state in last["callbacks"].items() if "EarlyStopping" in name),
        "best epoch": best["epoch"],
        "best": best["state_dict"],
        "predictions": (run / "predictions.csv").read_text(),
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def go_on(command: Command, workplace: Path) -> dict[str, Any]:
    again = command("fit", "--ckpt_path", "checkpoints/demo/1/last.ckpt")
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in (workplace / "checkpoints" / "demo").iterdir()) == ["1"]
    return left_in(workplace / "checkpoints" / "demo" / "1")


def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(
    tiny_command: Command, workplace: Path, whole: dict[str, Any]
) -> None:
    killed = tiny_command(*FIT, *EVERY_STEP, send=f"SIGKILL@train:{STEPS + 4}")
    assert killed.returncode == -9
    assert read_checkpoint(workplace / "checkpoints/demo/1/last.ckpt")["global_step"] == STEPS + 3
    assert_same(go_on(tiny_command, workplace), whole)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    tiny_command: Command, workplace: Path, whole: dict[str, Any], name: str, code: int
) -> None:
    stopped = tiny_command(*FIT, send=f"{name}@train:{STEPS + 4}")
    assert stopped.returncode == code
    assert stopped.stderr.splitlines()[-1] == (
        f"stopped by {name} after step {STEPS + 4}. Resume with: python -m lightning_cifake fit "
        "--ckpt_path checkpoints/demo/1/last.ckpt"
    )
    assert "Traceback" not in stopped.stderr
    assert read_checkpoint(workplace / "checkpoints/demo/1/last.ckpt")["global_step"] == STEPS + 4
    assert read_checkpoint(workplace / "checkpoints/demo/1/best.ckpt")["epoch"] == 0
    assert_same(go_on(tiny_command, workplace), whole)


def test_a_signal_in_the_validation_waits_for_its_end(
    tiny_command: Command, workplace: Path, whole: dict[str, Any]
) -> None:
    stopped = tiny_command(*FIT, send="SIGTERM@val:3")  # one batch a validation: the last epoch's
    assert stopped.returncode == 143
    last = read_checkpoint(workplace / "checkpoints/demo/1/last.ckpt")
    assert [epoch["epoch"] for epoch in last["history"]] == [0, 1, 2]
    assert "val_loss" in last["history"][-1]
    assert "epoch 3/3" in stopped.stdout
    assert not (workplace / "checkpoints/demo/1/metrics.json").exists()
    assert_same(go_on(tiny_command, workplace), whole)  # nothing is left to train: it restores the best and tests
