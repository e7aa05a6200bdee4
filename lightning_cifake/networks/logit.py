"""The last layer of a network, and the size of its images: what every shipped network does in the same way."""

import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.text import printable, shorten


def logits_of(layer: nn.Linear, features: Tensor) -> Tensor:
    """(N, F) features -> (N,) logits, in the precision of the weights under autocast too.

    bf16 has 8 bits, and would tie probabilities.
    """
    device = features.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta, which only counts, knows no autocast
        return layer(features).squeeze(1)
    with torch.autocast(device, enabled=False):
        return layer(features.to(layer.weight.dtype)).squeeze(1)


def check_image_size(image_size: object, least: int = 1, multiple: int = 1) -> int:
    """The side of a network's images, before anything is allocated.

    Args:
        image_size: what was given.
        least: the smallest side that the network takes.
        multiple: what a side has to be a multiple of.

    Raises:
        UserError: another one; says what was expected.
    """
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if whole and least <= image_size <= LARGEST_IMAGE and image_size % multiple == 0:  # type: ignore[operator]
        return image_size  # type: ignore[return-value]
    kind = "whole number" if multiple == 1 else f"multiple of {multiple}"
    shown = shorten(printable(repr(image_size)), 40)
    raise UserError(f"model.network.image_size: expected a {kind} from {least} to {LARGEST_IMAGE}, got {shown}")
