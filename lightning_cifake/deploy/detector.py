"""Detector: an exported model that answers, with numpy, onnxruntime and an image decoder; no torch, no TensorFlow."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.data.resize import Picture, thin
from lightning_cifake.deploy import interruptible
from lightning_cifake.deploy.answers import Prediction
from lightning_cifake.deploy.digest import KEY, DigestCheck, ModelDigest, check_origin, damaged
from lightning_cifake.deploy.larger import Larger
from lightning_cifake.deploy.load import Image
from lightning_cifake.deploy.session import check_file, onnx_reason, open_session, read_facts
from lightning_cifake.deploy.stream import check_options, stream
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores
from lightning_cifake.shipped import model_file
from lightning_cifake.text import printable


class Detector:
    """Tells AI-generated images from photographs with a file that ``python -m lightning_cifake export`` wrote.

        detector = Detector()  # the released model; Detector("model.onnx") for another, "best" for the most accurate
        for answer in detector.predict(["photo.jpg", "other.png"]):
            print(answer.path, answer.verdict, answer.prob_real, answer.warning)

    It can be used by several threads at once, pickled, and used in forked processes: each process opens the file for
    itself, when it first asks.

    Args:
        model: the file, or the name of a model that comes with the package (``predict --help`` lists them; a file of
            such a name is ``Path("best")``); by default the one that ``predict`` asks.
        threads: how many the model may use; all cores by default.

    Attributes:
        checked: the file is what export wrote, to the last byte: by the digest in it, or the manifest beside it. A file
            without either is taken, with a warning in the log.

    Raises:
        UserError: no such name or file, damaged, or not a model of this project.
    """

    many_threads = True
    """Several may ask it at once, each about a few images of a long row."""

    def __init__(self, model: Path | str | None = None, threads: int | None = None) -> None:
        check_options(threads=threads)
        self.path = model_file(model)
        self.threads = threads or cores()
        session, digest = self._open()
        self.facts = read_facts(self.path, session)
        if KEY in self.facts.metadata and not digest.checked:  # not at the end, where export put it
            raise damaged(self.path)
        self.checked = check_origin(self.path, digest)
        self.sha256 = digest.sha256
        self._session, self._process = session, os.getpid()

    def _open(self) -> tuple[Any, ModelDigest]:
        check_file(self.path)
        with DigestCheck(self.path) as check:
            session = open_session(self.path, self.threads)
        return session, check.found

    @property
    def session(self) -> Any:
        """onnxruntime's, of this process: its threads are not in a forked one, nor can it be pickled."""
        if self._process != os.getpid():
            session, digest = self._open()
            if digest.sha256 != self.sha256:
                raise UserError(
                    f"{printable(self.path)} was changed since it was opened: expected SHA-256 {self.sha256}, got "
                    f"{digest.sha256}"
                )
            self._session = session  # before the next line: another thread may come in between, and open one more
            self._process = os.getpid()
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        # the file stays where it is: the process that this goes to reads it there, and checks that it is the same
        return {**self.__dict__, "path": self.path.absolute(), "_session": None, "_process": None}

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
        larger: Larger = "resize",
    ) -> list[Prediction]:
        """Answers in order, one an image.

        Args:
            images: one or many, in a list, a generator, or an array or tensor with one dimension more. Each is a path,
                a file's bytes, a file that is open for reading bytes, a PIL image, or uint8 pixels: an array (H, W, 3)
                RGB, (H, W) grey or (H, W, 4) RGBA, whose transparency is dropped, or a tensor (3, H, W). Floats are
                refused: their range is not known. A file that cannot be read gives an answer with its error.
            uncertain: (low, high): the verdict is UNCERTAIN where low <= P(REAL) <= high.
            batch_size: images at once.
            larger: what is done with a picture larger than the model looks at: ``resize`` scales it to the model's
                size, ``crop`` takes the middle square of that size, ``tiles`` takes up to 16 such squares, whose mean
                logit decides.

        Raises:
            UserError: something that is no image, an uncertain band outside 0 to 1, a batch size below 1, no policy.
        """
        return list(stream(self, images, uncertain, batch_size, self.threads, larger))

    def prepare(self, picture: Picture) -> np.ndarray:
        """An image -> less than 4 S pixels a side, of which the model's graph makes what it makes of the whole."""
        return thin(picture, self.image_size)

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32 P(REAL)."""
        return self._by_shape(images)[0]

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32 logits of P(REAL)."""
        return self._by_shape(images)[1]

    def _by_shape(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`run`, of images of any sizes: those of one size go through together."""
        prob, logit = np.empty((2, len(images)), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for at, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(at)
        for places in shapes.values():
            prob[places], logit[places] = self.run(np.stack([images[at] for at in places]))
        return prob, logit

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W, 3) uint8 -> ``prob_real`` (N,) and ``logit`` (N,), float32."""
        if self.facts.input_type == "float32":
            images = images.astype(np.float32) / 255
        try:
            prob, logit = interruptible.run(self.session, ["prob_real", "logit"], {"images": images})
        except UserError:
            raise
        except Exception as error:  # onnxruntime's own kinds share no base
            raise UserError(
                f"{printable(self.path)} fails on images of {images.shape} ({onnx_reason(error)})"
            ) from error
        if prob.shape != (len(images),) or logit.shape != (len(images),):
            raise UserError(
                f"{printable(self.path)} is another model: expected {len(images)} answers to as many images, got "
                f"{prob.shape}"
            )
        return prob, logit
