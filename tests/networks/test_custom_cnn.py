"""The paper's "existing system": the layers and the parameters of CIFAKE's authors."""

import torch
from torch import nn

from lightning_cifake.networks import CustomCNN


def test_its_parameters_are_counted_by_hand() -> None:
    # convolutions 3*3*3*32 + 32 = 896 and 3*3*32*32 + 32 = 9,248; dense 32*8*8*64 + 64 = 131,136 and 64 + 1 = 65
    assert sum(p.numel() for p in CustomCNN().parameters()) == 896 + 9_248 + 131_136 + 65 == 141_345


def test_its_maps_are_halved_twice_and_rounded_down_as_keras_does() -> None:
    network = CustomCNN(image_size=30)
    assert network.maps(torch.rand(1, 3, 30, 30)).shape == (1, 32, 7, 7)
    assert network(torch.rand(2, 3, 30, 30)).shape == (2,)


def test_its_weights_start_as_in_keras() -> None:
    network = CustomCNN()
    for layer in (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)):
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
        assert layer.weight.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5 and not layer.bias.any()
