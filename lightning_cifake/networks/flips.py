"""An image and its mirror asked together: what one graph then answers is the mean of both."""

import torch
from torch import Tensor, nn

from lightning_cifake.networks.contract import for_export


class MeanOfFlips(nn.Module):
    """(N, 3, S, S) -> (N,): the mean of a network's logits of each image and of its mirror, left and right exchanged.

    One pass of 2N images. Twice the work of the network alone.

    Args:
        network: any; it is shared, not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def for_export(self) -> nn.Module:
        return MeanOfFlips(for_export(self.network))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(torch.cat([images, images.flip(3)]))
        return logits.view(2, -1).mean(0)
