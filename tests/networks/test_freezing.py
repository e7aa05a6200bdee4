"""The head of a network alone is trained: what that is, and that the rest stays as it is to the last bit."""

import pytest
import torch
from tiny import TinyNetwork
from torch import nn

from lightning_cifake import FakeImageClassifier
from lightning_cifake.errors import UserError
from lightning_cifake.networks import CorrelationNet, CustomCNN, Meso4, ResNet50Detector
from lightning_cifake.networks.freezing import freeze_backbone, head_of


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (CustomCNN, {"head.weight", "head.bias"}),
        (Meso4, {"head.weight", "head.bias"}),
        (CorrelationNet, {"head.weight", "head.bias"}),
        (TinyNetwork, {"layers.10.weight", "layers.10.bias"}),
        (lambda: ResNet50Detector(head="avgpool, dense 8 relu, dense 1"), {"head.dense1.weight", "head.dense1.bias",
                                                                          "head.logit.weight", "head.logit.bias"}),
    ],
    ids=["custom_cnn", "meso4", "correlation", "last linear layer", "the whole head of resnet50"],
)  # fmt: skip
def test_the_head_is_what_trains(make: type, expected: set[str]) -> None:
    with torch.device("meta"):
        network = make()
    freeze_backbone(network)
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == expected


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.Conv2d(3, 1, 32), nn.Flatten(0)), nn.Sequential(nn.Flatten(), nn.Linear(3072, 1))]
)
def test_a_network_without_a_head_or_without_anything_else_is_refused_in_one_line(network: nn.Module) -> None:
    with pytest.raises(UserError, match=r"^model\.freeze_backbone: expected a network with a head") as refused:
        head_of(network)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [Meso4, TinyNetwork, CorrelationNet])
def test_what_is_frozen_moves_no_weight_and_no_statistic_and_drops_nothing(make: type) -> None:
    torch.manual_seed(0)
    model = FakeImageClassifier(network=make(), freeze_backbone=True).eval()
    images = torch.rand(8, 3, 32, 32)
    logits = model(images)
    model.train()  # as Lightning leaves it after a validation
    assert torch.equal(model(images), logits)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model(images).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}
    head = head_of(model.network)
    assert changed == {
        name for name, p in model.network.named_parameters() if any(p is own for own in head.parameters())
    }
    assert model.hparams["freeze_backbone"] is True


def test_without_being_asked_everything_trains() -> None:
    model = FakeImageClassifier(network=Meso4()).train()
    assert all(p.requires_grad for p in model.parameters()) and all(module.training for module in model.modules())
