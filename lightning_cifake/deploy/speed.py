"""How fast a model answers, from pixels to probabilities."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lightning_cifake.deploy.detector import Detector


def time_inference(answer: Callable[[np.ndarray], Any], size: int, batch: int, repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted: the first of a size allocates.

    Args:
        answer: is given (batch, size, size, 3) uint8.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    answer(images)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer(images)
        taken.append(time.perf_counter() - started)
    return taken


def measure_speed(detector: "Detector") -> dict[str, Any]:
    """Milliseconds for one image of the model's size, and images/s in batches of 32; a few seconds in all.

    As a caller has it, from pixels to answers, resize and scaling included; the machine may be doing other work.
    """

    def answer(images: np.ndarray) -> Any:
        return detector.prob_real(list(images))

    single = sorted(time_inference(answer, detector.image_size, 1, 100))
    batch = statistics.median(time_inference(answer, detector.image_size, 32, 10))
    return {
        "threads": detector.threads,
        "one_image_ms": {"p50": 1e3 * single[49], "p95": 1e3 * single[94]},
        "images_per_second_batch_32": 32 / batch,
    }
