"""MesoNet: Meso-4 and MesoInception-4, small detectors of manipulated faces in videos.

Source: Afchar, Nozick, Yamagishi and Echizen, "MesoNet: a Compact Facial Video Forgery Detection Network", IEEE WIFS
2018, arXiv 1809.00888; the authors' Keras code, github.com/DariusAf/MesoNet, says what the paper leaves open: ReLU
comes before the batch norm, the convolutions have biases, and the two dropouts are of one half.

A widely copied port to torch shares two batch norms among the four convolutions, which have no biases there; here each
has a batch norm of its own and biases, and at 256 px both networks have the paper's parameters, 27,977 and 28,615.
"""

import torch
from torch import Tensor, nn

from lightning_cifake.networks.keras_layers import initialise_as_keras, keras_norm
from lightning_cifake.networks.logit import check_image_size, logits_of

POOLED = 2 * 2 * 2 * 4
"""How many pixels of the image, along a side, are one of the last map: what its four pools take away."""
SLOPE = 0.1
UNITS = 16
DROPOUT = 0.5


class _MesoNet(nn.Module):
    """What the two share: the third and fourth stage, and the head.

    What 32 px changed: the authors' faces have 256 px and end in maps of 8x8, 1,024 features; at 32 px the last map is
    one pixel, so that 16 features reach the dense layer. The pools stay as they are.
    """

    def __init__(self, first: nn.Module, second: nn.Module, channels: tuple[int, int], image_size: int) -> None:
        super().__init__()
        self.image_size = check_image_size(image_size, least=POOLED, multiple=POOLED)
        self.stages = nn.Sequential(
            _stage(first, channels[0], 2),
            _stage(second, channels[1], 2),
            _stage(_convolution(channels[1], 16, 5), 16, 2),
            _stage(_convolution(16, 16, 5), 16, 4),
        )
        self.dense = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(16 * (image_size // POOLED) ** 2, UNITS),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(DROPOUT),
        )
        self.head = nn.Linear(UNITS, 1)
        self.apply(initialise_as_keras)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(images)  # (N, 16, S/32, S/32)
        return logits_of(self.head, self.dense(maps.flatten(1)))


class Meso4(_MesoNet):
    """Meso-4. (N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL); 11,849 parameters at 32 px.

    Convolutions 8@3x3, 8@5x5, 16@5x5, 16@5x5, each with ReLU, batch norm and a max-pool, of 2, 2, 2 and 4; dropout,
    dense 16, LeakyReLU, dropout, dense 1.

    Args:
        image_size: S, a multiple of 32; it sets how many features reach the dense layer.

    Raises:
        UserError: an image size that it does not take.
    """

    def __init__(self, image_size: int = 32) -> None:
        super().__init__(_convolution(3, 8, 3), _convolution(8, 8, 5), (8, 8), image_size)


class MesoInception4(_MesoNet):
    """MesoInception-4: inception modules for Meso-4's first two convolutions; 12,487 parameters at 32 px.

    (N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL).

    Args:
        image_size: S, a multiple of 32; it sets how many features reach the dense layer.

    Raises:
        UserError: an image size that it does not take.
    """

    def __init__(self, image_size: int = 32) -> None:
        one, other = _Inception(3, (1, 4, 4, 2)), _Inception(11, (2, 4, 4, 2))
        super().__init__(one, other, (one.channels, other.channels), image_size)


class _Inception(nn.Module):
    """Four branches of ReLU convolutions side by side: 1x1, and 1x1 then 3x3 of dilation 1, 2 and 3.

    (N, C, H, W) -> (N, sum of widths, H, W).
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        first, *others = widths
        self.branches = nn.ModuleList([_convolution(channels, first, 1)])
        for dilation, width in enumerate(others, start=1):
            self.branches.append(
                nn.Sequential(_convolution(channels, width, 1), _convolution(width, width, 3, dilation))
            )
        self.channels = sum(widths)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([branch(maps) for branch in self.branches], 1)


def _convolution(channels: int, filters: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(nn.Conv2d(channels, filters, kernel, padding=padding, dilation=dilation), nn.ReLU())


def _stage(convolution: nn.Module, channels: int, pool: int) -> nn.Sequential:
    return nn.Sequential(convolution, keras_norm(channels), nn.MaxPool2d(pool))
