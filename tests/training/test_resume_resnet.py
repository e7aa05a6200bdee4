"""The whole system as a user runs it: killed in an epoch and resumed, it ends where it would have ended."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ARGUMENTS = [
    *("--data.sample", "600"),
    *("--trainer.precision", "64-true"),
    *("--trainer.max_epochs", "2"),
    *("--patience", "9"),
    *("--test_at_end", "false"),
]
CLOCK = {"train_seconds", "images_per_second"}


def fit(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "lightning_cifake", "fit", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.long
@pytest.mark.parametrize("layout", ["keras", "torchvision"])
def test_the_resnet_killed_in_an_epoch_and_resumed_is_bit_for_bit_the_uninterrupted_one(workplace, layout):
    arguments = [*ARGUMENTS, "--model.network.layout", layout]
    assert fit(workplace, *arguments, "--output_dir", "whole").wait() == 0

    # a checkpoint after every step, and SIGKILL when a few are written
    killed = fit(workplace, *arguments, "--output_dir", "killed", "--checkpoint_minutes", "0")
    last = workplace / "killed" / "last.ckpt"
    seen: set[int] = set()
    deadline = time.monotonic() + 300
    while len(seen) < 4 and time.monotonic() < deadline and killed.poll() is None:
        if last.is_file():
            seen.add(last.stat().st_mtime_ns)
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    position = torch.load(last, weights_only=True)
    done = position["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert 0 < done < 14 and not (workplace / "killed" / "history.csv").exists()  # 420 images, 14 steps an epoch

    assert fit(workplace, "--ckpt_path", str(last)).wait() == 0
    assert history(workplace / "killed") == history(workplace / "whole")
    expected, resumed = state(workplace / "whole"), state(workplace / "killed")
    assert {value.dtype for value in expected.values()} == {torch.float64, torch.int64}
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
