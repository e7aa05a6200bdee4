"""Several threads answer as one does: in order, of each image on its own, and none of them outlives who asked."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.deploy import stream as streaming
from lightning_cifake.deploy.pool import Pool
from lightning_cifake.deploy.stream import stream


def encoded(number: int, side: int = 32) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


@pytest.fixture
def detector(make_model: Callable[..., Path]) -> Detector:
    return Detector(make_model())


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_the_answers_are_those_of_one_thread_in_the_same_order(
    detector: Detector, threads: int, batch_size: int
) -> None:
    images: list[object] = [encoded(number, 20 + number % 3) for number in range(90)]
    images[13], images[40], images[88] = b"none", np.zeros((30, 40, 3), np.uint8), b""
    one = list(stream(detector, images, batch_size=batch_size))
    assert list(stream(detector, images, batch_size=batch_size, threads=threads)) == one
    assert [answer.error is not None for answer in one].count(True) == 2


def test_the_model_is_asked_by_each_thread_about_a_few_and_of_photographs_about_one(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    ask = Detector.prob_real

    def counted(self: Detector, images: list[np.ndarray]) -> np.ndarray:
        asked.append((threading.get_ident(), len(images)))
        time.sleep(0.002)
        return ask(self, images)

    monkeypatch.setattr(Detector, "prob_real", counted)
    list(stream(detector, [encoded(0)] * 200, batch_size=32, threads=2))
    assert {count for _, count in asked} >= {1, 12} and len(asked) < 30  # 12: a third of what may be held
    assert len({thread for thread, _ in asked}) == 2
    asked.clear()
    list(stream(detector, [encoded(0, 600)] * 8, batch_size=32, threads=2))
    assert {count for _, count in asked} == {1}


def test_a_single_image_is_answered_in_this_thread(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_cifake.deploy.pool.Thread", None)
    assert len(list(stream(detector, encoded(0), threads=8))) == 1
    assert list(stream(detector, [], threads=8)) == []


def test_of_files_that_are_handed_over_as_bytes_few_are_held(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TASK_BYTES", 2 * len(encoded(0, 100)))
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield encoded(number, 100)

    for number, _ in enumerate(stream(detector, images(), batch_size=32, threads=2)):
        assert taken <= number + 1 + 8


@pytest.mark.timeout(60)
def test_who_stops_asking_waits_for_no_answer_and_no_run_goes_on(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException | None] = []
    started = threading.Event()

    class NeverEnding:
        def run(self, outputs: object, inputs: object, options: object) -> None:
            started.set()
            while not options.terminate:  # type: ignore[attr-defined]
                time.sleep(0.001)
            ended.append(None)
            raise RuntimeError("terminated")

    monkeypatch.setattr(Detector, "session", NeverEnding())
    answers = stream(detector, (encoded(number) for number in range(1000)), threads=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=lambda: (started.wait(), os.kill(os.getpid(), signal.SIGINT))).start()
        with pytest.raises(KeyboardInterrupt):
            list(answers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 1 <= len(ended) <= 2  # all that had begun


def test_a_pool_gives_results_in_order_and_raises_what_its_work_raised() -> None:
    with Pool(4, lambda number: (time.sleep(0.001 * (10 - number)), 10 // (number - 7))[1]) as pool:
        for number in range(10):
            pool.put(number)
        assert [pool.get() for _ in range(7)] == [10 // (number - 7) for number in range(7)]
        with pytest.raises(ZeroDivisionError):
            pool.get()
        assert len(pool) == 2
