"""Real images to compare or measure a model on, and what is known of their part in its training."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.data.decode import DEMO, ImageSet, load_images
from lightning_cifake.data.protocols import Protocol, Split, load_split, make_split, read_split, spread
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.run_folder import SPLIT, read_config
from lightning_cifake.text import printable

log = logging.getLogger(__name__)


class RealImages(NamedTuple):
    """Decoded images and their split.

    Attributes:
        images: all of the source.
        split: the run's own where ``of_run``, else one that is made here.
        of_run: it is the split that the model was trained by.
    """

    images: ImageSet
    split: Split
    of_run: bool

    def take(self, part: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(n, S, S, 3) uint8 and (n,) labels, FAKE = 0, of ``train``, ``val`` or ``test``; a count of
        them as :func:`~lightning_cifake.data.protocols.spread` draws it."""
        indices = self.indices(part, count)
        return self.images.images[indices], self.images.labels[indices]

    def indices(self, part: str, count: int | None = None) -> np.ndarray:
        """(n,) int64 into the images, in the source's order, class by class."""
        return spread(np.sort(getattr(self.split, part)), count)


def real_images(checkpoint: Path, root: str | None, image_size: int, classes: str | None = None) -> RealImages:
    """The images of the run that a checkpoint comes from, or those that are named; the demo where there are neither.

    Args:
        checkpoint: beside it lie the run's config.yaml, which names its data, and split.json.
        root: as ``--data.root``.
        image_size: that of the model.
        classes: as ``--data.classes``; with the run's own images as the run was given them.

    Raises:
        UserError: the images cannot be had; split.json is damaged, or of other images than those of the run.
    """
    named = root
    if root is None:
        of_run = _data_of_run(checkpoint)
        root, classes = of_run.get("root"), classes or of_run.get("classes")
    gone = named is None and root is not None and root != DEMO and not expand_user(root).exists()
    if root is None or gone:
        what = f"the run's data, {printable(root)}, are not there" if gone else "no run's config.yaml lies beside it"
        log.warning("%s: compared on the built-in demo images, whose accuracies mean nothing; see --data.root", what)
        root = DEMO
    images = load_images(root, 32 if root == DEMO else image_size, classes=classes)
    split = split_of_run(checkpoint.parent / SPLIT, images)
    if split is not None:
        return RealImages(images, split, True)
    if (checkpoint.parent / SPLIT).exists() and named is None and not gone:
        raise UserError(
            f"{printable(checkpoint.parent / SPLIT)} was written for other images than {printable(root)}, so what was "
            "trained on is not known: put the run's own split.json or its data back, or name images with --data.root"
        )
    protocol: Protocol = "official" if {"train", "test"} <= set(images.parts) else "clean"
    return RealImages(images, make_split(images, protocol, pool="all"), False)


def split_of_run(path: Path, images: ImageSet) -> Split | None:
    """The split of a run where it is of these images; None where it is of others, or there is no such file.

    Raises:
        UserError: the file is there, and damaged.
    """
    if not path.exists():
        return None
    try:
        return read_split(path, images) if load_split(path).data_digest == images.digest else None
    except UserError as error:
        raise UserError(f"{error}; put it back, or move it away to do without the run's split") from error


def _data_of_run(checkpoint: Path) -> dict[str, str]:
    """``root`` and ``classes`` as the run was given them."""
    try:
        config = read_config(checkpoint.parent, ("data",))
    except UserError as error:
        raise UserError(f"{error}; or name the images with --data.root") from error
    data = config.values.get("data", {}) if config is not None else {}
    return {name: data[name] for name in ("root", "classes") if isinstance(data.get(name), str)}
