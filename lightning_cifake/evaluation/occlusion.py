"""Occlusion: how far a model's logit falls where a patch of the image is covered. Knows arrays and no model.

Source: Zeiler, Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014. Patches, strides and
baselines are those of captum's ``Occlusion``, of which a test asks the same maps.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from lightning_cifake.errors import UserError

Baseline = Literal["mean", "grey", "black"]
BASELINES = get_args(Baseline)
AT_ONCE = 64  # covered copies that are asked about together


def occlusion_map(
    logits_of: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Baseline = "mean",
) -> np.ndarray:
    """For each pixel the mean of logit(image) - logit(covered), over the patches that cover it.

    Above 0 the pixel speaks for REAL: without it the logit is lower. A patch that reaches over the edge is cut there.

    Args:
        logits_of: (N, S, S, 3) uint8 -> (N,) logits of P(REAL).
        image: (S, S, 3) uint8.
        patch: the patch's side in pixels; by default a quarter of the image's.
        stride: from one patch to the next, in pixels; by default a quarter of the patch.
        baseline: what covers: the image's mean colour, rounded; grey, 128; or black.

    Returns:
        (S, S) float64, in units of the logit.

    Raises:
        UserError: a patch larger than the image, or a stride that would leave pixels out.
    """
    side = image.shape[0]
    patch, stride = patch_and_stride(side, patch, stride)
    starts = range(0, -(-(side - patch) // stride) * stride + 1, stride)
    places = [(slice(row, row + patch), slice(column, column + patch)) for row in starts for column in starts]
    colour = baseline_colour(image, baseline)
    whole = float(logits_of(image[None])[0])
    falls, covered = np.zeros((side, side)), np.zeros((side, side))
    for first in range(0, len(places), AT_ONCE):
        batch = places[first : first + AT_ONCE]
        copies = np.repeat(image[None], len(batch), axis=0)
        for copy, place in zip(copies, batch, strict=True):
            copy[place] = colour
        for place, logit in zip(batch, logits_of(copies), strict=True):
            falls[place] += whole - float(logit)
            covered[place] += 1
    return falls / covered


def patch_and_stride(side: int, patch: int | None, stride: int | None) -> tuple[int, int]:
    """Both in pixels, the defaults filled in.

    Raises:
        UserError: they do not fit the image, or each other.
    """
    patch = max(1, side // 4) if patch is None else patch
    stride = max(1, patch // 4) if stride is None else stride
    if not 1 <= patch <= side:
        raise UserError(f"--patch: expected from 1 to {side}, the image's side, got {patch}")
    if not 1 <= stride <= patch:
        raise UserError(f"--stride: expected from 1 to {patch}, the patch's side, got {stride}")
    return patch, stride


def baseline_colour(image: np.ndarray, baseline: Baseline) -> np.ndarray:
    """What covers: (3,) uint8, whole values, so that an exported model that takes bytes is given the same."""
    if baseline == "mean":
        return np.rint(image.reshape(-1, 3).mean(0)).astype(np.uint8)
    return np.full(3, {"grey": 128, "black": 0}[baseline], np.uint8)
