"""Convolutions on maps of a few pixels as matrix products: what onnxruntime computes faster, with the same sums.

On maps of 1x1 and 2x2 its convolution goes image by image, so that each image reads all weights again, and multiplies
with padding. As a product a batch reads them once, and only taps that meet a pixel are there.
"""

from collections.abc import Mapping
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.networks.convolution import SMALL_MAP

PRODUCT = ".product"
"""What ends the name of such a layer's weight, in the exported graph too."""


class MapProduct(nn.Module):
    """A convolution on maps of one size. (N, C, h, w) float -> (N, C', h', w').

    Args:
        convolution: of any kernel, stride and padding with zeros; without groups and dilation.
        height, width: of its maps.

    Attributes:
        product: (C', C) where each place is made of one pixel, else (h' w' C', h w C): all places of all pixels.
        bias: (C',) or (h' w' C',), or None.
    """

    def __init__(self, convolution: nn.Conv2d, height: int, width: int) -> None:
        super().__init__()
        self.stride = cast(tuple[int, int], convolution.stride)
        self.kernel_shape, self.padding = convolution.weight.shape, cast(tuple[int, int], convolution.padding)
        self.map = height, width
        kernel, bias = convolution.weight.detach(), convolution.bias
        self.places = tuple(
            (side + 2 * pad - taps) // step + 1
            for side, pad, taps, step in zip(self.map, self.padding, kernel.shape[2:], self.stride, strict=True)
        )
        self.one_pixel = kernel.shape[2:] == (1, 1) and self.padding == (0, 0)
        weight = kernel[:, :, 0, 0] if self.one_pixel else self._dense(kernel)
        self.product = nn.Parameter(weight.contiguous(), requires_grad=False)
        many = 1 if self.one_pixel else self.places[0] * self.places[1]
        self.bias = None if bias is None else nn.Parameter(bias.detach().repeat(many), requires_grad=False)

    def _dense(self, kernel: Tensor) -> Tensor:
        """What each pixel alone makes of all places: the columns of the whole map's product."""
        channels, (height, width) = kernel.shape[1], self.map
        units = torch.eye(height * width * channels, dtype=kernel.dtype, device=kernel.device)
        maps = units.view(-1, height, width, channels).permute(0, 3, 1, 2)
        made = F.conv2d(maps, kernel, stride=self.stride, padding=self.padding)  # (h w C, C', h', w')
        return made.permute(2, 3, 1, 0).flatten(0, 2)

    @property
    def kernel(self) -> Tensor:
        """The convolution's, (C', C, kH, kW); taps that meet no pixel are 0."""
        if self.one_pixel:
            return self.product[:, :, None, None]
        made = self.product.new_zeros(self.kernel_shape)
        (rows, columns), (height, width) = self.places, self.map
        blocks = self.product.view(rows, columns, self.kernel_shape[0], height, width, self.kernel_shape[1])
        for row, column, down, across in product(range(rows), range(columns), range(height), range(width)):
            tap = [
                at + pad - place * step
                for at, pad, place, step in zip((down, across), self.padding, (row, column), self.stride, strict=True)
            ]
            if all(0 <= at < side for at, side in zip(tap, self.kernel_shape[2:], strict=True)):
                made[:, :, tap[0], tap[1]] = blocks[row, column, :, down, across]
        return made

    @property
    def channel_bias(self) -> Tensor | None:
        """The convolution's, (C',)."""
        return None if self.bias is None else self.bias[: self.kernel_shape[0]]

    def forward(self, maps: Tensor) -> Tensor:
        pixels = maps.permute(0, 2, 3, 1)
        if self.one_pixel and self.stride != (1, 1):
            pixels = pixels[:, :: self.stride[0], :: self.stride[1]]
        made = F.linear(pixels.reshape(-1, self.product.shape[1]), self.product, self.bias)
        return made.view(-1, *self.places, self.kernel_shape[0]).permute(0, 3, 1, 2)


def as_products(network: nn.Module, sizes: Mapping[nn.Conv2d, tuple[int, int]]) -> None:
    """Puts :class:`MapProduct` in place of the convolutions on small maps, in place.

    Args:
        network: in eval mode.
        sizes: height and width of the maps of each plain convolution that always has the same.
    """
    for parent in network.modules():
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer in sizes:
                height, width = sizes[layer]
                if height * width <= SMALL_MAP:
                    setattr(parent, name, MapProduct(layer, height, width))
