"""Any network is exported with its batch norms folded and its padding taps pruned, or as it is: never wrong."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cifake.deploy.simplify import fold_batch_norm, prune_padding_taps, simplified
from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import check_inference, for_export
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector

FLOAT32 = 2e-5  # a logit of about 1 through 53 convolutions, whose scale is folded in: sums round otherwise


def trained(made: nn.Module) -> nn.Module:
    """With batch norms that are not the identity: a fresh one would hide a wrong fold."""
    for module in made.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return made.eval()


def resnet50(head: str = PUBLISHED_HEAD, image_size: int = 32, **others: Any) -> ResNet50Detector:
    torch.manual_seed(0)
    return trained(ResNet50Detector(head=head, image_size=image_size, **others))  # type: ignore[return-value]


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def furthest(a: nn.Module, b: nn.Module, size: int = 32) -> float:
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return float((a(images) - b(images)).abs().max())


@pytest.mark.parametrize(
    ("head", "left"),
    [
        (PUBLISHED_HEAD, 0),
        ("avgpool, dense 8 nobias, batchnorm, relu, dense 1", 0),  # into the dense layer before it
        ("flatten, batchnorm, relu, batchnorm, tanh, dense 1", 2),  # nothing to fold into
        ("flatten, dense 8 relu, batchnorm eps 0.1, dropout, dense 1 nobias", 0),
    ],
)
def test_resnet50_keeps_its_answers_without_batch_norms(head: str, left: int) -> None:
    made = resnet50(head)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    found = simplified(made, 32)
    assert furthest(found, made) < FLOAT32
    assert norms(found) == left
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


@pytest.mark.parametrize("layout", ["keras", "torchvision"])
@pytest.mark.parametrize("image_size", [32, 48, 64])
def test_taps_that_see_padding_alone_are_pruned_and_change_no_logit(layout: str, image_size: int) -> None:
    made = for_export(resnet50(image_size=image_size, layout=layout))
    pruned: Any = copy.deepcopy(made)
    prune_padding_taps(pruned, torch.zeros(1, 3, image_size, image_size))
    assert furthest(pruned, made, image_size) < FLOAT32
    kernels = {block.conv2.kernel_size for block in pruned.backbone.layer4}
    if image_size == 32 and layout == "keras":
        assert kernels == {(1, 1)} and 0.7 * weights(made) < weights(pruned) < 0.75 * weights(made)
    if image_size == 64:  # 2x2 maps: each tap meets a pixel somewhere
        assert (3, 3) in kernels and weights(pruned) == weights(made)


class Made(nn.Module):
    """A network of the layers and the forward that a test gives."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, images: Tensor) -> Tensor:
        return self._forward(self, images)


def mean(maps: Tensor) -> Tensor:
    return maps.mean((1, 2, 3))


def branches(net: Any, images: Tensor) -> Tensor:
    return mean(net.a_norm(net.a(images)).relu() + net.b_norm(net.b(images)))


def hidden_use(net: Any, images: Tensor) -> Tensor:
    maps = net.conv(images)
    return mean(net.norm(maps) + 2 * maps)


def in_place(net: Any, images: Tensor) -> Tensor:
    return mean(net.norm(net.conv(images).relu_()))


def twice(net: Any, images: Tensor) -> Tensor:
    return mean(net.norm(net.conv(net.conv(images))))


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1, **options)


FORMS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "two branches": (
        lambda: Made(branches, a=conv(), a_norm=nn.BatchNorm2d(3), b=conv(bias=False), b_norm=nn.BatchNorm2d(3)),
        0,
    ),
    "groups and dilation": (
        lambda: Made(
            lambda net, x: mean(net.norm(net.conv(x))),
            conv=nn.Conv2d(3, 6, 3, groups=3, dilation=2, padding="same", padding_mode="reflect"),
            norm=nn.BatchNorm2d(6, affine=False),
        ),
        0,
    ),
    "a batch norm before the convolution": (
        lambda: Made(lambda net, x: mean(net.conv(net.norm(x))), conv=conv(), norm=nn.BatchNorm2d(3)),
        1,
    ),
    "the convolution's output is used a second time": (
        lambda: Made(hidden_use, conv=conv(), norm=nn.BatchNorm2d(3)),
        1,
    ),
    "an activation in place between them": (lambda: Made(in_place, conv=conv(), norm=nn.BatchNorm2d(3)), 1),
    "a convolution that works twice": (lambda: Made(twice, conv=conv(), norm=nn.BatchNorm2d(3)), 1),
    "a weight that is computed": (
        lambda: Made(
            lambda net, x: mean(net.norm(net.conv(x))),
            conv=nn.utils.parametrizations.weight_norm(conv()),
            norm=nn.BatchNorm2d(3),
        ),
        1,
    ),
    "features, a bare batch norm into the next": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(3072, 4), nn.Tanh(), nn.BatchNorm1d(4, affine=False), nn.Dropout(), nn.Linear(4, 1),
            nn.Flatten(0),
        ),
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_network_of_any_form_keeps_its_answers(name: str) -> None:
    make, left = FORMS[name]
    torch.manual_seed(0)
    made = trained(make())
    found = simplified(made, 32)
    assert furthest(found, made) < 1e-5
    assert norms(found) == left


def test_a_network_that_cannot_work_in_float64_is_taken_as_it_is(caplog: Any) -> None:
    made = Made(lambda net, x: mean(net.norm(net.conv(x.float()))), conv=conv(), norm=nn.BatchNorm2d(3)).eval()
    with caplog.at_level(logging.WARNING):
        found = simplified(made, 32)
    assert norms(found) == 1 and furthest(found, made) == 0
    assert "Made is exported as it is, batch norms not folded into its weights: RuntimeError in float64" in caplog.text


def test_a_fold_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def wrong(network: Any, images: Tensor) -> None:
        fold_batch_norm(network, images)
        network.head[-1].bias.data += 1e-6

    monkeypatch.setattr("lightning_cifake.deploy.simplify.fold_batch_norm", wrong)
    made = resnet50()
    assert furthest(simplified(made, 32), made) == 0
    assert "is exported as it is, batch norms not folded into its weights: its answers would differ" in caplog.text


class WithExport(nn.Module):
    """Trains with two heads, is exported with one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.second = nn.Linear(3 * 8 * 8, 1), nn.Linear(3 * 8 * 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return (self.body(images.flatten(1)) + 0 * self.second(images.flatten(1))).squeeze(1)

    def for_export(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), copy.deepcopy(self.body), nn.Flatten(0))


def test_a_network_s_own_form_for_export_is_taken_in_eval_mode_float32_and_without_gradients() -> None:
    made = WithExport().double().train()
    found = for_export(made)
    assert isinstance(found, nn.Sequential) and not found.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in found.parameters())
    assert made.training and all(p.dtype == torch.float64 and p.requires_grad for p in made.parameters())


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda net, x: mean(x)[:, None],
         r"Made returned shape \(2, 1\) for \(2, 3, 8, 8\): expected one logit .* shape \(2,\): end .* .squeeze\(1\)"),
        (lambda net, x: torch.stack([mean(x)] * 2, 1), r"shape \(2, 2\) .*: of two logits give the one of REAL less"),
        (lambda net, x: mean(x).sum(), r"returned shape \(\) "),
        (lambda net, x: [mean(x)], r"returned list "),
        (lambda net, x: mean(x - x.mean(0)), "answers about an image otherwise alone than in a batch"),
        (lambda net, x: mean(x) + torch.rand(len(x)), "and not on chance"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_one_line(forward: Callable[[Any, Tensor], Tensor], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_inference(Made(forward), 8)
