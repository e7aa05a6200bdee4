"""What saving as JPEG and reading again does to a batch of images, on any device, each at a quality of its own.

The steps are libjpeg's, whose rounding is kept where it is cheap: baseline, 4:2:0, the standard tables, "fancy"
upsampling of the colours. What Pillow's file gives differs by a level here and there, as libjpeg's cosine transform is
one of integers; tests/data/test_jpeg.py says how far. torchvision's ``v2.JPEG`` encodes one image at a time, on a CPU.
Source: ITU-T T.81, annexes A and K; libjpeg-turbo's jccolor.c, jcsample.c, jdsample.c, jdcolor.c.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""The quantisation tables of quality 50, ITU-T T.81 annex K.1."""

TIE = 1e-4
"""Added before rounding: sums that lie halfway are frequent in whole numbers, and round up in libjpeg. In float32 they
come out a little above or below."""


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """(N, 3, H, W) float in [0, 1] and (N,) whole qualities from 1 to 100 -> the decoded images, whole 255ths."""
    height, width = images.shape[2:]
    red, green, blue = rounded(images * 255).clamp(0, 255).unbind(1)  # (N, H, W) each, as all that follows
    luma = rounded(0.299 * red + 0.587 * green + 0.114 * blue)
    colours = torch.cat(
        [  # halves are rounded down here: by hand, not by TIE
            torch.ceil(-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 127.5 - TIE),
            torch.ceil(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 127.5 - TIE),
        ]
    )
    luma = _coded(_padded(luma, 8), quality, LUMINANCE)[:, :height, :width]
    colours = _coded(_padded(_halved(_padded(colours, 2)), 8), quality.repeat(2), CHROMINANCE)
    colours = _doubled(colours[:, : (height + 1) // 2, : (width + 1) // 2])[:, :height, :width]
    cb, cr = (colours - 128).chunk(2)
    rgb = [
        luma + rounded(1.402 * cr),
        luma + rounded(-0.344136286 * cb - 0.714136286 * cr),
        luma + rounded(1.772 * cb),
    ]
    return torch.stack(rgb, 1).clamp(0, 255) / 255


def quality_table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """(N,) qualities -> (N, 8, 8) divisors, as libjpeg's ``jpeg_set_quality`` with ``force_baseline``."""
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((_constant(base, quality.device, quality.dtype) * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)


def rounded(values: Tensor) -> Tensor:
    """To whole numbers, halves up."""
    return (values + (0.5 + TIE)).floor()


def _padded(plane: Tensor, multiple: int) -> Tensor:
    """The last row and column repeated up to a multiple."""
    height, width = plane.shape[1:]
    return F.pad(plane, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _halved(plane: Tensor) -> Tensor:
    """Means of 2x2; what lies halfway is rounded down in even columns and up in odd ones, as libjpeg's dither."""
    sums = plane.unflatten(1, (-1, 2)).sum(2).unflatten(2, (-1, 2)).sum(3)
    bias = torch.arange(sums.shape[2], device=plane.device).remainder(2) + 1
    return ((sums + bias) / 4).floor()


def _coded(plane: Tensor, quality: Tensor, base: tuple[tuple[int, ...], ...]) -> Tensor:
    """Cosine transform of 8x8 blocks, quantised, and back; one product with all blocks' matrices on a diagonal.

    Scaled and rounded after each of its passes as libjpeg's (jfdctint.c, jidctint.c), which holds whole numbers.
    """
    down, right = (_constant(_transform(size), plane.device, plane.dtype) for size in plane.shape[1:])
    table = quality_table(base, quality.to(plane.dtype)).repeat(1, *(size // 8 for size in plane.shape[1:]))
    coefficients = rounded(down @ rounded((plane - 128) @ right.mT * 4) / 4) / (8 * table)
    coefficients = coefficients.sign() * rounded(coefficients.abs()) * table
    return rounded(rounded(down.mT @ coefficients * 4) @ right / 32 + 128).clamp(0, 255)


@cache
def _transform(size: int) -> Tensor:
    """(size, size) float64: the cosine transform of each 8 values, times the root of 8."""
    at = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * at + 1) * at[:, None] * (math.pi / 16)) * math.sqrt(2)
    cosines[0] = 1
    return torch.kron(torch.eye(size // 8, dtype=torch.float64), cosines)


@cache
def _constant(values: Tensor | tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Brought to the device once."""
    return torch.as_tensor(values, dtype=dtype, device=device)


def _doubled(plane: Tensor) -> Tensor:
    """Twice the height and width: each new value is 9, 3, 3 and 1 sixteenths of the four nearest; borders repeated."""
    near = F.pad(plane, (1, 1, 1, 1), mode="replicate")
    middle = near[:, 1:-1]
    rows = torch.stack([3 * middle + near[:, :-2], 3 * middle + near[:, 2:]], 2).flatten(1, 2)  # (N, 2H, W + 2)
    middle = rows[:, :, 1:-1]
    both = [(3 * middle + rows[:, :, :-2] + 8) / 16, (3 * middle + rows[:, :, 2:] + 7) / 16]
    return torch.stack(both, 3).flatten(2, 3).floor()
