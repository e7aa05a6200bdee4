"""Detector: an exported model that answers, with numpy, onnxruntime and an image decoder; no torch, no TensorFlow."""

import json
import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import numpy as np

from lightning_cifake.deploy.answers import AI, REAL, Answer, decide, doubts
from lightning_cifake.deploy.inputs import Image, Loaded, load
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores

BATCH_BYTES = 32 * 2**20  # of pixels, after which a batch is full, however few images: photographs are large
CLASS_NAMES = [AI, REAL]


@dataclass(frozen=True)
class ModelFacts:
    """What an exported file says of itself.

    Attributes:
        threshold: an image is REAL where its probability is strictly above.
        temperature: what the logits were divided by; 1 where none was fitted.
        image_size: height and width of the images of training.
        input_type: ``uint8`` (0 to 255) or ``float32`` (0 to 1).
        precision: ``float32``, ``float16`` or ``int8``.
        metadata: all of it, as text: protocol, digests of checkpoint and data, versions, licence.
    """

    threshold: float
    temperature: float
    image_size: int
    input_type: str
    precision: str
    metadata: dict[str, str]


class Detector:
    """Tells AI-generated images from photographs with a file that ``python -m lightning_cifake export`` wrote.

        detector = Detector("model.onnx")
        for answer in detector.predict(["photo.jpg", "other.png"]):
            print(answer.path, answer.verdict, answer.prob_real, answer.warning)

    Args:
        model: the file.
        threads: how many the model may use; all cores by default.

    Raises:
        UserError: no such file, damaged, or not a model of this project.
    """

    def __init__(self, model: Path | str, threads: int | None = None) -> None:
        self.path = Path(model)
        self.session = open_session(self.path, threads)
        self.facts = read_facts(self.path, self.session)
        self.threads = threads or cores()

    @property
    def threshold(self) -> float:
        return self.facts.threshold

    @property
    def image_size(self) -> int:
        return self.facts.image_size

    def predict(
        self,
        images: Image | Iterable[Image],
        uncertain: tuple[float, float] | None = None,
        batch_size: int = 32,
    ) -> list[Answer]:
        """Answers in order, one an image.

        Args:
            images: one or many: paths, (H, W, 3) uint8 RGB arrays, encoded bytes; or an (N, H, W, 3) uint8 array. A
                file that cannot be read gives an answer with its error.
            uncertain: (low, high): the verdict is UNCERTAIN where low <= P(REAL) <= high.
            batch_size: images at once.

        Raises:
            UserError: an array of another form.
        """
        one = isinstance(images, (str, Path, bytes, Loaded)) or (isinstance(images, np.ndarray) and images.ndim == 3)
        several = cast("Iterable[Image]", [images] if one else images)
        return list(stream(self, several, uncertain, batch_size, self.threads))

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32 P(REAL). Images of one size go through together."""
        prob = np.empty(len(images), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for at, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(at)
        for places in shapes.values():
            prob[places] = self.run(np.stack([images[at] for at in places]))[0]
        return prob

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W, 3) uint8 -> ``prob_real`` (N,) and ``logit`` (N,), float32."""
        if self.facts.input_type == "float32":
            images = images.astype(np.float32) / 255
        try:
            prob, logit = self.session.run(["prob_real", "logit"], {"images": images})
        except Exception as error:  # onnxruntime's own kinds share no base
            raise UserError(f"{self.path} fails on images of {images.shape} ({_reason(error)})") from error
        if prob.shape != (len(images),) or logit.shape != (len(images),):
            raise UserError(
                f"{self.path} is another model: expected {len(images)} answers to as many images, came {prob.shape}"
            )
        return prob, logit


def stream(
    model: Any,
    images: Iterable[Image],
    uncertain: tuple[float, float] | None = None,
    batch_size: int = 32,
    threads: int = 1,
) -> Iterator[Answer]:
    """Answers in order as they are known; a few images ahead are decoded beside the model, and no more are held.

    Args:
        model: anything with ``prob_real(list of (H, W, 3) uint8) -> (N,)``, ``threshold`` and ``image_size``.
        threads: that decode.
    """
    batch: list[Loaded] = []
    size = 0
    for loaded in _loaded(images, threads):
        batch.append(loaded)
        size += 0 if loaded.pixels is None else loaded.pixels.nbytes
        if len(batch) >= batch_size or size >= BATCH_BYTES:
            yield from _answers(model, batch, uncertain)
            batch, size = [], 0
    yield from _answers(model, batch, uncertain)


def _loaded(images: Iterable[Image], threads: int) -> Iterator[Loaded]:
    """Decoded in order, at most two ahead of each thread."""
    if threads <= 1:
        yield from (load(image, number) for number, image in enumerate(images))
        return
    # not a ThreadPoolExecutor: Ctrl-C inside its submit leaves a lock held, and its end then waits for ever. These
    # queues are C, which an exception cannot leave half done, and daemon threads are not waited for.
    tasks: SimpleQueue[tuple[Image, int, SimpleQueue[Loaded | Exception]] | None] = SimpleQueue()
    ahead: deque[SimpleQueue[Loaded | Exception]] = deque()
    try:
        for _ in range(threads):
            Thread(target=_decode, args=(tasks,), daemon=True).start()
        for number, image in enumerate(images):
            ahead.append(SimpleQueue())
            tasks.put((image, number, ahead[-1]))
            if len(ahead) > 2 * threads:
                yield _result(ahead.popleft())
        while ahead:
            yield _result(ahead.popleft())
    finally:
        for _ in range(threads):
            tasks.put(None)


def _decode(tasks: "SimpleQueue[tuple[Image, int, SimpleQueue[Loaded | Exception]] | None]") -> None:
    """A thread of :func:`_loaded`: until None comes."""
    while (task := tasks.get()) is not None:
        image, number, reply = task
        try:
            reply.put(load(image, number))
        except Exception as error:
            reply.put(error)


def _result(reply: "SimpleQueue[Loaded | Exception]") -> Loaded:
    found = reply.get()
    if isinstance(found, Exception):
        raise found
    return found


def _answers(model: Any, batch: list[Loaded], uncertain: tuple[float, float] | None) -> Iterator[Answer]:
    pixels = [loaded.pixels for loaded in batch if loaded.pixels is not None]
    probabilities = iter(model.prob_real(pixels) if pixels else ())
    for loaded in batch:
        if loaded.pixels is None:
            yield Answer(loaded.name, None, None, loaded.error)
            continue
        prob = float(next(probabilities))
        height, width = loaded.pixels.shape[:2]
        yield Answer(
            loaded.name, decide(prob, model.threshold, uncertain), prob, warning=doubts(height, width, model.image_size)
        )


def open_session(path: Path, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UserError: no such file, an address, or a file that onnxruntime does not take; weights that lie outside the
            model's folder are refused by onnxruntime itself.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # Path has made one slash of two
        raise UserError(f"models are read from files only, and {path} is an address: download it first")
    if not path.is_file():
        what = "is not a file" if os.path.lexists(path) else "does not exist"
        raise UserError(f"{path} {what}: expected a model that `python -m lightning_cifake export` wrote")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: expected a model that `python -m lightning_cifake export` wrote")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    options.intra_op_num_threads = threads or cores()
    options.enable_mem_pattern = False  # plans memory for one shape; here every image may be of another
    try:
        # without its fallback, which prints and tries again what has failed
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime's own kinds share no base
        raise UserError(f"{path} cannot be loaded as an ONNX model ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What onnxruntime says, without its code and its place."""
    return (str(error).splitlines() or [type(error).__name__])[0].rpartition(" : ")[2][:200]


def read_facts(path: Path, session: Any) -> ModelFacts:
    """What the model says of itself, checked.

    Raises:
        UserError: another model's file, or metadata that are missing or make no sense.
    """
    try:
        inputs = [(each.name, each.shape, each.type) for each in session.get_inputs()]
        outputs = {each.name for each in session.get_outputs()}
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged, or another model: its inputs or metadata cannot be read") from error
    names = [name for name, _, _ in inputs]
    if names != ["images"] or len(inputs[0][1]) != 4 or not {"prob_real", "logit"} <= outputs:
        raise UserError(
            f"{path} is another model: expected images (N, H, W, 3) -> prob_real, logit, as "
            f"`python -m lightning_cifake export` writes it, came {names} -> {sorted(outputs)}"
        )
    try:
        facts = ModelFacts(
            threshold=float(metadata["decision_threshold"]),
            temperature=float(metadata["temperature"]),
            image_size=int(metadata["image_size"]),
            input_type={"tensor(uint8)": "uint8", "tensor(float)": "float32"}[inputs[0][2]],
            precision=metadata["precision"],
            metadata=metadata,
        )
        sound = 0 <= facts.threshold <= 1 and 0 < facts.temperature < math.inf and 1 <= facts.image_size <= 1024
        if json.loads(metadata["class_names"]) != CLASS_NAMES or not sound:
            raise ValueError(f"class_names {metadata['class_names']!r}, threshold {facts.threshold}")
    except (KeyError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} has not the metadata of a model of this project ({what}): export it again") from error
    return facts
