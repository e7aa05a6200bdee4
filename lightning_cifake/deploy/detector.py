"""Detector: an exported model that answers, with numpy, onnxruntime and an image decoder; no torch, no TensorFlow."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from lightning_cifake.deploy.answers import Answer
from lightning_cifake.deploy.digest import KEY, DigestCheck, check_origin, damaged
from lightning_cifake.deploy.inputs import Image, Loaded
from lightning_cifake.deploy.session import check_file, onnx_reason, open_session, read_facts
from lightning_cifake.deploy.stream import stream
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores


class Detector:
    """Tells AI-generated images from photographs with a file that ``python -m lightning_cifake export`` wrote.

        detector = Detector("model.onnx")
        for answer in detector.predict(["photo.jpg", "other.png"]):
            print(answer.path, answer.verdict, answer.prob_real, answer.warning)

    Args:
        model: the file.
        threads: how many the model may use; all cores by default.

    Attributes:
        checked: the file is what export wrote, to the last byte: by the digest in it, or the manifest beside it. A file
            without either is taken, with a warning in the log.

    Raises:
        UserError: no such file, damaged, or not a model of this project.
    """

    def __init__(self, model: Path | str, threads: int | None = None) -> None:
        self.path = Path(model)
        check_file(self.path)
        with DigestCheck(self.path) as check:
            self.session = open_session(self.path, threads)
        self.facts = read_facts(self.path, self.session)
        if KEY in self.facts.metadata and not check.found.checked:  # not at the end, where export put it
            raise damaged(self.path)
        self.checked = check_origin(self.path, check.found)
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
            raise UserError(f"{self.path} fails on images of {images.shape} ({onnx_reason(error)})") from error
        if prob.shape != (len(images),) or logit.shape != (len(images),):
            raise UserError(
                f"{self.path} is another model: expected {len(images)} answers to as many images, came {prob.shape}"
            )
        return prob, logit
