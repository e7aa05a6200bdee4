"""ScNet: computer graphics told from photographs by the correlation of channels and of pixels."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_cifake.networks.logit import check_image_size, logits_of

BRANCHES = 3
WIDTH = 8  # channels of a branch
CHANNELS = (BRANCHES * WIDTH, 32, 32, 64, 128, 256, 256)
POOLED = (False, True, True, True, True, False)
"""Which of the six blocks end in a max-pool of 3x3 and stride 2, without padding."""
DEVIATION = 0.02


class CorrelationNet(nn.Module):
    """Three self-coding branches and six blocks. (N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL).

    A branch is a linear 1x1 convolution of the three colours to one, which learns how the channels hang together; then
    3x3 to 8 channels with batch norm, and twice 3x3, batch norm, ReLU. The 24 channels of the three go through blocks
    of 3x3 convolution, batch norm and ReLU to 256, most of them pooled; the last layer sees their mean over the map.
    998,642 parameters at any size.

    What 32 px changed: the authors' patches have 96 px and are pooled after each of the first five blocks, down to 2x2;
    of 32 px the fifth pool would have one pixel left for its 3x3. Here the first pool is left out. Then the blocks see
    maps of 32, 32, 15, 7, 3 and 1 pixels a side, and the first two see neighbouring pixels, where generators leave
    their traces; without the fifth instead, two convolutions of nearly 900,000 weights would see maps of one pixel.

    One logit stands for the authors' two, whose softmax sees nothing but their difference. The images come to the first
    convolution in [-1, 1].

    Args:
        image_size: S, from 31 on.

    Raises:
        UserError: an image size that it does not take.

    Source: Zhang, Quan, Fan, Hu and Yan, "Distinguishing Computer-Generated Images from Natural Images Using Channel
    and Pixel Correlation", J. Comput. Sci. Technol. 35 (2020), doi 10.1007/s11390-020-0216-9; the authors' code,
    github.com/Evergrow/JCST_NIvsCG, has the widths, the missing biases and the initialisation.
    """

    def __init__(self, image_size: int = 32) -> None:
        super().__init__()
        self.image_size = check_image_size(image_size, least=31)
        self.branches = nn.ModuleList(_branch() for _ in range(BRANCHES))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*_block(before, after), *([nn.MaxPool2d(3, 2)] if pooled else []))
                for (before, after), pooled in zip(pairwise(CHANNELS), POOLED, strict=True)
            )
        )
        self.head = nn.Linear(CHANNELS[-1], 1)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        images = 2 * images - 1
        maps = torch.cat([branch(images) for branch in self.branches], 1)  # (N, 24, S, S)
        return logits_of(self.head, self.blocks(maps).mean((2, 3)))


def _branch() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False),
        nn.Conv2d(1, WIDTH, 3, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        *_block(WIDTH, WIDTH),
        *_block(WIDTH, WIDTH),
    )


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def _initialise(layer: nn.Module) -> None:
    """Kernels N(0, .02), scales of batch norm N(1, .02), as the authors' ``weights_init_normal``."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, DEVIATION)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, DEVIATION)
