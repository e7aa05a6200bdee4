"""Labelled images once more at the size of their files, for what must not begin with images of the model's size.

The images of :mod:`~lightning_cifake.assessment.images` are decoded to the model's size. Where all files have that
size these are the originals; else the files are read again, a few ahead, and none is held.
"""

from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import track

from lightning_cifake.assessment.images import LabelledImages
from lightning_cifake.assessment.models import BATCH_BYTES, Model
from lightning_cifake.data.resize import Picture
from lightning_cifake.deploy.larger import Larger, under
from lightning_cifake.deploy.load import Encoded, Image
from lightning_cifake.deploy.stream import load_ahead
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores
from lightning_cifake.text import printable, reason_of

Prepare = Callable[[Picture], np.ndarray]


def has_larger(images: LabelledImages) -> bool:
    """Whether some file holds an image of another size than the model's, so that there is more to see in it."""
    encodings, size = images.source.encodings, images.image_size
    if not len(encodings):
        return False
    of_these = encodings[images.indices]
    return bool((of_these["width"] != size).any() or (of_these["height"] != size).any())


def prepared(
    images: LabelledImages, prepare: Prepare, said: str | None = None, threads: int | None = None
) -> Iterator[np.ndarray]:
    """What ``prepare`` makes of each image at its own size, in order.

    Args:
        images: N of them.
        prepare: is called in several threads.
        said: of the progress bar; None for none.
        threads: that decode and prepare; all cores by default.

    Raises:
        UserError: a file that could be read is damaged or gone now, or cannot be prepared.
    """
    shown = track(
        load_ahead(_contents(images), prepare, threads or cores()),
        said or "",
        total=len(images),
        console=Console(stderr=True),
        disable=said is None,
    )
    for loaded in shown:
        if loaded.pixels is None:
            raise UserError(f"cannot measure on {printable(loaded.name)}: {loaded.error}")
        yield loaded.pixels


def logits_under(
    model: Model, images: LabelledImages, larger: Larger = "resize", threads: int | None = None
) -> np.ndarray:
    """(N,) float32: a model's logits where larger pictures are looked at by a policy.

    Args:
        model: what is asked.
        images: N of them.
        larger: as :func:`~lightning_cifake.deploy.larger.under` takes it.
        threads: that decode; all cores by default.

    Raises:
        UserError: no such policy; as :func:`prepared`.
    """
    policy = under(model, larger)
    if larger == "resize" or not has_larger(images):
        # an image of the model's size is one tile, whatever the policy
        return model.logits(images.pixels())
    said = f"{printable(model.name)}, {larger}: {len(images):,} images"
    return in_batches(policy.logits, prepared(images, policy.prepare, said, threads))


def in_batches(logits: Callable[[list[np.ndarray]], np.ndarray], arrays: Iterator[np.ndarray]) -> np.ndarray:
    """``logits`` of all arrays, of so many at once as stay within the bytes that a batch may have."""
    parts: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    size = 0
    for array in arrays:
        batch.append(array)
        size += array.nbytes
        if size >= BATCH_BYTES:
            parts.append(logits(batch))
            batch, size = [], 0
    if batch:
        parts.append(logits(batch))
    return np.concatenate(parts)


def _contents(images: LabelledImages) -> Iterator[Image]:
    if not has_larger(images):
        yield from (images.pixels(slice(at, at + 1))[0] for at in range(len(images)))
        return
    assert images.files is not None  # images without files have one size
    read = images.files().read
    for name in images.names:
        try:
            yield Encoded(name, read(name))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"cannot read {printable(name)} again: {reason_of(error)}") from error
