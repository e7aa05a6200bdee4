"""Optimizer, schedule and loss are arguments: by class path, class or function; the published ones by default."""

import functools
from typing import Any

import lightning as L
import pytest
import torch
from tiny import TinyNetwork
from torch import nn
from torch.nn import functional as F

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.keras_adam import KerasAdam
from lightning_cifake.training.loss import check_loss, mean_loss, summed_loss
from lightning_cifake.training.optimization import EpochDecay

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)
SGD = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}


def made(**arguments: Any) -> tuple[Any, Any, FakeImageClassifier]:
    classifier = FakeImageClassifier(TinyNetwork(), **arguments)
    (optimizer,), (schedule,) = classifier.configure_optimizers()
    return optimizer, schedule, classifier


def test_the_published_ones_are_made_where_nothing_else_is_asked() -> None:
    optimizer, schedule, classifier = made()
    assert type(optimizer) is KerasAdam and type(schedule) is EpochDecay
    assert type(classifier.loss) is nn.BCEWithLogitsLoss
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.95e-3, rel=1e-15)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (SGD, SGD),
        ("torch.optim.SGD", {"class_path": "torch.optim.SGD", "init_args": {}}),
        (torch.optim.SGD, {"class_path": "torch.optim.sgd.SGD", "init_args": {}}),
        (functools.partial(torch.optim.SGD, momentum=0.9), {"class_path": "torch.optim.sgd.SGD",
                                                            "init_args": {"momentum": 0.9}}),
        (lambda parameters, lr: torch.optim.SGD(parameters, lr), None),
        (lambda parameters: torch.optim.SGD(parameters, 0.02 / 0.95), None),
    ],
)  # fmt: skip
def test_an_optimizer_is_made_with_the_models_rate(given: Any, spec: Any) -> None:
    optimizer, _, classifier = made(optimizer=given, learning_rate=0.02 / 0.95)
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    assert classifier.hparams["optimizer"] == spec
    if spec is not None:
        assert optimizer.param_groups[0]["momentum"] == spec["init_args"].get("momentum", 0)
        again = FakeImageClassifier(**dict(classifier.hparams))  # of plain values: what a checkpoint keeps
        assert type(again.configure_optimizers()[0][0]) is torch.optim.SGD


def test_a_schedule_takes_the_place_of_the_decay() -> None:
    given = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2, "gamma": 0.1}}
    optimizer, schedule, _ = made(optimizer="torch.optim.SGD", scheduler=given, learning_rate=1.0)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}, "as model.learning_rate"),
        ({"optimizer": functools.partial(torch.optim.SGD, lr=0.1)}, "model.optimizer.lr: expected it as model.learn"),
        ({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"momntum": 1}}}, "did you mean momentum?"),
        ({"optimizer": "torch.optim.SDG"}, "did you mean torch.optim.SGD?"),
        ({"optimizer": "torch.nn.Linear"}, "expected a class that is a torch's Optimizer, got class Linear"),
        ({"optimizer": 3}, "model.optimizer: expected a class path, a class or a function, got int"),
        ({"scheduler": "torch.optim.lr_scheduler.StepLR"}, "needs the argument step_size (model.scheduler.step_size)"),
        ({"loss": "torch.optim.SGD"}, "expected a class that is a torch's Module"),
        ({"loss": nn.BCEWithLogitsLoss(reduction="sum")}, "model.loss.reduction: expected mean or none, got sum"),
    ],
)
def test_what_cannot_train_is_refused_as_it_is_asked(arguments: Any, says: str) -> None:
    with pytest.raises(UserError) as refused:
        FakeImageClassifier(TinyNetwork(), **arguments)
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(reduction="none"),
        lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels),
        lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels, reduction="none"),
    ],
)
def test_a_loss_of_each_image_or_of_their_mean_is_one_loss(loss: Any) -> None:
    logits, labels = torch.linspace(-3, 3, 7).double(), torch.tensor([0, 1, 1, 0, 1, 0, 0]).double()
    check_loss(loss)
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert mean_loss(loss, logits, labels).item() == pytest.approx(each.mean().item(), rel=1e-14)
    assert summed_loss(loss, logits, labels).item() == pytest.approx(each.sum().item(), rel=1e-14)


def test_a_loss_of_another_shape_is_refused() -> None:
    for loss, got in ((lambda a, b: torch.stack([a, b]), r"shape \(2, 3\)"), (lambda a, b: 1.0, "float")):
        with pytest.raises(UserError, match=f"one number or one for each of the 3 images, got {got}"):
            mean_loss(loss, torch.zeros(3), torch.zeros(3))


def fit(model: FakeImageClassifier, cache: Any, folder: Any, epochs: int, checkpoint: Any = None) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", plugins=[SafeCheckpointIO()], logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, CIFAKEDataModule(root="demo", sample=96, cache_dir=str(cache)), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


def test_a_plateau_of_the_validation_loss_lowers_the_rate_and_goes_on(tmp_path: Any, demo_cache: Any) -> None:
    def model(rate: float = 0.1) -> FakeImageClassifier:
        torch.manual_seed(0)
        plateau = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                   "init_args": {"patience": 0, "factor": 0.5, "threshold": 1e9}}  # fmt: skip
        return FakeImageClassifier(
            TinyNetwork(), optimizer=SGD, scheduler=plateau, learning_rate=rate, loss=FocalLoss()
        )

    first = model()
    fit(first, demo_cache, tmp_path, 2)
    assert [epoch["lr"] for epoch in first.history] == [0.1, 0.05]
    assert read_checkpoint(tmp_path / "last.ckpt")["hyper_parameters"]["loss"] is None  # an object
    second = model()
    fit(second, demo_cache, tmp_path, 3, tmp_path / "last.ckpt")
    assert [epoch["lr"] for epoch in second.history] == [0.1, 0.05, 0.025]
    with pytest.raises(UserError, match="at another rate with the published schedule alone"):
        fit(model(0.01), demo_cache, tmp_path, 4, tmp_path / "last.ckpt")


class FocalLoss(nn.Module):
    """Of each image."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return each * (1 - (-each).exp()) ** 2
