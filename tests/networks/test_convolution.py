"""MatmulConv2d against torch's own convolution, which is the definition."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lightning_cifake.networks.convolution import MatmulConv2d, to_channels_last_, window
from lightning_cifake.networks.resnet50 import ResNet50Detector

# products of float64 numbers of size 1, some dozens of them summed in another order
ROUNDING = 1e-12


def convolution(kernel, stride=1, padding=0, channels=(5, 7), **others):
    plain = nn.Conv2d(*channels, kernel, stride=stride, padding=padding, bias=False, **others)
    return plain.double()


def outcome(layer, images):
    """What comes out, and the gradients of a sum in which every place counts differently."""
    images = images.detach().clone().requires_grad_()
    out = layer(images)
    (out * torch.linspace(1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    return out.detach(), images.grad, gradient


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (5, 6)]),
    laid=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_numbers_and_gradients_are_those_of_torchs_convolution(
    kernel, stride, padding, size, laid, channels_last, seed
):
    if any(length + 2 * pad < side for length, pad, side in zip(size, padding, kernel, strict=True)):
        return  # torch refuses these
    torch.manual_seed(seed)
    plain = convolution(kernel, stride, padding)
    product = MatmulConv2d.from_conv2d(copy.deepcopy(plain))
    if laid:
        to_channels_last_(product)
    images = torch.randn(3, 5, *size, dtype=torch.float64)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(outcome(product, images), outcome(plain, images), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


def test_on_one_pixel_a_3x3_kernel_is_its_middle_tap_and_the_others_have_no_gradient():
    assert window(1, 3, 1, 1).taps == range(1, 2)
    assert window(2, 3, 1, 1).taps == range(3)
    assert window(2, 3, 2, 1).taps == range(1, 3)  # the torchvision layout's step from 2x2 to 1x1
    product = MatmulConv2d.from_conv2d(convolution(3, padding=1))
    *_, gradient = outcome(product, torch.randn(4, 5, 1, 1, dtype=torch.float64))
    middle = gradient[:, :, 1, 1].clone()
    gradient[:, :, 1, 1] = 0
    assert middle.abs().min() > 0 and gradient.abs().max() == 0


def test_a_gradient_lies_in_memory_as_its_weight_does():
    """Or Adam and DistributedDataParallel copy it each step, the latter with a warning."""
    for kernel in (1, 3):
        product = MatmulConv2d.from_conv2d(convolution(kernel, padding=kernel // 2))
        to_channels_last_(product)
        for size in (1, 2):
            *_, gradient = outcome(product, torch.randn(4, 5, size, size, dtype=torch.float64))
            assert gradient.stride() == product.weight.stride()


@pytest.mark.parametrize("trained", ["weight", "images"])
def test_what_is_frozen_gets_no_gradient(trained):
    product = MatmulConv2d.from_conv2d(convolution(1))
    product.weight.requires_grad_(trained == "weight")
    images = torch.randn(2, 5, 2, 2, dtype=torch.float64, requires_grad=trained == "images")
    product(images).sum().backward()
    assert (product.weight.grad is not None) == (trained == "weight")
    assert (images.grad is not None) == (trained == "images")


def test_under_autocast_it_computes_and_answers_in_bf16_and_the_weights_gradient_is_float32():
    product = MatmulConv2d.from_conv2d(convolution(1).float())
    with torch.autocast("cpu", torch.bfloat16):
        out = product(torch.randn(2, 5, 2, 2))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert product.weight.grad.dtype == torch.float32


def test_what_no_product_is_known_for_is_refused():
    for other in ({"dilation": 2}, {"groups": 5, "channels": (5, 5)}, {"padding_mode": "reflect", "padding": 1}):
        with pytest.raises(ValueError, match="without bias, groups and dilation"):
            MatmulConv2d.from_conv2d(convolution(3, **other))
    with pytest.raises(ValueError, match="without bias"):
        MatmulConv2d.from_conv2d(nn.Conv2d(3, 4, 3))


def test_an_export_holds_convolutions_not_products():
    product = MatmulConv2d.from_conv2d(convolution(1).float()).eval()
    program = torch.export.export(product, (torch.randn(2, 5, 2, 2),))
    assert [node.name for node in program.graph.nodes if "conv2d" in node.name]


@pytest.mark.parametrize("layout", ["keras", "torchvision"])
@pytest.mark.parametrize("image_size", [32, 64])
def test_a_network_of_products_learns_as_one_of_convolutions(layout, image_size, monkeypatch):
    torch.manual_seed(0)
    network = ResNet50Detector(layout, image_size=image_size, dropout=0.0).double()
    images = torch.rand(4, 3, image_size, image_size, dtype=torch.float64)
    found = {}
    for name, forward in (("product", MatmulConv2d.forward), ("convolution", nn.Conv2d.forward)):
        monkeypatch.setattr(MatmulConv2d, "forward", forward)
        network.zero_grad()
        F.softplus(network(images)).sum().backward()
        found[name] = [parameter.grad.clone() for parameter in network.parameters()]
    for ours, theirs in zip(found["product"], found["convolution"], strict=True):
        # batch norm over four images magnifies a rounding, by some thousands
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max().clamp(min=1e-9)
