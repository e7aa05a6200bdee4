"""Stops and restores as Keras, for any course of the validation loss."""

import io
import math
import operator
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.trainer.states import TrainerFn

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.errors import UserError
from lightning_cifake.training.checkpoints import BestCheckpoint, best_checkpoint
from lightning_cifake.training.early_stopping import KerasEarlyStopping, RestoreBestWeights


class KerasRules:
    """keras/src/callbacks/early_stopping.py (3.15), with mode min, min_delta 0, no baseline and restore_best_weights.

    parity_tests/test_early_stopping.py asks Keras itself.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.wait, self.best, self.best_epoch, self.stop = 0, None, 0, False

    def on_epoch_end(self, epoch: int, current: float) -> None:
        self.wait += 1
        if self._is_improvement(current, self.best):
            self.best, self.best_epoch, self.wait = current, epoch, 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stop = True

    @staticmethod
    def _is_improvement(value: float, reference: float | None) -> bool:
        return True if reference is None else operator.lt(value, reference)


class FakeTrainer:
    """What the two callbacks look at of a Trainer that validates once an epoch."""

    val_check_interval, check_val_every_n_epoch, num_val_batches = 1.0, 1, 1
    fast_dev_run = sanity_checking = False  # the first is what Lightning itself looks at
    world_size, is_global_zero, ckpt_path, loggers = 1, True, None, ()
    state = SimpleNamespace(fn=TrainerFn.FITTING)

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.should_stop, self.current_epoch = False, 0
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision)
        self.saved_epoch: int | None = None

    @property
    def global_step(self) -> int:
        return self.current_epoch + 1

    def save_checkpoint(self, path: str, weights_only: bool) -> None:
        self.saved_epoch = self.current_epoch
        Path(path).touch()


def follow(losses: list[float], patience: int, resumed_after: int | None = None) -> tuple[int, int | None]:
    """(epochs trained, epoch that best.ckpt holds) by the project's callbacks.

    After ``resumed_after`` epochs their states go through a checkpoint into new callbacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = FakeTrainer()
        callbacks = KerasEarlyStopping(patience), best_checkpoint(Path(folder))
        for epoch, loss in enumerate(losses):
            if epoch == resumed_after:
                callbacks = through_a_checkpoint(*callbacks)
            trainer.current_epoch = epoch
            trainer.callback_metrics = {"val_loss": torch.tensor(loss)}
            for callback in callbacks:
                callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
            for callback in callbacks:
                callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
            if trainer.should_stop:
                break
        return trainer.current_epoch + 1, trainer.saved_epoch


def through_a_checkpoint(
    stopper: KerasEarlyStopping, best: BestCheckpoint
) -> tuple[KerasEarlyStopping, BestCheckpoint]:
    file = io.BytesIO()
    torch.save([stopper.state_dict(), best.state_dict()], file)
    file.seek(0)
    of_stopper, of_best = torch.load(file, weights_only=True)
    assert best.dirpath is not None
    again = KerasEarlyStopping(stopper.patience), best_checkpoint(Path(best.dirpath))
    again[0].load_state_dict(of_stopper)
    again[1].load_state_dict(of_best)
    return again


def follow_keras(losses: list[float], patience: int) -> tuple[int, int]:
    rules = KerasRules(patience)
    for epoch, loss in enumerate(losses):
        rules.on_epoch_end(epoch, loss)
        if rules.stop:
            break
    return epoch + 1, rules.best_epoch


# few values, so that ties are common
LOSSES = st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, math.nan, math.inf]), min_size=1, max_size=12)


@given(LOSSES, st.integers(1, 4))
def test_stops_after_the_same_epoch_as_keras_and_restores_the_same_one(losses: list[float], patience: int) -> None:
    assert follow(losses, patience) == follow_keras(losses, patience)


@given(LOSSES, st.integers(1, 4), st.integers(1, 6))
def test_a_resumed_run_stops_and_restores_as_one_that_was_not(losses: list[float], patience: int, after: int) -> None:
    assert follow(losses, patience, resumed_after=after) == follow_keras(losses, patience)


def test_a_nan_in_the_first_epoch_stays_the_best_as_in_keras() -> None:
    losses = [math.nan, 0.5, 0.4, 0.3, 0.2]
    assert follow(losses, 3) == (4, 0)
    assert follow(losses, 3, resumed_after=2) == (4, 0)


@pytest.mark.parametrize(("best", "waited", "had_one"), [(math.inf, 0, False), (math.inf, 1, True), (0.4, 0, True)])
def test_a_checkpoint_of_0_1_0_had_a_best_where_it_is_finite_or_an_epoch_waited(
    best: float, waited: int, had_one: bool
) -> None:
    stopper = KerasEarlyStopping(3)
    old = {name: value for name, value in stopper.state_dict().items() if name != "has_best"}
    stopper.load_state_dict({**old, "best_score": torch.tensor(best), "wait_count": waited})
    trainer: Any = FakeTrainer()
    trainer.callback_metrics = {"val_loss": torch.tensor(math.nan)}
    stopper.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert stopper.best_score.isnan() != had_one  # only a first loss becomes the best when it is NaN


@pytest.mark.parametrize("patience", [0, -1])
def test_a_patience_below_one_is_refused(patience: int) -> None:
    with pytest.raises(UserError, match=f"patience: expected at least 1, got {patience}"):
        KerasEarlyStopping(patience)


class Counting(L.LightningModule):
    """Its one weight is the epoch's number, and its val_loss what it is told."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.losses = losses

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.weight.data.fill_(self.current_epoch)
        return 0 * self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.losses[self.current_epoch], batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
@pytest.mark.parametrize(
    "losses",
    [
        [0.5, 0.4, 0.4, 0.45, 0.3],
        [0.5, math.nan, 0.6, 0.1],
        [0.9, 0.8, 0.7, 0.6],
        [0.3, 0.4],
        [math.nan, 0.5, 0.4, 0.6],
    ],
)
def test_a_real_fit_ends_with_the_weights_that_keras_would_restore(losses: list[float], tmp_path: Path) -> None:
    model = Counting(losses)
    loader = torch.utils.data.DataLoader(torch.zeros(1, 1))
    trainer = L.Trainer(
        max_epochs=len(losses),
        accelerator="cpu",
        callbacks=[KerasEarlyStopping(2), RestoreBestWeights(), best_checkpoint(tmp_path)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader, loader)
    epochs, best = follow_keras(losses, 2)
    assert trainer.current_epoch == epochs
    assert model.weight.item() == best
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == best
