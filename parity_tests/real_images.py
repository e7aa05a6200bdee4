"""Real images that both sides are given: CIFAKE's, or the built-in demo's where CIFAKE is not at hand."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.data.decode import DEMO, ImageSet, load_images
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.sources import Source, open_source


@cache
def cifake(root: str | Path) -> Source:
    """CIFAKE's files, listed once a process: its zip takes two seconds."""
    return open_source(Path(root))


class Numbered(NamedTuple):
    label: int
    number: int


def real_images(root: str | None, demo_cache: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """256 images of CIFAKE's test part, as many of each class, or of the built-in demo where there is no root.

    (256, 32, 32, 3) uint8 and (256,) uint8 labels, FAKE = 0, REAL = 1, in an order that mixes them.
    """
    rng = np.random.default_rng(0)
    if root:
        source = cifake(root)
        entries = _draw([entry for entry in source.entries if entry.part == "test"], rng)
        return (
            np.stack([decode_image(source.read(entry.path)) for entry in entries]),
            np.array([entry.label for entry in entries], np.uint8),
        )
    demo = load_images(DEMO, cache_dir=demo_cache)
    chosen = [i for _, i in _draw([Numbered(label, i) for i, label in enumerate(demo.labels)], rng)]
    return np.array(demo.images[chosen]), demo.labels[chosen]


def _draw(images: list, rng: np.random.Generator, of_each: int = 128) -> list:
    of_class = [[image for image in images if image.label == label] for label in (0, 1)]
    drawn_ones = [one[i] for one in of_class for i in rng.choice(len(one), of_each, replace=False)]
    return [drawn_ones[i] for i in rng.permutation(len(drawn_ones))]


def drawn(images: ImageSet, part: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images of a part, half of each class, mixed; some twice where they are few.

    (count, S, S, 3) float32 in [0, 1] and (count,) float32 labels.
    """
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(np.isin(images.parts, (part, "")) & (images.labels == label)) for label in (0, 1)]
    index = np.concatenate([rng.choice(one, count // 2, replace=len(one) < count // 2) for one in of_class])
    index = rng.permutation(index)
    return images.images[index].astype(np.float32) / 255, images.labels[index].astype(np.float32)
