"""ResNet50 with all of its arrays, and two numbers a side in each: its files are converted in a tenth of the time."""

import functools
from typing import Any

import torch
from torch import nn

from lightning_cifake.networks.resnet50 import ResNet50Detector

LINE = "avgpool, dense 1"  # the head of the shrunk network


def small(shape: Any) -> tuple[int, ...]:
    return tuple(min(length, 2) for length in shape)


@functools.cache
def _whole() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return {name: torch.empty(small(v.shape)) for name, v in ResNet50Detector(head=LINE).state_dict().items()}


def expected(head: str | None, image_size: int) -> dict[str, torch.Tensor]:
    """In place of ``importer._like``; the backbone alone without a head."""
    return {name: value for name, value in _whole().items() if head or name.startswith("backbone.")}


def network(**arguments: Any) -> ResNet50Detector:
    """In place of ``ResNet50Detector``, to hold weights and to be written; of random numbers."""
    with torch.device("meta"):
        made = ResNet50Detector(**arguments)
    for module in made.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.rand(small(value.shape)), value.requires_grad))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(small(value.shape), dtype=value.dtype))
    return made
