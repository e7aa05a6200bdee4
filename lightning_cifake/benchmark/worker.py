"""One engine in a process of its own, which measures when it is told to: python -m lightning_cifake.benchmark.worker

    worker lightning best.ckpt 2        worker onnxruntime model.onnx 2        worker keras model.keras 2

Reads a JSON object a line: {"batch": 32, "repeats": 3} is answered with {"seconds": [...]}, one a repeat, from
(N, S, S, 3) uint8 pixels to N probabilities; {"file": "a.png"} with {"prob_real": ...}; the end of input with
{"peak_mib": ...}. Between two lines it does nothing, so that several can take turns.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.machine import peak_memory

Answer = Callable[[np.ndarray], np.ndarray]  # (N, S, S, 3) uint8 -> (N,) P(REAL)


def lightning(path: Path, threads: int) -> tuple[Answer, int]:
    """A checkpoint through Lightning's own model, as ``predict --ckpt_path`` asks it."""
    import torch

    from lightning_cifake.deploy.predict import ClassifierModel, load_classifier

    torch.set_num_threads(threads)
    model = ClassifierModel(load_classifier(path))
    return lambda images: model.prob_real(list(images)), model.image_size


def onnxruntime(path: Path, threads: int) -> tuple[Answer, int]:
    """An exported model through Detector, as ``predict --model`` asks it."""
    from lightning_cifake.deploy.detector import Detector

    detector = Detector(path, threads)
    return lambda images: detector.prob_real(list(images)), detector.image_size


def keras(path: Path, threads: int) -> tuple[Answer, int]:
    """A Keras model through ``model.predict``, in batches of what it is given at once."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    model = keras.models.load_model(path)

    def answer(images: np.ndarray) -> np.ndarray:
        return model.predict(images.astype(np.float32) / 255, batch_size=len(images), verbose=0)[:, 0]

    return answer, int(model.input_shape[1])


ENGINES: dict[str, Callable[[Path, int], tuple[Answer, int]]] = {
    "lightning": lightning,
    "onnxruntime": onnxruntime,
    "keras": keras,
}


def measure(answer: Answer, size: int, batch: int, repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted: the first of a size allocates."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    answer(images)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer(images)
        taken.append(time.perf_counter() - started)
    return taken


def main() -> int:
    engine, path, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is not taken for a reply
    answer, size = ENGINES[engine](path, threads)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "file" in asked:
            from lightning_cifake.data.image_file import decode_image

            file = Path(asked["file"])
            image = decode_image(file.read_bytes(), file.suffix, size)
            reply: dict[str, Any] = {"prob_real": float(answer(image[None])[0])}
        else:
            reply = {"seconds": measure(answer, size, asked["batch"], asked["repeats"])}
        print(json.dumps(reply), file=replies, flush=True)
    print(json.dumps({"peak_mib": peak_memory()}), file=replies, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
