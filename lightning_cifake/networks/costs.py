"""What a network costs, counted: parameters, and the multiply-adds of one answer."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Costs(NamedTuple):
    """``parameters``: trained or not, None of a network without any. ``multiply_adds``: of one image, in matrix
    products and convolutions as their formulas have it, padding included; None where they cannot be counted."""

    parameters: int | None
    multiply_adds: int | None


def costs_of(network: nn.Module, image_size: int) -> Costs:
    """Counted on torch's meta device, with a copy of the network: nothing is computed."""
    parameters = sum(parameter.numel() for parameter in network.parameters()) or None
    try:
        counted = copy.deepcopy(network).to("meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            counted(torch.empty(1, 3, image_size, image_size, device="meta"))
    except Exception:  # it looks at values, or is no graph of torch's at all: whatever it meets there
        return Costs(parameters, None)
    return Costs(parameters, counter.get_total_flops() // 2 or None)
