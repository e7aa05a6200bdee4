"""What is off by default: schedules of steps, optimizers with decoupled decay, Muon, smoothed labels."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from tiny import TinyNetwork
from torch import nn

from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.loss import SmoothedBCE, in_float64
from lightning_cifake.training.optimization import run_steps
from lightning_cifake.training.optimizers import SGDW, AdamW, Muon, hidden_kernels, orthogonalized
from lightning_cifake.training.schedules import Cosine, OneCycle

HERE = "lightning_cifake.training"


def rates(schedule: type, steps: int = 10, **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    made = schedule(optimizer, run_steps=steps, **arguments)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        made.step()
    return found


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_one_cycle_goes_up_to_the_rate_and_down_to_almost_nothing(shape: str) -> None:
    found = rates(OneCycle, warmup=0.4, shape=shape)
    assert found[4] == 1 and found == sorted(found[:5]) + sorted(found[5:], reverse=True)
    assert 0 < found[0] < 0.25 and 0 < found[-1] < 0.2
    if shape == "linear":
        assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert rates(OneCycle, start=0.3, end=0.1)[-1] > 0.1


def test_cosine_is_half_a_wave_after_a_straight_way_up() -> None:
    assert rates(Cosine, 4) == pytest.approx([(1 + math.cos(math.pi * at / 4)) / 2 for at in range(4)])
    assert rates(Cosine, 10, warmup=0.3)[:4] == pytest.approx([0.25, 0.5, 0.75, 1])


def test_a_schedule_of_steps_steps_with_the_optimizer_over_the_whole_run() -> None:
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(train_dataloader=lambda: range(9)), max_epochs=5, max_steps=-1,
        limit_train_batches=7, accumulate_grad_batches=2,
    )  # fmt: skip
    classifier = FakeImageClassifier(
        TinyNetwork(), scheduler={"class_path": f"{HERE}.schedules.OneCycle", "init_args": {"warmup": 0.5}},
        optimizer=f"{HERE}.optimizers.SGDW", learning_rate=1.0,
    )  # fmt: skip
    with pytest.raises(UserError, match="over the whole run, got a run without end"):
        classifier.configure_optimizers()
    classifier._trainer = trainer  # type: ignore[assignment]
    _, (given,) = classifier.configure_optimizers()
    assert given["interval"] == "step" and given["scheduler"].get_last_lr() == pytest.approx([1 / 11] * 2)
    trainer.limit_train_batches = 0.5
    assert run_steps(trainer) == 10
    trainer.max_epochs, trainer.max_steps = -1, 3
    assert run_steps(trainer) == 3
    trainer.max_steps = -1
    with pytest.raises(UserError, match=r"expected trainer\.max_epochs or trainer\.max_steps"):
        run_steps(trainer)


def network() -> nn.Module:
    """In float64: what Adam makes of the rounding that is the gradient of a bias before a norm is not comparable."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 12, 3, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 1),
    )  # fmt: skip
    return made.double()


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 12, 12, generator=generator).double()).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_without_decay_sgdw_and_adamw_are_torchs() -> None:
    for mine, torchs in (
        (lambda p: SGDW(p, lr=0.1, weight_decay=0), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (lambda p: SGDW(p, lr=0.1, weight_decay=0, nesterov=False), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        (lambda p: AdamW(p, 1e-2, decay_norms=True), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.05)),
    ):
        ours, theirs = network(), network()
        pairs = zip(
            stepped(mine(ours.parameters()), ours), stepped(torchs(theirs.parameters()), theirs), strict=True
        )  # fmt: skip
        for own, expected in pairs:
            torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("optimizer", [SGDW, AdamW, Muon])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_kernels_decay_and_norms_and_biases_only_where_asked(optimizer: type, decay_norms: bool) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    made = optimizer(model.parameters(), lr=0.1, weight_decay=0.5, decay_norms=decay_norms)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for was, now in zip(before, model.parameters(), strict=True):
        decays = was.ndim > 1 or decay_norms
        torch.testing.assert_close(now.detach(), was * 0.95 if decays else was)


def test_muon_is_torchs_on_the_hidden_kernels_as_matrices(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)  # torch's iterates in it, on a CPU too
    ours, theirs = network(), network()
    stepped(Muon(ours.parameters(), lr=0.02, weight_decay=0.1), ours)
    hidden = hidden_kernels(list(theirs.parameters()))
    assert [tuple(kernel.shape) for kernel in hidden] == [(8, 8, 3, 3), (8, 8, 3, 3), (12, 4, 3, 3)]
    flat = {kernel: nn.Parameter(kernel.detach().flatten(1)) for kernel in hidden}
    muon = torch.optim.Muon(flat.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    chosen = set(map(id, hidden))
    rest = AdamW([each for each in theirs.parameters() if id(each) not in chosen], lr=0.02, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        theirs.zero_grad()
        theirs(torch.rand(4, 3, 12, 12, generator=generator).double()).square().mean().backward()
        for kernel, matrix in flat.items():
            matrix.grad = kernel.grad.flatten(1).clone()  # type: ignore[union-attr]
        muon.step()
        rest.step()
        for kernel, matrix in flat.items():
            kernel.data.copy_(matrix.data.view_as(kernel))
    for own, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)


def test_a_step_of_muon_is_close_to_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((2, 6, 20), (1, 20, 6)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3
    assert not orthogonalized(torch.zeros(1, 3, 4)).any()


@pytest.mark.parametrize("rest", ["adamw", "sgd"])
def test_muon_goes_on_from_its_state_and_scales_the_rate_of_each_group(rest: str) -> None:
    def made() -> tuple[nn.Module, Muon, torch.optim.lr_scheduler.LRScheduler]:
        model = network()
        optimizer = Muon(model.parameters(), lr=0.02, rest=rest, rest_lr=0.1)
        return model, optimizer, OneCycle(optimizer, run_steps=8, warmup=0.5)

    whole, optimizer, schedule = made()
    stepped(optimizer, whole)
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.02 * 0.4, 0.1 * 0.4, 0.1 * 0.4])
    resumed, again, _ = made()
    resumed.load_state_dict(whole.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for own, expected in zip(stepped(again, resumed), stepped(optimizer, whole), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0)


def test_labels_are_smoothed_in_training_alone() -> None:
    logits, labels = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    smoothed, plain = SmoothedBCE(0.1), nn.BCEWithLogitsLoss()
    torch.testing.assert_close(smoothed(logits, labels), plain(logits, torch.tensor([0.95, 0.05])))
    assert smoothed(logits, labels) != plain(logits, labels)
    assert in_float64(smoothed)(logits.double(), labels.double()) == plain(logits.double(), labels.double())
    with pytest.raises(UserError, match=r"expected a share from 0 to below 1, got 1"):
        SmoothedBCE(1.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_no_step_asks_the_device_for_a_number(demo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    for name in ("item", "__bool__", "__float__", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=original: asked.append(1) or own(self))

    def count(steps: int) -> int:
        classifier = FakeImageClassifier(
            TinyNetwork("torchvision"), learning_rate=0.01, ema_decay=0.9,
            optimizer={"class_path": f"{HERE}.optimizers.Muon", "init_args": {"rest": "sgd"}},
            scheduler=f"{HERE}.schedules.OneCycle", loss=f"{HERE}.loss.SmoothedBCE",
        )  # fmt: skip
        trainer = L.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip
        before = len(asked)
        trainer.fit(classifier, CIFAKEDataModule(root="demo", sample=256, batch_size=16, cache_dir=str(demo_cache)))
        return len(asked) - before

    assert count(9) == count(3) > 0
