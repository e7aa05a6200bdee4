"""A run that was stopped anywhere and resumed is, to the bit, the run that never stopped."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from tiny import TinyNetwork

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.training.callbacks import default_callbacks
from lightning_cifake.training.checkpoints import LastCheckpoint, SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.early_stopping import KerasEarlyStopping

STEPS = 6  # an epoch: 89 or so training images of the 128, in batches of 16
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)


class Crash(Exception):
    pass


class CrashAtStep(L.Callback):
    """Ends the run as a crash would, in the middle of a step (counted from 0 over the whole run)."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Crash


class CrashInValidation(L.Callback):
    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise Crash


class DrawOften(L.Callback):
    """Draws from Python's and numpy's generators each step, as a user's own augmentation may."""

    def __init__(self) -> None:
        self.drawn: dict[int, tuple[float, float]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.drawn[trainer.global_step] = (random.random(), float(np.random.rand()))  # noqa: NPY002


class Run:
    def __init__(
        self,
        folder: Path,
        cache: Path,
        *crash: L.Callback,
        resume: bool = False,
        every: int | None = 1,
        seed: int = 1,
        patience: int = 3,
        lr: float = 1e-3,
        **trainer_arguments: Any,
    ) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        self.model = FakeImageClassifier(TinyNetwork("torchvision"), learning_rate=lr)
        data = CIFAKEDataModule(root="demo", sample=128, batch_size=16, cache_dir=str(cache))
        callbacks = default_callbacks(folder, patience)
        for callback in callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.every_n_steps = every
        self.drawing = DrawOften()
        self.trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=[*callbacks, self.drawing, *crash],
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"max_epochs": 3, "precision": "64-true", **trainer_arguments},
        )
        crashed = False
        try:
            self.trainer.fit(self.model, data, ckpt_path=folder / "last.ckpt" if resume else None)
        except Crash:
            crashed = True
        assert crashed == bool(crash)
        self.last = read_checkpoint(folder / "last.ckpt")
        best = folder / "best.ckpt"
        self.best = read_checkpoint(best) if best.exists() else None


@pytest.fixture
def run(tmp_path: Path, demo_cache: Path, tiny_network: type) -> Callable[..., Run]:
    def make(name: str, *crash: L.Callback, **arguments: Any) -> Run:
        return Run(tmp_path / name, demo_cache, *crash, **arguments)

    return make


UNTIMED = {"train_seconds", "images_per_second"}


def comparable(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All of a checkpoint but clock times and the run's folder."""
    kept = {key: value for key, value in checkpoint.items() if key not in ("datamodule_hyper_parameters",)}
    kept["history"] = [{k: v for k, v in epoch.items() if k not in UNTIMED} for epoch in kept["history"]]
    callbacks = {}
    for name, state in kept.get("callbacks", {}).items():
        if "best_model_path" in state:  # current_score is not read, and Lightning leaves it behind on resuming
            state = {"score": state["best_model_score"], "file": Path(state["best_model_path"]).name}
        callbacks[name.split("{")[0]] = state
    kept["callbacks"] = callbacks
    return kept


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{where}: keys {one.keys() ^ other.keys()}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for found in differences(a, b, f"{where}/{i}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = one == other
    return [] if same else [f"{where}: {one!s:.80} != {other!s:.80}"]


def assert_same(run: Run, whole: Run) -> None:
    assert run.best is not None and whole.best is not None
    found = differences(comparable(run.last), comparable(whole.last))
    found += differences(comparable(run.best), comparable(whole.best), "best")
    found += differences(dict(run.model.state_dict()), dict(whole.model.state_dict()), "model")
    assert not found, "\n".join(found[:10])
    assert all(whole.drawing.drawn[step] == drawn for step, drawn in run.drawing.drawn.items())


@pytest.mark.parametrize(
    ("every", "crash"),
    [
        pytest.param(1, CrashAtStep(STEPS + 3), id="middle of an epoch"),
        pytest.param(1, CrashAtStep(3), id="middle of the first epoch"),
        pytest.param(1, CrashAtStep(STEPS + 1), id="behind an epoch's first batch"),
        pytest.param(1, CrashAtStep(2 * STEPS - 1), id="before an epoch's last batch"),
        pytest.param(1, CrashAtStep(STEPS), id="in an epoch's first batch"),
        pytest.param(1, CrashInValidation(), id="in the validation"),
        pytest.param(None, CrashAtStep(STEPS + 3), id="from the end of the epoch before"),
        pytest.param(1, CrashAtStep(3 * STEPS - 2), id="in the last epoch"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    run: Callable[..., Run], every: int | None, crash: L.Callback
) -> None:
    whole = run("whole", every=every)
    run("stopped", crash, every=every)
    resumed = run("stopped", resume=True, every=every, seed=77)
    assert [epoch["epoch"] for epoch in resumed.model.history] == [0, 1, 2]
    assert resumed.trainer.global_step == 3 * STEPS
    assert_same(resumed, whole)


def test_a_run_that_is_resumed_twice_is_the_uninterrupted_one(run: Callable[..., Run]) -> None:
    whole = run("whole")
    run("stopped", CrashAtStep(2))
    run("stopped", CrashAtStep(STEPS + 4), resume=True, seed=77)
    run("stopped", CrashAtStep(STEPS + 5), resume=True, seed=78)
    assert_same(run("stopped", resume=True, seed=79), whole)


def test_two_uninterrupted_runs_are_the_same(run: Callable[..., Run]) -> None:
    assert_same(run("one"), run("two"))


def test_gradients_that_are_being_summed_up_are_not_lost(run: Callable[..., Run]) -> None:
    whole = run("whole", accumulate_grad_batches=4)
    run("stopped", CrashInBatch(STEPS + 3), accumulate_grad_batches=4)
    assert_same(run("stopped", resume=True, seed=77, accumulate_grad_batches=4), whole)


class CrashInBatch(L.Callback):
    def __init__(self, batch: int) -> None:
        self.batch, self.seen = batch, 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.batch:
            raise Crash


@pytest.fixture
def val_losses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the epochs' val_loss is to be."""
    original = FakeImageClassifier._evaluate

    def set_losses(*losses: float) -> None:
        def evaluate(self: FakeImageClassifier, *given: Any) -> tuple[float, dict[str, Any]]:
            return losses[self.current_epoch], original(self, *given)[1]

        monkeypatch.setattr(FakeImageClassifier, "_evaluate", evaluate)

    return set_losses


def test_going_on_with_a_run_that_stopped_early_trains_no_epoch_more(
    run: Callable[..., Run], val_losses: Callable[..., None]
) -> None:
    val_losses(0.5, 0.4, 0.6, 0.7, 0.1)
    stopped = run("run", patience=2, max_epochs=5)
    assert len(stopped.model.history) == 4
    again = run("run", resume=True, patience=2, max_epochs=5, seed=77)
    assert len(again.model.history) == 4
    assert not differences(dict(again.model.state_dict()), dict(stopped.model.state_dict()))
    assert not differences(again.best["state_dict"], dict(stopped.model.state_dict()))
    assert again.best["epoch"] == 1


def test_a_greater_patience_lets_a_run_that_stopped_early_go_on(
    run: Callable[..., Run], val_losses: Callable[..., None]
) -> None:
    val_losses(0.5, 0.4, 0.6, 0.7, 0.1)
    run("run", patience=2, max_epochs=5)
    again = run("run", resume=True, patience=3, max_epochs=5)
    assert len(again.model.history) == 5
    assert again.best["epoch"] == 4


def test_patience_counts_the_epochs_before_the_stop(run: Callable[..., Run], val_losses: Callable[..., None]) -> None:
    val_losses(0.5, 0.6, 0.6, 0.6, 0.6)
    run("run", CrashAtStep(2 * STEPS + 1), patience=3, max_epochs=5)
    again = run("run", resume=True, patience=3, max_epochs=5)
    assert len(again.model.history) == 4
    stopper = next(c for c in again.trainer.callbacks if isinstance(c, KerasEarlyStopping))
    assert (stopper.wait_count, stopper.stopped_epoch) == (3, 3)


def test_going_on_with_a_finished_run_gives_its_best_weights(
    run: Callable[..., Run], val_losses: Callable[..., None]
) -> None:
    val_losses(0.4, 0.5, 0.6)
    finished = run("run")
    again = run("run", resume=True, seed=77)
    assert finished.best["epoch"] == 0
    assert not differences(dict(again.model.state_dict()), finished.best["state_dict"])


def test_a_run_whose_folder_was_moved_still_knows_its_best(
    run: Callable[..., Run], val_losses: Callable[..., None], tmp_path: Path
) -> None:
    val_losses(0.1, 0.5, 0.4)
    run("run", CrashAtStep(STEPS + 3))
    best = (tmp_path / "run" / "best.ckpt").read_bytes()
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = run("moved", resume=True)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "moved" / "best.ckpt").read_bytes() == best
    assert not differences(dict(moved.model.state_dict()), moved.best["state_dict"])


def test_a_run_that_goes_on_without_its_best_says_so_and_keeps_the_best_from_there(
    run: Callable[..., Run], val_losses: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val_losses(0.1, 0.5, 0.4)
    run("run", CrashAtStep(STEPS + 3))
    (tmp_path / "run" / "best.ckpt").unlink()
    again = run("run", resume=True)
    assert again.best["epoch"] == 2
    assert "best.ckpt is gone" in caplog.text
    assert not differences(dict(again.model.state_dict()), again.best["state_dict"])
