"""What is exported: bytes of any size in, P(REAL) out; resize, scaling, network, temperature, sigmoid in one module."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_cifake.deploy.simplify import simplified

InputType = Literal["uint8", "float32"]


class ExportGraph(nn.Module):
    """``images`` (N, H, W, 3) RGB -> ``prob_real`` (N,) in [0, 1] and ``logit`` (N,), both float32.

    Images of another size than the network's are resized as in training.

    Args:
        network: in any mode; a copy of it is simplified, it stays as it is.
        image_size: height and width that images are brought to.
        input_type: ``uint8``, bytes 0 to 255 as decoders give them, or ``float32``, values in [0, 1].
        temperature: what logits are divided by; the ``logit`` that comes out is divided already.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        input_type: InputType = "uint8",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.image_size = simplified(network, image_size), image_size
        self.input_type, self.temperature = input_type, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        resized = resize(images, self.image_size)
        if self.input_type == "uint8":
            resized = resized.round() / 255  # to whole values, as decode_image does; halves to even in both
        logit = self.network(resized.permute(0, 3, 1, 2)).float()
        if self.temperature != 1:
            logit = logit / self.temperature
        return logit.sigmoid(), logit


def resize(images: Tensor, size: int) -> Tensor:
    """(N, H, W, 3) uint8 or float32 -> (N, S, S, 3) float32: bilinear, half-pixel centres, no antialiasing.

    At H = W = S it changes nothing, and the exported graph asks for that first: the arithmetic of it would take a tenth
    of a small network's time.
    """
    right = (images.shape[1] == size) & (images.shape[2] == size)
    if torch.compiler.is_compiling():  # sizes are symbols, and both ways go into the graph
        found: Tensor = torch.cond(right, partial(_taken, size=size), partial(_bilinear, size=size), (images,))
        return found
    return images.float() if right else _bilinear(images, size)


def _taken(images: Tensor, size: int) -> Tensor:
    """The images as they are, by indices, which say that their size is S."""
    at = torch.arange(size)
    return images.index_select(1, at).index_select(2, at).float()


def _bilinear(images: Tensor, size: int) -> Tensor:
    """The same as ``tf.image.resize`` and OpenCV, but with places in whole units of 1 / 2S of a pixel.

    No runtime can round them otherwise, and at S = 32 bytes come out exactly. ONNX's own Resize computes places in
    float32, where a value that lies on a half is then rounded to another byte.
    """
    top, bottom, down = _places(images.shape[1], size)
    left, right, across = _places(images.shape[2], size)
    down, across = down.view(1, size, 1, 1), across.view(1, 1, size, 1)
    # rows first, and floats last: of a large image only 2S rows are touched
    upper, lower = images.index_select(1, top), images.index_select(1, bottom)
    above = _between(upper.index_select(2, left), upper.index_select(2, right), across)
    below = _between(lower.index_select(2, left), lower.index_select(2, right), across)
    return above + (below - above) * down


def _places(length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(S,) first neighbours, (S,) second ones, (S,) how far it is from the first to the second, in [0, 1)."""
    place = ((2 * torch.arange(size) + 1) * length - size).clamp(min=0)  # of (i + 1/2) H/S - 1/2, in units of 1 / 2S
    first = place // (2 * size)
    return first, (first + 1).clamp(max=length - 1), (place % (2 * size)).float() / (2 * size)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    first = first.float()
    return first + (second.float() - first) * share
