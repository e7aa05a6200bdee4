"""The images that a threshold may be chosen on: validation images, never test images, nor what the model has learnt."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.assessment.images import (
    Asked,
    LabelledImages,
    open_images,
    seen_by,
    split_of_training,
)
from lightning_cifake.assessment.models import Model
from lightning_cifake.assessment.of_cifake import of_cifake
from lightning_cifake.data.protocols import Split, make_split, spread
from lightning_cifake.deploy.real_images import split_of_run
from lightning_cifake.errors import UserError
from lightning_cifake.run_folder import SPLIT
from lightning_cifake.text import printable

FEWEST_EACH = 10  # images of a class; fewer say next to nothing
WOULD_BE = "the val images that protocol official cuts from its train part"
OF_TEST = "test images, or duplicates of one, kept for the figures of the end"


class Chosen(NamedTuple):
    """What is calibrated on.

    Attributes:
        images: of both classes.
        refused: why -> how many images were left out for it.
        known: how it is known what the model was trained on, in words.
    """

    images: LabelledImages
    refused: dict[str, int]
    known: str


def validation_images(asked: Asked, model: Model, cache_dir: Path | str | None = None) -> Chosen:
    """Chooses them. In this order: the part of the split that is named; that of the model's own training, where it is
    known and was on this source; the source's own val part; what ``official`` cuts from its train part; all of it.

    Args:
        asked: ``part`` is not looked at.
        model: that is to be calibrated.
        cache_dir: as :func:`open_images`.

    Raises:
        UserError: as :func:`open_images`, or too few images are left.
    """
    everything = open_images(asked._replace(part="all", sample=None), model.image_size, cache_dir)
    source = everything.source
    split, about = _split(asked, everything, model)
    if split is not None:
        indices = np.sort(split.val)
    elif (source.parts == "val").any():
        indices, about = np.flatnonzero(source.parts == "val"), "its own val part"
    else:
        indices, about = everything.indices, "all images"
    indices = np.intersect1d(indices, everything.indices)  # without those that are excluded
    images = replace(everything, indices=indices, split=split, about=about, groups={})
    seen, known = _seen(images, model, about)
    test = _test_images(images)
    trained = seen & ~test
    refused = {OF_TEST: int(test.sum()), f"images that the model was trained on ({known})": int(trained.sum())}
    refused = {why: count for why, count in refused.items() if count}
    kept = images.take(spread(np.flatnonzero(~(test | trained)), asked.sample))
    fake, real = np.bincount(kept.labels, minlength=2)
    if min(fake, real) < FEWEST_EACH:
        lines = "".join(f"; refused: {line}" for line in refusals(refused))
        hint = "; name the split that it was trained by, with --data.split_file or --data.protocol"
        raise UserError(
            f"expected at least {FEWEST_EACH} validation images of each class, got {fake} FAKE and {real} REAL of "
            f"{printable(source.name)} ({about}){lines}{hint if trained.any() else ''}"
        )
    return Chosen(kept, refused, known)


def refusals(refused: dict[str, int]) -> list[str]:
    """``test images, kept for ...: 200``, a line each."""
    return [f"{why}: {count:,}" for why, count in refused.items()]


def _split(asked: Asked, everything: LabelledImages, model: Model) -> tuple[Split | None, str]:
    source = everything.source
    if everything.split is not None:
        named = f"of {asked.split_file.name}" if asked.split_file is not None else f"of protocol {asked.protocol}"
        return everything.split, f"the val images {named}"
    if (split := split_of_run(model.file.parent / SPLIT, source)) is not None:
        return split, f"the val images of {SPLIT} beside the model"
    if model.training.get("data_digest") == source.digest and (split := split_of_training(model.training, source)):
        return split, "the val images of its training's split, drawn again"
    if not (source.parts == "val").any() and {"train", "test"} <= set(source.parts):
        return make_split(source, "official"), WOULD_BE
    return None, ""


def _seen(images: LabelledImages, model: Model, about: str) -> tuple[np.ndarray, str]:
    """(N,) bool, and by what it is known."""
    seen = seen_by(model.record, model.training, images)
    split = images.split
    supposed = seen.mask is None or "supposed" in seen.how
    if split is not None and supposed and about != WOULD_BE:
        mask = np.isin(images.source.groups[images.indices], images.source.groups[split.train])
        return mask, f"its training is taken to be that {about.removeprefix('the val images ')}"
    if seen.mask is None:
        return np.zeros(len(images), bool), "not known: whether the model was trained on any of these images"
    return seen.mask, seen.how


def _test_images(images: LabelledImages) -> np.ndarray:
    """(N,) bool: in a test part, or twin of an image there, or of CIFAKE's test part, under whatever name."""
    source = images.source
    in_part = np.isin(source.groups[images.indices], source.groups[source.parts == "test"])
    return in_part | of_cifake(images).test
