"""MesoNet: the papers' parameters at its own size, its order of layers, and what its branches see."""

import pytest
import torch
from torch import nn

from lightning_cifake.networks import Meso4, MesoInception4
from lightning_cifake.networks.batch_norm import KerasBatchNorm2d


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_meso4s_parameters_are_counted_by_hand_and_at_256_px_they_are_the_papers() -> None:
    # kernels and biases 3*3*3*8 + 8 = 224, 5*5*8*8 + 8 = 1,608, 5*5*8*16 + 16 = 3,216, 5*5*16*16 + 16 = 6,416;
    # batch norms 2 * (8 + 8 + 16 + 16) = 96; dense 16*16 + 16 = 272 and 16 + 1 = 17
    assert parameters(Meso4()) == 224 + 1_608 + 3_216 + 6_416 + 96 + 272 + 17 == 11_849
    # the last map is 8x8 there: dense 8*8*16*16 + 16 = 16,400
    assert parameters(Meso4(image_size=256)) == 11_849 - 272 + 16_400 == 27_977


def test_mesoinception4s_parameters_are_counted_by_hand_and_at_256_px_they_are_the_papers() -> None:
    # first module, of 3 channels: 1x1 to 1 is 4; 1x1 to 4, 16, and 3x3, 148, twice; 1x1 to 2, 8, and 3x3, 38: 378
    first = 4 + 2 * (16 + 148) + 8 + 38
    # second, of 1 + 4 + 4 + 2 = 11 channels: 24; 48 + 148, twice; 24 + 38: 478
    second = 24 + 2 * (48 + 148) + 24 + 38
    # of 2 + 4 + 4 + 2 = 12: 5*5*12*16 + 16 = 4,816, then 6,416; batch norms 2 * (11 + 12 + 16 + 16) = 110; 272 and 17
    assert parameters(MesoInception4()) == first + second + 4_816 + 6_416 + 110 + 272 + 17 == 12_487
    assert parameters(MesoInception4(image_size=256)) == 12_487 - 272 + 16_400 == 28_615


@pytest.mark.parametrize("network", [Meso4(), MesoInception4()], ids=lambda network: type(network).__name__)
def test_relu_comes_before_four_batch_norms_of_their_own_with_keras_constants(network: nn.Module) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4 and {(type(n), n.eps, n.momentum) for n in norms} == {(KerasBatchNorm2d, 1e-3, 0.01)}
    assert all(module.bias is not None for module in network.modules() if isinstance(module, nn.Conv2d))
    seen: list[torch.Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.eval()(torch.rand(3, 3, 32, 32))
    assert [maps.shape[-1] for maps in seen] == [32, 16, 8, 4]
    assert all((maps >= 0).all() and (maps == 0).any() for maps in seen)
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    slopes = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert (rates, slopes) == ([0.5, 0.5], [0.1])


def test_the_inception_branches_reach_one_two_and_three_pixels_far() -> None:
    module = MesoInception4().stages[0][0]
    for parameter in module.parameters():
        nn.init.constant_(parameter, 1.0)
    image = torch.zeros(1, 3, 9, 9)
    image[0, :, 4, 4] = 1
    changed = module(image)[0] - module(torch.zeros_like(image))[0]
    far = [max(abs(int(row) - 4) for row in maps.any(dim=1).nonzero()) for maps in changed]
    assert far == [0, *[1] * 4, *[2] * 4, *[3] * 2]
