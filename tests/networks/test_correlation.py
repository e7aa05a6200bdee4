"""ScNet: the authors' parameters but for one logit, its maps at 32 px, and its initialisation."""

import pytest
import torch
from torch import nn

from lightning_cifake.networks import CorrelationNet


@pytest.fixture(scope="module")
def network() -> CorrelationNet:
    torch.manual_seed(0)
    return CorrelationNet()


def test_its_parameters_are_counted_by_hand(network: CorrelationNet) -> None:
    # a branch: 1x1 of 3 to 1, 3; 3x3 of 1 to 8, 72, and batch norm, 16; 3x3 of 8 to 8, 576, and batch norm, 16, twice
    branch = 3 + 72 + 16 + 2 * (576 + 16)
    # 3x3 without biases, and batch norm: 24-32 6,912 + 64; 32-32 9,216 + 64; 32-64 18,432 + 128; 64-128 73,728 + 256;
    # 128-256 294,912 + 512; 256-256 589,824 + 512
    blocks = 6_976 + 9_280 + 18_560 + 73_984 + 295_424 + 590_336
    assert sum(p.numel() for p in network.parameters()) == 3 * branch + blocks + 256 + 1 == 998_642


def test_the_blocks_see_maps_of_32_32_15_7_3_and_1(network: CorrelationNet) -> None:
    sides: list[int] = []
    hooks = [b.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[-1])) for b in network.blocks]
    network(torch.rand(2, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    assert sides == [32, 32, 15, 7, 3, 1]


def test_a_branch_sees_images_from_minus_one_to_one_and_codes_their_colours_linearly(network: CorrelationNet) -> None:
    seen: list[torch.Tensor] = []
    hook = network.branches[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.eval()(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]))
    hook.remove()
    assert (seen[0][0] == -1).all() and (seen[0][1] == 1).all()
    kinds = [type(layer).__name__ for layer in network.branches[0]][:4]
    assert kinds == ["Conv2d", "Conv2d", "BatchNorm2d", "Conv2d"]


def test_its_weights_start_near_zero_and_its_scales_near_one(network: CorrelationNet) -> None:
    kernels = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    scales = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert kernels.std().item() == pytest.approx(0.02, rel=0.02) and abs(kernels.mean().item()) < 1e-3
    assert scales.std().item() == pytest.approx(0.02, rel=0.15) and abs(scales.mean().item() - 1) < 5e-3
