"""Convolutions on small maps as matrix products: the same numbers, both ways, and only where they pay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_cifake.deploy.products import MapProduct, as_products
from lightning_cifake.deploy.simplify import map_sizes, simplified
from lightning_cifake.networks import ResNet50Detector


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1]),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    bias=st.booleans(),
)
def test_a_product_gives_what_the_convolution_gives_and_gives_its_kernel_back(
    kernel: int, stride: int, padding: int, height: int, width: int, bias: bool
) -> None:
    if min(height, width) + 2 * padding < kernel:
        return
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
    made = MapProduct(layer, height, width)
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(maps)
        assert torch.allclose(made(maps), expected, rtol=0, atol=1e-14)  # other orders of sums of 27 numbers
        layer.weight.copy_(made.kernel)
        assert torch.allclose(layer(maps), expected, rtol=0, atol=1e-14)
    assert bias == (made.channel_bias is not None)
    if bias:
        assert torch.equal(made.channel_bias, layer.bias)


def test_the_last_two_stages_of_resnet50_are_products_and_the_others_convolutions() -> None:
    network = simplified(ResNet50Detector(layout="keras"), 32)
    products = {name for name, layer in network.named_modules() if isinstance(layer, MapProduct)}
    left = {name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    # a stage's first block takes maps of the stage before it
    assert {name.split(".")[1] for name in products} == {"layer3", "layer4"}
    assert {name for name in left if "layer3" in name} == {"backbone.layer3.0.conv1", "backbone.layer3.0.downsample.0"}
    assert not any("layer4" in name for name in left)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    ],
    ids=["groups", "dilation", "another padding", "a weight that is computed"],
)
def test_what_is_no_plain_convolution_stays_as_it_is(layer: nn.Module) -> None:
    network = nn.Sequential(layer).eval()
    as_products(network, map_sizes(network, torch.rand(1, 4, 2, 2)))
    assert network[0] is layer


def test_a_convolution_that_sees_maps_of_two_sizes_stays_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images).mean() + self.layer(images[:, :, :1, :1]).mean()

    network = Twice()
    as_products(network, map_sizes(network, torch.rand(1, 3, 2, 2)))
    assert isinstance(network.layer, nn.Conv2d)
