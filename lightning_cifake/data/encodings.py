"""How each image's file held it, and whether that alone tells the classes apart: then a model need not look."""

from collections.abc import Iterable

import numpy as np

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.image_file import DecodedImage

# of one file: Pillow's names of its format and mode (ASCII), and its size in pixels before it was resized
ENCODING = np.dtype([("format", "S8"), ("mode", "S4"), ("width", "<u4"), ("height", "<u4")])
GIVEN_AWAY = 0.75  # balanced accuracy from a file's form alone; .5 is chance
_RARE = 0.02  # values that fewer images than this share has are taken together: each would fit its images by accident


def encodings_of(images: Iterable[DecodedImage]) -> np.ndarray:
    """(N,) :data:`ENCODING`."""
    return np.array([(each.format, each.mode, each.width, each.height) for each in images], ENCODING)


def giveaways(encodings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well ``format``, ``mode`` and ``size`` alone tell the classes apart, as balanced accuracy from .5 to 1.

    Args:
        encodings: (N,) :data:`ENCODING`.
        labels: (N,) 0 or 1. Without both classes nothing is told apart.
    """
    if len(encodings) != len(labels) or len(np.unique(labels)) < 2:
        return {"format": 0.5, "mode": 0.5, "size": 0.5}
    if (encodings == encodings[0]).all():
        return {"format": 0.5, "mode": 0.5, "size": 0.5}
    pixels = encodings["width"].astype(np.int64) * encodings["height"]
    shape = encodings["width"].astype(np.int64) << 32 | encodings["height"]
    return {
        "format": _by_value(encodings["format"], labels),
        "mode": _by_value(encodings["mode"], labels),
        "size": max(_by_value(shape, labels), _by_threshold(pixels, labels)),
    }


def _by_value(values: np.ndarray, labels: np.ndarray) -> float:
    """The best rule that looks each value up: half the total variation between the classes, above a half."""
    _, number = np.unique(values, return_inverse=True)
    fake, real = (np.bincount(number[labels == label], minlength=number.max() + 1) for label in (0, 1))
    rare = fake + real < max(2, _RARE * len(labels))
    shares = [np.append(counts[~rare], counts[rare].sum()) / counts.sum() for counts in (fake, real)]
    return 0.5 + float(np.abs(shares[0] - shares[1]).sum()) / 4


def _by_threshold(values: np.ndarray, labels: np.ndarray) -> float:
    """The best rule that says one class below a value and the other above it."""
    found = np.unique(values)
    fake, real = (
        np.searchsorted(np.sort(values[labels == label]), found, side="right") / (labels == label).sum()
        for label in (0, 1)
    )
    return 0.5 + float(np.abs(fake - real).max()) / 2


def describe_giveaway(name: str, encodings: np.ndarray, labels: np.ndarray) -> str:
    """What each class has most of, as ``FAKE: 60 of 60 PNG, REAL: 58 of 60 JPEG``."""
    parts = []
    for label, class_name in enumerate(CLASS_NAMES):
        of_class = encodings[labels == label]
        if name == "size":
            shown, counts = np.unique(of_class[["width", "height"]], return_counts=True)
            width, height = shown[counts.argmax()]
            value = f"{width}x{height}"
        else:
            shown, counts = np.unique(of_class[name], return_counts=True)
            value = shown[counts.argmax()].decode()
        parts.append(f"{class_name}: {counts.max():,} of {len(of_class):,} {value}")
    return ", ".join(parts)
