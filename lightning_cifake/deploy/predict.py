"""A checkpoint's answers about images, through Lightning's own model; :mod:`detector` gives an exported model's."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.resize import Picture, resize_square
from lightning_cifake.deploy.answers import Prediction
from lightning_cifake.deploy.larger import Larger, check_larger
from lightning_cifake.deploy.load import Image
from lightning_cifake.deploy.loaded_model import load_model
from lightning_cifake.deploy.stream import check_options, stream
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration, read_calibration
from lightning_cifake.evaluation.metrics import THRESHOLD
from lightning_cifake.files import expand_user
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.machine import cores
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.resume import restored


def load_classifier(checkpoint: Path | str) -> FakeImageClassifier:
    """The model of a checkpoint, or of a Keras file, in eval mode, read without running code from it.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    path = expand_user(checkpoint)
    if is_keras_file(path):
        return load_model(path).classifier
    return restored(read_checkpoint(path), path)


class ClassifierModel:
    """What :func:`stream.stream` asks of a model, answered by a classifier in float32 on the CPU.

    Args:
        classifier: the network and what it looks at.
        calibrated: what its logits are made, and the threshold; without it they are its own, at 1/2.
    """

    def __init__(self, classifier: FakeImageClassifier, calibrated: CheckpointCalibration | None = None) -> None:
        self.classifier = classifier.eval()
        self.image_size = classifier.image_size
        self.threshold = THRESHOLD if calibrated is None else calibrated.threshold
        self._calibration = None if calibrated is None else calibrated.calibration

    def prepare(self, picture: Picture) -> np.ndarray:
        """An image -> (S, S, 3) uint8, as training gets it."""
        return resize_square(picture, self.image_size)

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32 P(REAL)."""
        return torch.from_numpy(self.logits(images)).sigmoid().numpy()

    @torch.inference_mode()
    def logits(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32."""
        squares = np.stack([resize_square(image, self.image_size) for image in images])
        return self._calibrated(self.classifier(to_float(torch.from_numpy(squares))).numpy())

    @torch.inference_mode()
    def logits_of_floats(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) float32 in [0, 1] -> (N,) float32."""
        return self._calibrated(self.classifier(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy())

    def _calibrated(self, logits: np.ndarray) -> np.ndarray:
        return logits if self._calibration is None else self._calibration(logits)


def checkpoint_model(checkpoint: Path | str) -> ClassifierModel:
    """A checkpoint, or a Keras file, as it answers: by what ``calibrate`` left beside it, where it did.

    Raises:
        UserError: as :func:`load_classifier`; the calibration is damaged, or of another checkpoint.
    """
    path = expand_user(checkpoint)
    return ClassifierModel(load_classifier(path), read_calibration(path))


def predict_files(
    checkpoint: Path | str,
    paths: Image | Iterable[Image],
    batch_size: int = 256,
    uncertain: tuple[float, float] | None = None,
    larger: Larger = "resize",
) -> Iterator[Prediction]:
    """Asks a checkpoint about images, in order; a file that cannot be read gives an answer with its error.

    Args:
        checkpoint: of ``fit``.
        paths: one path or many; or whatever else :meth:`Detector.predict` takes.
        batch_size: images at once.
        uncertain: (low, high): the verdict is UNCERTAIN where low <= P(REAL) <= high.
        larger: what is done with larger pictures, as :meth:`Detector.predict` takes it.

    Raises:
        UserError: at the call, the checkpoint cannot be used, or the arguments make no sense.
    """
    check_options(uncertain, batch_size)
    check_larger(larger)
    return stream(checkpoint_model(checkpoint), paths, uncertain, batch_size, cores(), larger)


def _one_thread() -> None:
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # OpenMP's threads are not in a forked child, which would wait for them for ever: there torch computes with one, as
    # it does in the workers of its own DataLoader
    os.register_at_fork(after_in_child=_one_thread)
