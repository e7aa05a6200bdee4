"""On which images a model's threshold was chosen: short digests of their pixels, which the model carries.

A figure measured on these images flatters the threshold. ``evaluate`` counts them with those that were trained on.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from lightning_cifake.assessment.images import LabelledImages, Seen
from lightning_cifake.evaluation.calibration import KEY
from lightning_cifake.evaluation.checkpoint_calibration import PIXELS


def digests_of(images: LabelledImages) -> np.ndarray:
    """(N,) uint32, of each image's pixels at the model's size, wherever the image lies."""
    found = [
        hashlib.blake2b(image.tobytes(), digest_size=4).digest() for image in map(np.ascontiguousarray, images.pixels())
    ]
    return np.frombuffer(b"".join(found), "<u4")


def as_text(digests: np.ndarray) -> str:
    """For the model's metadata."""
    return base64.b64encode(np.unique(digests).astype("<u4").tobytes()).decode()


def with_chosen_on(seen: Seen, metadata: Mapping[str, str], images: LabelledImages) -> Seen:
    """What a model was trained on, and what its threshold was chosen on.

    Args:
        seen: the former.
        metadata: the model's, as text.
        images: what is measured on.
    """
    try:
        held = base64.b64decode(json.loads(metadata[KEY])[PIXELS], validate=True)
        chosen = np.isin(digests_of(images), np.frombuffer(held, "<u4"))
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error):  # none, or not calibrated by calibrate
        return seen
    if not chosen.any():
        return seen
    mask = chosen if seen.mask is None else chosen | seen.mask
    return Seen(mask, f"{seen.how}; its threshold was chosen on {int(chosen.sum()):,} of these images")
