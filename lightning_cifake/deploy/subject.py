"""What is to be exported and held against its export: the model, what is known of its training, and real images."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lightning_cifake.data.decode import DEMO, ImageSet, load_images
from lightning_cifake.data.protocols import Protocol, Split, make_split, read_split
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.files import sha256_of
from lightning_cifake.model.classifier import FakeImageClassifier
from lightning_cifake.model.keras_files import is_keras_file

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """``training`` holds what is known of it: protocol, data, data_digest, epochs; little for a Keras file."""

    path: Path
    sha256: str
    classifier: FakeImageClassifier
    training: dict[str, Any]


class RealImages(NamedTuple):
    """Decoded images and their split; ``of_run`` where it is the split that the model was trained by."""

    images: ImageSet
    split: Split
    of_run: bool

    def take(self, part: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(n, S, S, 3) uint8 and (n,) labels, FAKE = 0, of ``train``, ``val`` or ``test``; evenly spaced to a count."""
        indices = self.indices(part, count)
        return self.images.images[indices], self.images.labels[indices]

    def indices(self, part: str, count: int | None = None) -> np.ndarray:
        """(n,) int64 into the images, in the source's order, class by class."""
        indices = np.sort(getattr(self.split, part))
        if count is not None and count < len(indices):
            indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
        return indices


def load_subject(path: Path, head: str | None = None, image_size: int | None = None) -> Subject:
    """A checkpoint, or a Keras file through the converter; in float32 and eval mode, without running code from it.

    Args:
        path: ``.ckpt``, ``.keras``, ``.h5`` or ``.weights.h5``.
        head, image_size: what a Keras file of weights alone does not tell.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    if is_keras_file(path):
        from lightning_cifake.model.keras_import import import_keras
        from lightning_cifake.training.convert import LEARNING_RATE, LR_DECAY, make_classifier

        imported = import_keras(path, head, image_size)
        if imported.head is None:
            raise UserError(f"{path} is a backbone alone: there is no head in it that decides anything")
        classifier = make_classifier(imported, LEARNING_RATE, LR_DECAY)
    else:
        if head is not None or image_size is not None:
            raise UserError("--head and --image_size are for Keras's files of weights: a checkpoint tells them itself")
        classifier = load_classifier(path)
    digest = sha256_of(path)
    return Subject(path, digest, classifier.float().eval(), _training(path, digest))


def _training(path: Path, digest: str) -> dict[str, Any]:
    """From metrics.json beside the checkpoint, where it is of this very file, else from split.json."""
    metrics = _read_json(path.parent / "metrics.json")
    if metrics.get("checkpoint_sha256") == digest:
        known = ("protocol", "data", "data_digest", "split_seed", "sample", "split_sizes", "epochs", "versions")
        return {name: metrics[name] for name in known if name in metrics}
    split = _read_json(path.parent / "split.json")
    return {name: split[name] for name in ("protocol", "data_digest") if name in split}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def real_images(checkpoint: Path, root: str | None, image_size: int) -> RealImages:
    """The images of the run that a checkpoint comes from, or those that are named; the demo where there are neither.

    Args:
        checkpoint: beside it lie the run's config.yaml, which names its data, and split.json.
        root: as ``--data.root``.

    Raises:
        UserError: the images cannot be had.
    """
    named = root
    if root is None:
        root = _root_of_run(checkpoint)
    if root is None or (named is None and root != DEMO and not Path(root).exists()):
        what = "no run's config.yaml lies beside it" if root is None else f"the run's data, {root}, are not there"
        log.warning("%s: compared on the built-in demo images, whose accuracies mean nothing; see --data.root", what)
        root = DEMO
    images = load_images(root, 32 if root == DEMO else image_size)
    split_file = checkpoint.parent / "split.json"
    if _read_json(split_file).get("data_digest") == images.digest:
        return RealImages(images, read_split(split_file, images), True)
    protocol: Protocol = "official" if {"train", "test"} <= set(images.parts) else "clean"
    return RealImages(images, make_split(images, protocol, pool="all"), False)


def _root_of_run(checkpoint: Path) -> str | None:
    try:
        return str(yaml.safe_load((checkpoint.parent / "config.yaml").read_text())["data"]["root"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None
