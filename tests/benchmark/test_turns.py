"""The worker's side, in a real process: what is counted as a step, and how it ends."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_cifake.benchmark import turns
from lightning_cifake.benchmark.worker import _answerer

# three epochs of four steps of 30 ms, the first of each 200 ms; half of each step is waiting
TRAINING = """
import time
from {module} import Turns
{replies}
turns = Turns(replies)
for epoch in range(1_000):
    for step in range(4):
        time.sleep(0.1 if step == 0 else 0.015)
        getattr(turns, "batch_is_here", lambda: None)()
        time.sleep(0.1 if step == 0 else 0.015)
        turns.step_ended(8)
    time.sleep(0.3)
    turns.epoch_ended()
"""
OURS = TRAINING.format(
    module="lightning_cifake.benchmark.turns",
    replies="from lightning_cifake.benchmark.turns import Replies; replies = Replies(); print('not a reply')",
)
ROOT = Path(__file__).parents[2]  # tf_reference is found there
REFERENCE = TRAINING.format(module="tf_reference.benchmark", replies="import sys; replies = sys.stdout")


def ask(program, *questions):
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, input=lines, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("program", [OURS, REFERENCE], ids=["ours", "the reference's"])
def test_a_step_is_counted_from_the_one_before_and_not_across_epochs(program):
    first, epoch, turn, end = ask(program, {"first": "step"}, {"first": "epoch"}, {"steps": 7})
    assert first["steps"] == 0  # there is none before it
    assert epoch["steps"] == 3
    # 7 steps are the last 3 of two epochs and one more; neither the first ones nor the 300 ms between are in them
    assert turn["steps"] == 7 and turn["images"] == 56
    assert 7 * 0.03 <= turn["seconds"] < 7 * 0.03 + 0.2
    assert end["peak_mib"] is None or end["peak_mib"] > 5


def test_what_the_loop_waits_for_its_batch_is_told_and_part_of_the_step():
    turn = ask(OURS, {"steps": 6})[0]
    assert 6 * 0.015 <= turn["waiting"] < turn["seconds"] - 6 * 0.014


def test_what_passes_while_others_have_their_turn_is_not_counted():
    replies = []
    with subprocess.Popen([sys.executable, "-c", OURS], stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        for _ in range(2):
            process.stdin.write('{"steps": 1}\n')
            process.stdin.flush()
            replies.append(json.loads(process.stdout.readline()))
            time.sleep(1.0)
        process.stdin.close()
        process.wait(timeout=20)
    assert replies[1]["seconds"] < 0.5


def test_a_network_answers_in_half_precision_and_in_float32(tiny_network):
    """Nearly alike, and not the same: each computes in its own."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    spec = {"device": "cpu", "threads": 1, "precision": "bf16-mixed"}
    answer, size, exact = _answerer(tiny_network(), spec, 32)
    assert exact is not None and size == 32
    half, full = answer(images), exact(images)
    assert half.dtype == full.dtype == np.float32 and half.shape == (8,)
    assert 0 < np.abs(half - full).max() < 0.02
    again, _, other = _answerer(tiny_network(), {**spec, "precision": "32-true"}, 32)
    assert other is None and again(images).dtype == np.float32


def test_float32_is_asked_where_the_answers_are_compared(monkeypatch, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((300, 2, 2, 3), np.uint8))
    asked = [{"images": str(tmp_path / "images.npy"), **more} for more in ({}, {"exact": True})]
    monkeypatch.setattr(sys, "stdin", [json.dumps(each) for each in asked])
    sent = []
    turns.answer_questions(SimpleNamespace(send=sent.append), lambda x: np.zeros(len(x)), 2, lambda x: np.ones(len(x)))
    assert [reply["prob_real"] for reply in sent[:2]] == [[0.0] * 300, [1.0] * 300]
