"""A checkpoint's answers about images, through Lightning's own model; :mod:`detector` gives an exported model's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.resize import fit
from lightning_cifake.deploy.answers import Answer
from lightning_cifake.deploy.stream import stream
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.metrics import THRESHOLD
from lightning_cifake.model.classifier import FakeImageClassifier
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.resume import check_shapes, model_arguments


def load_classifier(checkpoint: Path | str) -> FakeImageClassifier:
    """The model of a checkpoint, in eval mode, read without running code from it.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    path = Path(checkpoint)
    content = read_checkpoint(path)
    arguments = model_arguments(content, path)
    try:
        with torch.device("meta"):  # nothing is allocated before it is known that the weights are there
            expected = FakeImageClassifier(**arguments).state_dict()
        check_shapes(path, {name: tuple(value.shape) for name, value in content["state_dict"].items()}, expected)
        classifier = FakeImageClassifier(**arguments)
        classifier.load_state_dict(content["state_dict"], strict=True)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{printable(path)} is of another model: {reason_of(error)}") from error
    return classifier.eval()


class ClassifierModel:
    """What :func:`stream.stream` asks of a model, answered by a classifier in float32 on the CPU."""

    threshold = THRESHOLD

    def __init__(self, classifier: FakeImageClassifier) -> None:
        self.classifier = classifier.eval()
        self.image_size = int(classifier.hparams["image_size"])

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays of (H, W, 3) uint8 -> (N,) float32 P(REAL)."""
        logits = torch.from_numpy(self.logits(np.stack([fit(image, self.image_size) for image in images])))
        return logits.sigmoid().numpy()

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> (N,) float32."""
        return self.classifier(to_float(torch.from_numpy(images))).numpy()

    @torch.inference_mode()
    def logits_of_floats(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) float32 in [0, 1] -> (N,) float32."""
        return self.classifier(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def predict_files(checkpoint: Path | str, paths: Sequence[Path | str], batch_size: int = 256) -> Iterator[Answer]:
    """Asks a checkpoint about files, in order; a file that cannot be read gives an answer with its error.

    Raises:
        UserError: the checkpoint cannot be used.
    """
    yield from stream(ClassifierModel(load_classifier(checkpoint)), paths, batch_size=batch_size)
