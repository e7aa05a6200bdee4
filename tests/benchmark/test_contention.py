"""What a busy machine costs is measured setting by setting, each told apart, and shown with its spread."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from lightning_cifake.benchmark import contention
from lightning_cifake.cpu_threads import SPIN_COUNT


def test_every_setting_is_measured_under_every_load_in_every_round(monkeypatch):
    asked = []

    def measure(kind, setting, seconds, model, network):
        asked.append((kind, tuple(setting.items())))
        return float(len(asked))

    monkeypatch.setattr(contention, "measure", measure)
    found = contention.run(2, 0.1, [0, 1], None)
    assert set(found) == {"training"}
    assert all(len(rates) == 2 for setting in found["training"].values() for rates in setting.values())
    assert len(asked) == 2 * 2 * len(contention.TRAINING)
    text = contention.table(found, [0, 1])
    assert "| training, images/s | alone | beside 1 busy process |" in text
    assert len(text.strip().splitlines()) == 2 + len(contention.TRAINING)


def test_the_table_shows_medians_and_spread():
    found = {"training": {"a": {"0": [1.0, 9.0, 5.0]}}}
    assert "| a | 5 (1 to 9) |" in contention.table(found, [0])


def test_a_setting_reaches_the_process_and_the_user_s_own_does_not(monkeypatch):
    seen = {}

    def run(arguments, env, **others):
        seen.update(env)
        return subprocess.CompletedProcess(arguments, 0, "1.5\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert contention.measure("training", {"GOMP_SPINCOUNT": str(SPIN_COUNT)}, 1.0, None) == 1.5
    assert seen["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"} & set(seen)


def spinning_children() -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(b"while True" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes as Linux lists them")
def test_the_other_processes_are_gone_when_the_block_ends():
    with contention.beside(2):
        deadline = time.monotonic() + 20  # a process that has just begun shows no command line yet
        while spinning_children() < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert spinning_children() == 2
    assert spinning_children() == 0


def test_the_page_says_what_was_measured_where_and_when():
    rates = {name: {"0": [200.0, 210.0], "1": [20.0, 22.0]} for name in contention.TRAINING}
    record = {
        "date": "2026-11-25",
        "machine": {"processor": "A Processor", "cores": 2},
        "rounds": 2,
        "seconds": 4.0,
        "model": "model.onnx",
        "images_per_second": {"training": rates},
    }
    text = contention.page(record, [0, 1])
    for said in ("A Processor", "2026-11-25", "Medians of 2 rounds of 4 seconds", "| as fit runs | 205 (200 to 210) |"):
        assert said in text


def test_another_network_is_measured_and_named():
    rates = {name: {"0": [200.0]} for name in contention.TRAINING}
    record = {
        "date": "2026-11-25",
        "machine": {"processor": "A Processor", "cores": 2},
        "rounds": 1,
        "seconds": 4.0,
        "model": None,
        "network": "own.Network",
        "images_per_second": {"training": rates},
    }
    assert "Training is a float32 step of `own.Network`" in contention.page(record, [0])
