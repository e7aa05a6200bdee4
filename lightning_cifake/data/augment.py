"""The published augmentation on a batch, on any device; the text's rotation and zoom as options.

``tf.image``'s functions as the paper calls them, after batching: flips are drawn for each image, brightness and
contrast once for the whole batch. Values are not clipped and leave [0, 1] by up to a tenth. Source: paper section 10.6,
tensorflow/python/ops/image_ops_impl.py.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cifake.distributed import current_shard

MAX_BRIGHTNESS = 0.1
CONTRAST = (0.9, 1.1)


def flip(images: Tensor, left_right: Tensor, up_down: Tensor) -> Tensor:
    """Mirrors the chosen images. (N, C, H, W); the choices are (N,) bool."""
    images = torch.where(left_right[:, None, None, None], images.flip(3), images)
    return torch.where(up_down[:, None, None, None], images.flip(2), images)


def adjust_brightness(images: Tensor, delta: Tensor) -> Tensor:
    """Adds ``delta``, (1,) or (N,). (N, C, H, W) -> the same, unclipped."""
    return images + delta[:, None, None, None]


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scales the distance from each image's mean of each channel by ``factor``, (1,) or (N,); unclipped.

    torchvision's contrast takes the mean of the grey image and clips: up to .058 away from this.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
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


class PublishedAugmentation:
    """Random flips, brightness and contrast; optionally rotation and zoom.

    Args:
        per_image: draws brightness and contrast for each image instead of once for the batch, as published.
        rotation: largest angle in degrees; 0, as in the paper's code, for none.
        zoom: largest relative enlargement or reduction; 0, as in the paper's code, for none.

    Called with (N, C, H, W) floats it returns the same shape, dtype and memory layout. Draws come from torch's global
    generator on the CPU, whatever the device: the same seed augments alike everywhere. Where several processes share
    a batch, each draws for the whole of it and takes its shard.
    """

    def __init__(self, per_image: bool = False, rotation: float = 0.0, zoom: float = 0.0) -> None:
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation: expected 0 to 180 degrees, got {rotation}")
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom: expected at least 0 and below 1, got {zoom}")
        self.per_image, self.rotation, self.zoom = per_image, rotation, zoom

    def __call__(self, images: Tensor) -> Tensor:
        shard = current_shard()
        count = len(images) if shard is None else shard.whole
        draws = count if self.per_image else 1

        def own(drawn: Tensor) -> Tensor:
            """(count,) -> (N,), on the images' device; one draw for all stays (1,)."""
            return (drawn if shard is None or len(drawn) == 1 else shard.slice(drawn)).to(
                images.device, non_blocking=True
            )

        uniform = torch.rand(2 * count + 2 * draws)
        left_right, up_down, delta, factor = map(own, uniform.split([count, count, draws, draws]))
        images = flip(images, left_right < 0.5, up_down < 0.5)
        images = adjust_brightness(images, _spread(delta, -MAX_BRIGHTNESS, MAX_BRIGHTNESS).to(images.dtype))
        images = adjust_contrast(images, _spread(factor, *CONTRAST).to(images.dtype))
        if self.rotation or self.zoom:
            turn, size = map(own, torch.rand(2, count))
            degrees = _spread(turn, -self.rotation, self.rotation)
            images = rotate_and_zoom(images, degrees, _spread(size, 1 - self.zoom, 1 + self.zoom))
        return images


def _spread(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform
