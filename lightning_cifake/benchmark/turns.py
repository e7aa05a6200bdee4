"""The worker's side of a benchmark: it works when it is asked to, and waits between, so that several can take turns.

A JSON object a line comes in, one goes out. A training is asked for
    {"first": "step"}   answered when the process's first training step has been taken,
    {"first": "epoch"}  answered at the end of its first epoch,
    {"steps": 10}       answered after so many more steps: {"seconds": ..., "images": ..., "waiting": ...}.
A network that answers is asked for
    {"batch": 32, "repeats": 3}  answered with {"seconds": [...]}, one a repeat, from pixels to probabilities,
    {"file": "a.png"}            answered with {"prob_real": ...},
    {"images": "pixels.npy"}     answered with {"prob_real": [...]}, the file's (N, S, S, 3) uint8 pixels being asked;
                                 with "exact": true in float32, whatever precision is measured.
The end of input is answered with {"peak_mib": ...}. ``tf_reference.benchmark`` speaks the same.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lightning_cifake.deploy.speed import time_inference
from lightning_cifake.machine import peak_memory

Answer = Callable[[np.ndarray], np.ndarray]  # (N, S, S, 3) uint8 -> (N,) P(REAL)


class Replies:
    """Standard output for replies alone: what a framework prints goes to standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=self._file, flush=True)


class Turns:
    """What a training tells of its progress; it is held inside these calls while others have their turn.

    A step lasts from the end of the one before it to its own end: the data, the update, the metrics and the loop's own
    work. The first step of an epoch is left out, with whatever is done between two epochs.

    Args:
        synchronise: waits for the device, so that what was only queued is counted.
    """

    def __init__(self, replies: Replies, synchronise: Callable[[], None] = lambda: None) -> None:
        self.replies, self.synchronise = replies, synchronise  # the second may be set later, with the device
        self._asked: dict[str, Any] = {}
        self._taken: dict[str, Any] = {}
        self._before: float | None = None  # when the last step ended, and the loop began to ask for a batch
        self._wait()

    def batch_is_here(self) -> None:
        """The next step's data lie ready on the device: what passed since the last step was waiting for them."""
        if self._before is not None:
            self._taken["waiting"] += time.perf_counter() - self._before

    def step_ended(self, images: int) -> None:
        if self._before is not None:
            self._taken["steps"] += 1
            self._taken["images"] += images
        complete = self._taken["steps"] == self._asked.get("steps")
        if complete:
            self.synchronise()
        now = time.perf_counter()
        if self._before is not None:
            self._taken["seconds"] += now - self._before
        self._before = now
        if complete or self._asked.get("first") == "step":
            self._reply()

    def epoch_ended(self) -> None:
        self._before = None
        if self._asked.get("first") == "epoch":
            self._reply()

    def _reply(self) -> None:
        self.synchronise()
        self.replies.send(self._taken)
        self._wait()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            self._end()
        self._asked = json.loads(line)
        self._taken = {"steps": 0, "images": 0, "seconds": 0.0, "waiting": 0.0}
        if self._before is not None:
            self._before = time.perf_counter()

    def _end(self) -> NoReturn:
        self.replies.send({"peak_mib": peak_memory()})
        os._exit(0)  # in the middle of a training, which would save what it has


def answer_questions(replies: Replies, answer: Answer, size: int, exact: Answer | None = None) -> None:
    """Answers until the end of input; ``exact`` does in float32, where ``answer`` does not."""
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "file" in asked:
            from lightning_cifake.data.image_file import decode_image

            file = Path(asked["file"])
            image = decode_image(file.read_bytes(), size)
            replies.send({"prob_real": float(answer(image[None])[0])})
        elif "images" in asked:
            images = np.load(asked["images"], allow_pickle=False)
            ask = exact if exact is not None and asked.get("exact") else answer
            parts = [ask(images[at : at + 256]) for at in range(0, len(images), 256)]
            replies.send({"prob_real": np.concatenate(parts).astype(float).tolist()})
        else:
            replies.send({"seconds": time_inference(answer, size, asked["batch"], asked["repeats"])})
    replies.send({"peak_mib": peak_memory()})
