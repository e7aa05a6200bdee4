"""This project's own network for 32x32 images: few layers, the first of them at full resolution, small on a CPU.

What tells a generated image of 32 px from a photograph lies in its single pixels: a stem that strides or pools, as
ResNet50's, has thrown it away before the first block.
"""

import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks.logit import logits_of

MEAN, SCALE = 0.457, 4.0  # of all channels of CIFAKE: one number each, so that what is fed is one line
SMALLEST_IMAGE = 8  # three pools


class CompactCNN(nn.Module):
    """Convolutions 3x3 with batch norm and ReLU, pooled three times, with residual pairs between.

    (N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL), for S of at least 8. With W the width: W channels at full
    resolution, 2W at full resolution, pooled, a residual pair of 2W, 4W, pooled, a pair of 4W, 8W, pooled, a pair of
    8W, the mean over the map, one dense layer. 1,939,233 parameters at width 32, 114 million multiply-adds at 32 px.

    Args:
        width: W, channels of the first convolution.
        first_pair: residual pairs of W at full resolution too, after the first convolution.
        object_classes: how many kinds of objects a second dense layer tells apart, for
            ``--model.object_weight``, which teaches what a picture shows beside whether it is a photograph; 0 for no
            such layer. An exported model does not have it.
        pairs: how many residual pairs follow each other, wherever there is one.

    Raises:
        UserError: a width or a number of classes that is no whole number of its range.

    Source: the order of layers is that of David Page's ResNet-9 for CIFAR-10 (myrtle.ai, "How to train your ResNet",
    2018), with a pair in every stage and the mean in place of the maximum at the end.
    """

    def __init__(self, width: int = 32, first_pair: bool = False, object_classes: int = 0, pairs: int = 1) -> None:
        super().__init__()
        ranges = (("width", width, 1, 1024), ("pairs", pairs, 1, 64), ("object_classes", object_classes, 0, 10_000))
        for name, value, least, most in ranges:
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UserError(f"model.network.{name}: expected a whole number from {least} to {most}, got {value!r}")
        self.width, self.first_pair, self.pairs, self.object_classes = width, first_pair, pairs, object_classes
        self.maps = nn.Sequential(
            _convolution(3, width),
            *(_residual_pairs(width, pairs) if first_pair else []),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_residual_pairs(2 * width, pairs),
            _convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_residual_pairs(4 * width, pairs),
            _convolution(4 * width, 8 * width),
            nn.MaxPool2d(2),
            *_residual_pairs(8 * width, pairs),
        )
        self.head = nn.Linear(8 * width, 1)
        self.objects = nn.Linear(8 * width, object_classes) if object_classes else None

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.head, self._features(images))

    def forward_with_objects(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) of P(REAL), and (N, object_classes) of what the images show.

        Raises:
            UserError: it was built without ``object_classes``.
        """
        if self.objects is None:
            raise UserError("model.network.object_classes: expected at least 1 for an object_weight, got 0")
        features = self._features(images)
        return logits_of(self.head, features), self.objects(features)

    def _features(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 8 * width)."""
        if min(images.shape[2:]) < SMALLEST_IMAGE:
            raise UserError(
                f"data.image_size: expected at least {SMALLEST_IMAGE} for this network, got {images.shape[2]}"
            )
        images = (images - MEAN) * SCALE
        if images.device.type == "cpu":  # what oneDNN's convolutions take without copying
            images = images.contiguous(memory_format=torch.channels_last)
        return self.maps(images).mean((2, 3))


class _ResidualPair(nn.Module):
    """Two convolutions, whose output is added to their input. (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.pair(maps)


def _residual_pairs(channels: int, pairs: int) -> list[_ResidualPair]:
    return [_ResidualPair(channels) for _ in range(pairs)]


def _convolution(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)
    )
