"""A model in other processes and threads than the one that opened it: nothing hangs, and answers are the same."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_cifake import Detector
from lightning_cifake.errors import UserError
from lightning_cifake.shipped import released_model

RELEASED = released_model()
IMAGES = [np.full((32, 32, 3), level, np.uint8) for level in range(0, 250, 25)]


def ask(detector: Detector) -> list[float | None]:
    return [answer.prob_real for answer in detector.predict(IMAGES, batch_size=3)]


def in_child(work: Callable[[], object], seconds: float = 60.0) -> int:
    """Forks; the child's exit code: 0 where the work gave something true, -1 where it did not end in time."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = 0 if work() else 71
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_detector_is_pickled_and_answers_the_same_from_another_folder(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model()
    monkeypatch.chdir(tmp_path)
    detector = Detector("model.onnx", threads=1)
    content = pickle.dumps(detector)
    assert len(content) < 10_000
    monkeypatch.chdir("/")
    copy = pickle.loads(content)
    assert ask(copy) == ask(detector) and copy.facts == detector.facts


def test_a_pickled_detector_refuses_another_model_under_the_same_name(make_model: Callable[..., Path]) -> None:
    content = pickle.dumps(Detector(make_model()))
    make_model(gain=4)
    with pytest.raises(UserError, match=r"model\.onnx was changed since it was opened"):
        ask(pickle.loads(content))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_asks_for_itself_and_ends() -> None:
    detector = Detector(RELEASED, threads=2)
    expected = ask(detector)
    assert in_child(lambda: ask(detector) == expected) == 0
    assert ask(detector) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_that_drops_its_parents_model_ends() -> None:
    held = [Detector(RELEASED, threads=2)]
    ask(held[0])
    assert in_child(lambda: held.pop() is not None) == 0  # without more it waits for threads that it does not have


def test_a_spawned_process_takes_a_detector(make_model: Callable[..., Path]) -> None:
    detector = Detector(make_model(), threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # a bound method: the test's own module is not one that a spawned process can import
        answers = pool.apply(detector.predict, (IMAGES,))
    assert [answer.prob_real for answer in answers] == pytest.approx(ask(detector), abs=1e-6)


def test_many_threads_ask_at_once(make_model: Callable[..., Path]) -> None:
    detector = Detector(make_model(), threads=2)
    expected = ask(detector)
    found: list[bool] = []

    def often() -> None:
        found.extend(ask(detector) == expected for _ in range(5))

    threads = [threading.Thread(target=often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_checkpoint_is_loaded_and_asked_in_a_forked_process(small_checkpoint: Path, warm: Any) -> None:
    """In a process of its own, whose OpenMP threads are certain to have started."""
    asked = {"arguments": ["best.ckpt"], "folder": str(Path.cwd()), "call": "ask_in_a_fork", "timeout": 120.0}
    (ran,) = warm.together(asked)
    assert ran.returncode == 0, ran.stderr
