"""What a network costs is what its formulas say, and nothing where it cannot be counted."""

import torch
from torch import Tensor, nn

from lightning_cifake.networks.costs import costs_of
from lightning_cifake.networks.flips import MeanOfFlips


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.last = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.depthwise(self.convolution(images)).mean((2, 3))).squeeze(1)


class Looks(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3)) if images.sum() > 0 else images.sum((1, 2, 3))


def test_convolutions_and_matrix_products_are_counted() -> None:
    network = Two().train()
    counted = costs_of(network, 32)
    assert counted.multiply_adds == 16 * 16 * 8 * 3 * 9 + 16 * 16 * 8 * 9 + 8
    assert counted.parameters == (8 * 27 + 8) + 8 * 9 + 9
    assert network.training and next(network.parameters()).device.type == "cpu"
    twice = costs_of(MeanOfFlips(network), 32)
    assert twice == (counted.parameters, 2 * counted.multiply_adds)


def test_what_cannot_be_counted_is_not() -> None:
    assert costs_of(Looks(), 32) == (None, None)
    assert torch.is_tensor(Looks()(torch.ones(1, 3, 4, 4)))
