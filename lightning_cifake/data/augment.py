"""Augmentation of a training batch, on any device: the published one, and crops, cutout and mixup as options.

The published one is ``tf.image``'s functions as the paper calls them, after batching: flips are drawn for each image,
brightness and contrast once for the whole batch. Values are not clipped and leave [0, 1] by up to a tenth. Source:
paper section 10.6, tensorflow/python/ops/image_ops_impl.py.

torchvision's transforms v2 draw once for a whole batch; crops and cutout here draw for each image of it. Mixup is
torchvision's, in labels of (N,).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cifake.data.degrade import Degradation, between
from lightning_cifake.distributed import current_shard, own_part, whole_of

MAX_BRIGHTNESS = 0.1
CONTRAST = (0.9, 1.1)

Flips = Literal["both", "horizontal", "none"]


def flip(images: Tensor, left_right: Tensor, up_down: Tensor) -> Tensor:
    """Mirrors the chosen images. (N, C, H, W); the choices are (N,) bool."""
    return _mirror(_mirror(images, left_right, 3), up_down, 2)


def _mirror(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    if images.device.type != "cpu" or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.where(chosen[:, None, None, None], images.flip(axis), images)
    # only those that were chosen, as they lie; on a GPU the host would have to wait for which ones
    rows, places = images.permute(0, 2, 3, 1), chosen.nonzero()[:, 0]  # (N, H, W, C)
    return rows.index_copy(0, places, rows.index_select(0, places).flip(axis - 1)).permute(0, 3, 1, 2)


def adjust_brightness(images: Tensor, delta: Tensor) -> Tensor:
    """Adds ``delta``, (1,) or (N,). (N, C, H, W) -> the same, unclipped."""
    return images + delta[:, None, None, None]


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scales the distance from each image's mean of each channel by ``factor``, (1,) or (N,); unclipped.

    torchvision's contrast takes the mean of the grey image and clips: up to .058 away from this.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
    if images.is_contiguous(memory_format=torch.channels_last):
        # a row of pixels as one row of values: three values at a time, as they lie, a processor takes singly
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (N, H, W * C)
        means = mean.flatten(1).repeat(1, images.shape[3])[:, None]  # (N, 1, W * C)
        changed = ((rows - means) * factor[:, None, None]).add_(means)
        return changed.unflatten(2, (-1, images.shape[1])).permute(0, 3, 1, 2)
    return (images - mean) * factor[:, None, None, None] + mean


def rotate_and_zoom(images: Tensor, degrees: Tensor, zoom: Tensor) -> Tensor:
    """Turns each image by (N,) ``degrees`` and enlarges it by (N,) ``zoom`` about its centre; borders are mirrored."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = torch.cos(angle) / zoom, torch.sin(angle) / zoom, torch.zeros_like(zoom)
    matrices = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)  # (N, 2, 3)
    grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if images.is_contiguous(memory_format=torch.channels_last):  # grid_sample loses it
        turned = turned.contiguous(memory_format=torch.channels_last)
    return turned


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moves each image by whole pixels, (N,) int64 either way; the image mirrored about its edge pixels comes in.

    (N, C, H, W) of any dtype -> the same: a crop of the padded image (``numpy.pad``'s mode ``reflect``), in one gather.
    Shifts are below H and W.
    """
    rows, columns = (_mirrored(by, size) for by, size in zip((down, right), images.shape[2:], strict=True))
    number = torch.arange(len(images), device=images.device)
    moved = images.permute(0, 2, 3, 1)[number[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    moved = moved.permute(0, 3, 1, 2)
    last = images.is_contiguous(memory_format=torch.channels_last)
    return moved.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _mirrored(by: Tensor, size: int) -> Tensor:
    """(N, size) int64: the row, or column, that each one of a shifted image comes from."""
    at = (torch.arange(size, device=by.device) - by[:, None]).abs()
    return (size - 1) - (size - 1 - at).abs()


def cut_out(images: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """Fills a square of each image, about (N,) int64 ``row`` and ``column``, with the image's mean of each channel.

    The square may reach over the border, as in DeVries and Taylor 2017, so that some of it is cut off.
    """
    inside = [
        (at >= centre[:, None] - side // 2) & (at < centre[:, None] - side // 2 + side)
        for centre, size in zip((row, column), images.shape[2:], strict=True)
        for at in [torch.arange(size, device=images.device)]
    ]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (N, 1, H, W)
    return torch.where(square, images.mean(dim=(2, 3), keepdim=True), images)


def mix(images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """``share`` of each image and its label, (N,) float, and the rest of the one before it, as torchvision's MixUp."""
    return images.lerp(images.roll(1, 0), 1 - share), labels.lerp(labels.roll(1, 0), 1 - share)


class PublishedAugmentation:
    """Random flips, brightness and contrast; optionally rotation and zoom.

    Args:
        per_image: draws brightness and contrast for each image instead of once for the batch, as published.
        rotation: largest angle in degrees; 0, as in the paper's code, for none.
        zoom: largest relative enlargement or reduction; 0, as in the paper's code, for none.
        flips: which ways images are mirrored; as published ``both``, each with a chance of one half.
        jitter: changes brightness and contrast, as published.

    Called with (N, C, H, W) floats it returns the same shape, dtype and memory layout. Draws come from torch's global
    generator on the CPU, whatever the device: the same seed augments alike everywhere. Where several processes share
    a batch, each draws for the whole of it and takes its shard.
    """

    def __init__(
        self,
        per_image: bool = False,
        rotation: float = 0.0,
        zoom: float = 0.0,
        flips: Flips = "both",
        jitter: bool = True,
    ) -> None:
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation: expected 0 to 180 degrees, got {rotation}")
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom: expected at least 0 and below 1, got {zoom}")
        if flips not in get_args(Flips):
            raise ValueError(f"flips: expected {' or '.join(get_args(Flips))}, got {flips}")
        self.per_image, self.rotation, self.zoom = per_image, rotation, zoom
        self.flips, self.jitter = flips, jitter

    def __call__(self, images: Tensor) -> Tensor:
        count = whole_of(images)
        draws = count if self.per_image else 1

        def own(drawn: Tensor) -> Tensor:
            """(count,) -> (N,); one draw for all stays (1,)."""
            return drawn if len(drawn) == 1 else own_part(drawn)

        uniform = torch.rand(2 * count + 2 * draws).to(images.device, non_blocking=True)
        left_right, up_down, delta, factor = map(own, uniform.split([count, count, draws, draws]))
        if self.flips == "both":
            images = flip(images, left_right < 0.5, up_down < 0.5)
        elif self.flips == "horizontal":
            images = _mirror(images, left_right < 0.5, 3)
        if self.jitter:
            images = adjust_brightness(images, between(delta, -MAX_BRIGHTNESS, MAX_BRIGHTNESS).to(images.dtype))
            images = adjust_contrast(images, between(factor, *CONTRAST).to(images.dtype))
        if self.rotation or self.zoom:
            turn, size = map(own, torch.rand(2, count).to(images.device, non_blocking=True))
            degrees = between(turn, -self.rotation, self.rotation)
            images = rotate_and_zoom(images, degrees, between(size, 1 - self.zoom, 1 + self.zoom))
        return images


class Augmentation:
    """All that may happen to a training batch: crop, degradation, the published augmentation, cutout and mixup.

    In this order: JPEG's blocks lie as in a file of the whole image, not of a larger one that it was cut from.

    Args:
        published: flips, brightness and contrast, rotation and zoom.
        crop: shifts each image by up to this many pixels either way, as a crop of it padded by reflection does.
        cutout: the side of a square in each image that its mean is put in place of; 0 for none.
        mixup: alpha of the Beta distribution that says how much of an image, and of its label, comes from another one
            of the batch; 0 for no mixing. Labels are shares of REAL then.
        degradation: what makes some images worse.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        published: PublishedAugmentation,
        crop: int = 0,
        cutout: int = 0,
        mixup: float = 0.0,
        degradation: Degradation | None = None,
    ) -> None:
        for name, value in (("crop", crop), ("cutout", cutout), ("mixup", mixup)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        self.published, self.crop, self.cutout, self.mixup = published, crop, cutout, mixup
        self.degradation = degradation

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) and (N,) float -> the same. With mixup the whole batch: a shard lacks what it is mixed with.

        Draws come from torch's global generator on the CPU, as :class:`PublishedAugmentation`'s do.
        """
        if self.crop:
            down, right = _own(torch.randint(-self.crop, self.crop + 1, (whole_of(images), 2)), images).unbind(1)
            images = shift(images, down, right)
        if self.degradation is not None:
            images = self.degradation(images)
        images = self.published(images)
        if self.cutout:
            places = torch.rand(whole_of(images), 2) * torch.tensor(images.shape[2:])
            row, column = _own(places.long(), images).unbind(1)
            images = cut_out(images, row, column, self.cutout)
        if self.mixup:
            assert current_shard() is None
            images, labels = mix(images, labels, float(torch.distributions.Beta(self.mixup, self.mixup).sample()))
        return images, labels


def _own(drawn: Tensor, images: Tensor) -> Tensor:
    """(whole, ...) -> (N, ...): what was drawn for the images of this process, on their device."""
    return own_part(drawn).to(images.device, non_blocking=True)
