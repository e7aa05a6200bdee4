"""What happens to images on their way through the world, on a training batch and on its device: blur, re-scaling, JPEG
and noise, each image by a kind and a strength of its own, as whole 255ths.

torchvision's transforms v2 (GaussianBlur, Resize, JPEG, GaussianNoise) draw once for a whole batch. Blur and re-scaling
are linear in rows and in columns, so that a batch is two products with a matrix for each image.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cifake.data.jpeg import jpeg, rounded
from lightning_cifake.distributed import own_part, whole_of

Kind = Literal["blur", "rescale", "jpeg", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BLUR = (0.2, 1.5)  # sigma in pixels
QUALITY = (40, 95)
NOISE = (0.0, 8 / 255)  # standard deviation
SIDES = tuple(side / 32 for side in range(16, 29))  # of the smaller image, of the whole one's side
FILTERS = ("bilinear", "bicubic", "area")

NORMALS = 1 << 20  # of which each noisy image takes a stretch


def blur(images: Tensor, sigma: Tensor, radius: int | None = None) -> Tensor:
    """Gaussian blur of (N, C, H, W) by (N,) sigmas, as ``scipy.ndimage.gaussian_filter`` with its defaults.

    Args:
        images: float.
        sigma: in pixels; 0 leaves an image as it is.
        radius: taps either way; 4 of the largest sigma where it is not given, which has to be waited for on a GPU.
    """
    if radius is None:
        radius = math.ceil(4 * float(sigma.max()) + 0.5)
    by = torch.arange(-radius, radius + 1, device=images.device)  # (T,)
    reach = (4 * sigma + 0.5).floor()[:, None]  # scipy's truncate
    taps = torch.exp(-0.5 * (by / sigma.clamp(min=1e-3)[:, None]).square()) * (by.abs() <= reach)
    taps = (taps / taps.sum(1, keepdim=True)).to(images.dtype)  # (N, T)
    down, right = (
        (
            taps
            @ F.one_hot(_mirrored(torch.arange(size, device=by.device) + by[:, None], size), size).flatten(1).to(taps)
        )
        .unflatten(1, (size, size))
        .unsqueeze(1)
        for size in images.shape[2:]
    )  # (N, 1, S, S)
    return down @ images @ right.mT


def _mirrored(at: Tensor, size: int) -> Tensor:
    """Indices beyond an end, brought inside by mirroring about it: -1 is 0."""
    at = at.remainder(2 * size)
    return torch.minimum(at, 2 * size - 1 - at)


class Scalings(NamedTuple):
    """Matrices that scale rows or columns, each in the upper left of (S, S), by filter and then by side."""

    down: Tensor  # (filters * sides, S, S)
    up: Tensor

    @classmethod
    def of(cls, size: int) -> "Scalings":
        """On the CPU; what torch's ``interpolate`` makes of the unit matrix, with antialiasing as Pillow."""
        down: list[Tensor] = []
        up: list[Tensor] = []
        for name in FILTERS:
            options = {"mode": name} if name == "area" else {"mode": name, "antialias": True, "align_corners": False}
            for side in SIDES:
                small = max(1, round(size * side))
                for source, target, made in ((size, small, down), (small, size, up)):
                    scaled = F.interpolate(torch.eye(source)[None, None], (target, source), **options)[0, 0]
                    made.append(F.pad(scaled, (0, size - source, 0, size - target)))
        return cls(torch.stack(down), torch.stack(up))


def rescale(images: Tensor, scalings: Scalings, down: Tensor, up: Tensor) -> Tensor:
    """Makes (N, C, S, S) images smaller and as large as before; whole 255ths after columns and after rows, as Pillow.

    ``down`` and ``up``, (N,) int64, say by which of the scalings: the filter's number times the sides, plus the side's.
    """
    smaller, larger = scalings.down[down].unsqueeze(1).to(images.dtype), scalings.up[up].unsqueeze(1).to(images.dtype)
    for scaling in (smaller, larger):
        images = to_whole(scaling @ to_whole(images @ scaling.mT))
    return images


def add_noise(images: Tensor, normals: Tensor, offset: Tensor, deviation: Tensor) -> Tensor:
    """Adds to each image a stretch of (M,) ``normals`` from (N,) ``offset`` on, times (N,) ``deviation``."""
    place = torch.arange(images[0].numel(), device=images.device)
    noise = normals[(offset[:, None] + place).remainder(len(normals))].view(images.shape).to(images.dtype)
    return images + noise * deviation[:, None, None, None].to(images.dtype)


def to_whole(images: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to 255ths, halves up, as Pillow does."""
    return rounded(images.clamp(0, 1) * 255) / 255


class Degradation:
    """Degrades some images of a batch, each in one way.

    Args:
        probability: of an image to be degraded.
        kinds: of which each such image gets one, all alike often.

    Called with (N, C, S, S) floats in [0, 1] it returns the same shape, dtype and memory layout. Draws come from
    torch's global generator on the CPU, for the whole of a batch that processes share: the same seed degrades alike
    everywhere, but for the last bit of a sum. Noise is a stretch of a fixed series of normal numbers, from a random
    place on.

    Raises:
        ValueError: a probability out of range, or a kind that is none.
    """

    def __init__(self, probability: float, kinds: Sequence[Kind] = KINDS) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"degrade: expected 0 to 1, got {probability}")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"degradations: expected some of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
        self.probability, self.kinds = probability, tuple(kinds)
        self._tables: dict[tuple[torch.device, int], tuple[Scalings, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        if not self.probability:
            return images
        drawn = own_part(torch.rand(whole_of(images), 5))
        # what each image gets is known here, on the CPU, so that no device is waited for
        which = torch.where(drawn[:, 0] < self.probability, (drawn[:, 1] * len(self.kinds)).long(), len(self.kinds))
        order = which.argsort(stable=True)
        counts = which.bincount(minlength=len(self.kinds) + 1).tolist()[:-1]
        order = order[: sum(counts)]
        strengths = drawn[order, 2:].to(images.device, non_blocking=True).split(counts)
        rows = order.to(images.device, non_blocking=True)
        changed = [
            self._change(kind, images[own].float(), strength)
            for kind, own, strength in zip(self.kinds, rows.split(counts), strengths, strict=True)
            if len(own)
        ]
        if not changed:
            return images
        images = images.clone()
        images[rows] = to_whole(torch.cat(changed)).to(images.dtype)
        return images

    def _change(self, kind: Kind, images: Tensor, drawn: Tensor) -> Tensor:
        """(n, C, S, S) float32 and (n, 3) in [0, 1), which becomes the strength."""
        first, second, third = drawn.unbind(1)
        if kind == "blur":
            return blur(images, between(first, *BLUR), radius=math.ceil(4 * BLUR[1] + 0.5))
        if kind == "jpeg":
            return jpeg(images, between(first, QUALITY[0], QUALITY[1] + 1).floor())
        scalings, normals = self._tables_for(images)
        if kind == "noise":
            return add_noise(images, normals, (second * NORMALS).long(), between(first, *NOISE))
        side = (first * len(SIDES)).long()
        down, up = ((each * len(FILTERS)).long() * len(SIDES) + side for each in (second, third))
        return rescale(images, scalings, down, up)

    def _tables_for(self, images: Tensor) -> tuple[Scalings, Tensor]:
        """The scalings of this size and the normal numbers, brought to this device once."""
        key = (images.device, images.shape[3])
        if key not in self._tables:
            scalings = Scalings(*(each.to(images.device) for each in Scalings.of(images.shape[3])))
            normals = torch.randn(NORMALS, generator=torch.Generator().manual_seed(0))
            self._tables[key] = scalings, normals.to(images.device)
        return self._tables[key]


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Draws in [0, 1) to draws in [low, high)."""
    return low + (high - low) * uniform
