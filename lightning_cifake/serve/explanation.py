"""One picture as the network sees it, and what of it speaks for which answer: both as PNG, in data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_cifake.deploy.answers import Prediction
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.load import Encoded, Room, decode
from lightning_cifake.deploy.stream import stream
from lightning_cifake.evaluation.colours import BLUE, VERMILION, levels
from lightning_cifake.evaluation.occlusion import occlusion_map

EXPLAIN_COST = 16  # images' worth of the queue: the model is asked about some two hundred covered copies
TOWARDS_REAL, TOWARDS_AI = levels(BLUE), levels(VERMILION)
MOST_OPAQUE = 190  # of 255: the picture is seen through the strongest place


class Explained(NamedTuple):
    """Of one picture.

    Attributes:
        answer: what is said of it.
        view: it as the network sees it, S x S, a PNG in a data URI; None with an error.
        overlay: to be laid over it: blue where it speaks for REAL, orange where for AI, the clearer the less.
    """

    answer: Prediction
    view: str | None
    overlay: str | None


def explain(detector: Detector, image: Encoded, room: Room, uncertain: tuple[float, float] | None = None) -> Explained:
    """The answer of ``resize``, and its pictures."""
    loaded = decode(image, detector.prepare, room)
    (answer,) = stream(detector, [loaded], uncertain)
    if loaded.pixels is None or answer.error is not None:
        return Explained(answer, None, None)
    pixels = seen(loaded.pixels, detector.image_size)
    overlay = coloured(occlusion_map(lambda copies: detector.run(copies)[1], pixels))
    return Explained(answer, as_png(pixels), as_png(overlay))


def seen(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (S, S, 3) uint8, what the model's graph makes of it, rounded to whole values.

    Bilinear with half-pixel centres and no antialiasing, as :func:`~lightning_cifake.data.resize.resize_bilinear`,
    whose OpenCV is not needed to answer.
    """
    found = pixels.astype(np.float32)
    for axis in (0, 1):
        length = pixels.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        share = (place - low).astype(np.float32)
        share = share[:, None, None] if axis == 0 else share[:, None]
        high = np.minimum(low + 1, length - 1)
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return np.rint(found).astype(np.uint8)


def coloured(falls: np.ndarray) -> np.ndarray:
    """A map (S, S), above 0 where the model finds REAL -> (S, S, 4) uint8."""
    strength = np.abs(falls) / max(float(np.abs(falls).max()), 1e-9)
    colour = np.where((falls > 0)[..., None], TOWARDS_REAL, TOWARDS_AI)
    return np.concatenate([colour, np.rint(MOST_OPAQUE * strength)[..., None]], axis=2).astype(np.uint8)


def as_png(pixels: np.ndarray) -> str:
    """(S, S, 3) or (S, S, 4) uint8 -> a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
