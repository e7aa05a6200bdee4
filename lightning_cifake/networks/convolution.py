"""ResNet50's convolutions as matrix products, where a CPU is faster so: the same sums, in a fraction of the time.

On 32 px images the last two stages' maps are 2x2 and 1x1. There a 3x3 convolution meets mostly padding, and oneDNN's
backward pass of one runs at a tenth of the rate of a matrix product; its 1x1 convolutions at a third to four fifths.
``docs/benchmark`` has the profile.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL_MAP = 4  # pixels of a map up to which larger kernels are products too; from 4x4 on oneDNN is as fast


class MatmulConv2d(nn.Conv2d):
    """``nn.Conv2d`` without bias, groups or dilation that computes as a matrix product on a CPU, where that is faster.

    Takes and gives the same numbers, gradients too, up to the order of summation; on other devices, under export and
    compilation, and with a bias (batch norm folded in) it is ``nn.Conv2d``. (N, C, H, W) float -> (N, C', H', W').
    Fast on channels last images, and with a kernel that :func:`to_channels_last_` has laid so.
    """

    @classmethod
    def from_conv2d(cls, convolution: nn.Conv2d) -> "MatmulConv2d":
        """The same convolution, with the same weight.

        Raises:
            ValueError: it has a bias, groups or a dilation, or pads with anything but zeros.
        """
        plain = (1, (1, 1), "zeros", None)
        got = (convolution.groups, convolution.dilation, convolution.padding_mode, convolution.bias)
        if got != plain or isinstance(convolution.padding, str):
            raise ValueError(f"expected a convolution without bias, groups and dilation, got {convolution}")
        made = cls(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            bias=False,
            device="meta",  # nothing is drawn: its weight is the other's
        )
        made.weight = convolution.weight
        return made

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.shape[2] * images.shape[3]
        padding = cast(tuple[int, int], self.padding)
        if (
            images.device.type != "cpu"
            or self.bias is not None
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or (pixels > SMALL_MAP and self.kernel_size != (1, 1))
            or any(pad >= side for pad, side in zip(padding, self.kernel_size, strict=True))  # it may see padding alone
        ):
            return super().forward(images)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            images, weight = images.to(dtype), weight.to(dtype)
        return cast(Tensor, _MatmulFunction.apply(images, weight, self.stride, padding))


def to_channels_last_(convolution: nn.Conv2d) -> None:
    """Lays a kernel channels last in memory: what a product takes without copying. Its values and shape stay."""
    convolution.weight.data = convolution.weight.data.to(memory_format=torch.channels_last)


class Window(NamedTuple):
    """The taps of a kernel that ever meet a pixel, along one axis, and the places that it is laid on."""

    first: int
    end: int
    places: int
    stride: int
    padding: int

    @property
    def taps(self) -> range:
        return range(self.first, self.end)


def window(size: int, kernel: int, stride: int, padding: int) -> Window:
    """On a map of 1 pixel a kernel of 3 with a padding of 1 is its middle tap: the other two see zeros alone."""
    places = (size + 2 * padding - kernel) // stride + 1
    first = max(0, padding - (places - 1) * stride)
    return Window(first, min(kernel, size + padding), places, stride, padding)


class _MatmulFunction(torch.autograd.Function):
    """(N * places, taps * C) @ (taps * C, C'); everything is channels last in memory."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        rows, columns = (
            window(images.shape[axis], weight.shape[axis], stride[axis - 2], padding[axis - 2]) for axis in (2, 3)
        )
        columns_matrix = _im2col(images, rows, columns)
        kernel = _seen_taps(weight, rows, columns).reshape(weight.shape[0], -1)
        ctx.save_for_backward(columns_matrix, kernel, weight)
        ctx.geometry = (images.shape, rows, columns)
        product = columns_matrix @ kernel.t()
        return product.view(len(images), rows.places, columns.places, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        columns_matrix, kernel, weight = ctx.saved_tensors
        gradient = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = _col2im(gradient @ kernel, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            of_weight = _of_all_taps(gradient.t() @ columns_matrix, weight, *ctx.geometry[1:])
        return of_images, of_weight, None, None


def _seen_taps(weight: Tensor, rows: Window, columns: Window) -> Tensor:
    """(C', C, kH, kW) -> (C', rows, columns, C), a view."""
    return weight.permute(0, 2, 3, 1)[:, rows.first : rows.end, columns.first : columns.end]


def _of_all_taps(product: Tensor, weight: Tensor, rows: Window, columns: Window) -> Tensor:
    """(C', taps * C), the gradient of the taps that see pixels -> (C', C, kH, kW), the others' is 0."""
    if weight.shape[2:] == (1, 1):
        # in the weight's own strides, which DDP asks for, of axes of one too
        return product.as_strided(weight.shape, (*product.stride(), *weight.stride()[2:]))
    if (len(rows.taps), len(columns.taps)) == weight.shape[2:]:
        return product.view(weight.shape[0], *weight.shape[2:], -1).permute(0, 3, 1, 2)
    gradient = torch.zeros_like(weight)
    seen = _seen_taps(gradient, rows, columns)
    seen.copy_(product.view(seen.shape))
    return gradient


def _places(rows: Window, columns: Window) -> Iterator[tuple[slice, slice, slice]]:
    """For each tap, where in the padded (N, H, W, C) map it lies over all places."""
    for row in rows.taps:
        for column in columns.taps:
            yield slice(None), _tap_slice(row, rows), _tap_slice(column, columns)


def _tap_slice(tap: int, along: Window) -> slice:
    return slice(tap, tap + along.stride * (along.places - 1) + 1, along.stride)


def _im2col(images: Tensor, rows: Window, columns: Window) -> Tensor:
    """(N, C, H, W) -> (N * places, taps * C); without a copy where each place is a pixel."""
    pixels = images.permute(0, 2, 3, 1)
    if _each_place_is_a_pixel(rows, columns, pixels.shape):
        return pixels.reshape(-1, pixels.shape[3])
    padded = pixels
    if rows.padding or columns.padding:
        padded = F.pad(pixels, (0, 0, columns.padding, columns.padding, rows.padding, rows.padding))
    columns_matrix = torch.stack([padded[at] for at in _places(rows, columns)], dim=3)
    return columns_matrix.view(-1, columns_matrix.shape[3] * columns_matrix.shape[4])


def _each_place_is_a_pixel(rows: Window, columns: Window, shape: torch.Size) -> bool:
    one_tap = len(rows.taps) == len(columns.taps) == 1
    return one_tap and (rows.places, columns.places) == shape[1:3]


def _col2im(columns_matrix: Tensor, shape: torch.Size, rows: Window, columns: Window) -> Tensor:
    """The transpose of the laying out: (N * places, taps * C) -> (N, C, H, W)."""
    count, channels, height, width = shape
    if _each_place_is_a_pixel(rows, columns, torch.Size((count, height, width))):
        return columns_matrix.view(count, height, width, channels).permute(0, 3, 1, 2)
    padded = columns_matrix.new_zeros(count, height + 2 * rows.padding, width + 2 * columns.padding, channels)
    taps = columns_matrix.view(count, rows.places, columns.places, -1, channels)
    for tap, at in enumerate(_places(rows, columns)):
        padded[at] += taps[:, :, :, tap]
    inner = padded[:, rows.padding : rows.padding + height, columns.padding : columns.padding + width]
    return inner.permute(0, 3, 1, 2)
