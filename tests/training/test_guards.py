"""A loss that is no number ends the run with its step and files; steps that the scaler left out are counted."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from tiny import NETWORK, TinyNetwork

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.training import guards
from lightning_cifake.training.callbacks import default_callbacks
from lightning_cifake.training.checkpoints import LastCheckpoint, SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.guards import CountSkippedSteps, NonFiniteLoss

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)


@pytest.fixture
def nan_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the images of one step (from 0) NaN."""

    def set_step(step: int) -> None:
        original = CIFAKEDataModule.on_after_batch_transfer

        def transfer(self: CIFAKEDataModule, batch: Any, index: int) -> Any:
            batch = original(self, batch, index)
            if self.trainer.training and self.trainer.global_step == step:
                batch.images[0, 0, 0, 0] = math.nan
            return batch

        monkeypatch.setattr(CIFAKEDataModule, "on_after_batch_transfer", transfer)

    return set_step


def fit(
    folder: Path, cache: Path, epochs: int = 3, every: int | None = None, callbacks: Any = (), **arguments: Any
) -> L.Trainer:
    torch.manual_seed(1)
    own = default_callbacks(folder)
    for callback in own:
        if isinstance(callback, LastCheckpoint):
            callback.every_n_steps = every
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*own, *callbacks],
        plugins=[SafeCheckpointIO(), *arguments.pop("plugins", [])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = CIFAKEDataModule(root="demo", sample=128, batch_size=16, cache_dir=str(cache))
    trainer.fit(FakeImageClassifier(TinyNetwork("torchvision")), data, **arguments)
    return trainer


def test_a_nan_batch_ends_the_run_and_names_step_and_files(
    tmp_path: Path, demo_cache: Path, tiny_network: type, nan_at: Callable[[int], None]
) -> None:
    nan_at(9)
    with pytest.raises(NonFiniteLoss, match=r"the loss became nan at step 9 \(epoch 1\)") as error:
        fit(tmp_path, demo_cache, every=1)
    assert len(re.findall(r"(REAL|FAKE)/\S+\.png", str(error.value))) == 16
    assert "\n" not in str(error.value)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 9  # as it was before the step
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == 0


@pytest.mark.parametrize("step", [4, 9])
def test_no_checkpoint_is_written_behind_a_nan_that_was_not_looked_at_yet(
    tmp_path: Path, demo_cache: Path, tiny_network: type, nan_at: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch, step: int,
) -> None:  # fmt: skip
    # as on a GPU: the losses are looked at every 50 steps only
    def later(self: guards.StopOnNonFinite, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
        self._pending.append((trainer.global_step, loss.detach(), self._index))

    monkeypatch.setattr(guards.StopOnNonFinite, "on_before_backward", later)
    nan_at(step)
    with pytest.raises(NonFiniteLoss, match=f"at step {step} "):
        fit(tmp_path, demo_cache, every=2)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] <= step
    assert (tmp_path / "best.ckpt").exists() == (step >= 6)


def test_on_the_command_line_it_is_one_line_and_exit_code_2(
    workplace: Path, tiny_network: type, nan_at: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    nan_at(8)
    assert main(["fit", *NETWORK, "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "3"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "the loss became nan at step 8 (epoch 1)" in errors[0] and ".png" in errors[0]
    assert read_checkpoint(workplace / "checkpoints/demo/1/last.ckpt")["global_step"] == 6
    assert read_checkpoint(workplace / "checkpoints/demo/1/best.ckpt")["global_step"] == 6


class Overflow(L.Callback):
    """Makes the gradients of these tries infinite, as fp16 does."""

    def __init__(self, *tries: int) -> None:
        self.tries, self.seen = tries, 0

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.seen in self.tries:
            next(module.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]
        self.seen += 1


class Crash(L.Callback):
    def __init__(self, tries: int) -> None:
        self.tries = tries

    def on_train_batch_start(self, *_: Any) -> None:
        self.tries -= 1
        if self.tries < 0:
            raise InterruptedError


def scaler() -> list[Any]:
    return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0))]


def counter(trainer: L.Trainer) -> CountSkippedSteps:
    return next(c for c in trainer.callbacks if isinstance(c, CountSkippedSteps))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_steps_that_the_gradient_scaler_left_out_are_counted_also_over_a_resume(
    tmp_path: Path, demo_cache: Path, tiny_network: type
) -> None:
    whole = fit(tmp_path / "a", demo_cache, plugins=scaler(), callbacks=[Overflow(2, 7, 8)])
    assert counter(whole).skipped == 3
    assert whole.callback_metrics["skipped_steps"] == 3
    with pytest.raises(InterruptedError):
        fit(tmp_path / "b", demo_cache, every=1, plugins=scaler(), callbacks=[Overflow(2, 7), Crash(9)])
    again = fit(
        tmp_path / "b", demo_cache, plugins=scaler(), callbacks=[Overflow(0)], ckpt_path=tmp_path / "b" / "last.ckpt"
    )
    assert counter(again).skipped == 3


def test_without_a_scaler_nothing_is_counted_or_logged(tmp_path: Path, demo_cache: Path, tiny_network: type) -> None:
    trainer = fit(tmp_path, demo_cache, epochs=1)
    assert counter(trainer).skipped == 0
    assert "skipped_steps" not in trainer.callback_metrics
