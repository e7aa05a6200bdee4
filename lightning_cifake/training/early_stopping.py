"""Early stopping as Keras does it: the best weights come back at the end, whether it stopped or not."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.errors import UserError
from lightning_cifake.run_folder import LAST_FILE
from lightning_cifake.text import printable
from lightning_cifake.training.checkpoints import SafeCheckpointIO

PATIENCE = 3


class KerasEarlyStopping(EarlyStopping):
    """Stops when ``val_loss`` has not fallen for ``patience`` validations in a row, counted from the second epoch on.

    There is one validation an epoch unless the Trainer's ``val_check_interval`` or ``check_val_every_n_epoch`` say
    otherwise; Keras, too, counts the epochs that it validates.

    As Keras, and unlike Lightning: a NaN is an epoch without improvement, not the end; the first epoch is the best so
    far whatever its loss, and when that is NaN it stays the best, for no number is below NaN (in Keras since 3.7).
    ``best.ckpt`` goes by the same rule. Unlike Keras, which counts anew in every ``fit``, a resumed run continues to
    count. Source: keras/src/callbacks/early_stopping.py.
    """

    reset_best = False
    """Set where a run is resumed with other images: a loss on those before is no measure for these."""

    best_score: torch.Tensor

    def __init__(self, patience: int = PATIENCE, monitor: str = "val_loss") -> None:
        if patience < 1:
            raise UserError(f"patience: expected at least 1, got {patience}")
        # not strict: a run without validation (trainer.max_steps, trainer.limit_val_batches 0) just does not stop early
        super().__init__(
            monitor=monitor, patience=patience, mode="min", min_delta=0.0, check_finite=False, strict=False
        )
        self._has_best = False  # Lightning begins with infinity for a best, Keras with none

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: Lightning may count here; this class counts validations, as each ends."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get(self.monitor)
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if loss is None or not training:
            return
        late = self._counts(loss.squeeze())
        if trainer.current_epoch == 0:  # validated several times an epoch, it could
            self.wait_count = 0
        # the processes of a run see one loss; should they ever not, they stop together all the same
        elif trainer.strategy.reduce_boolean_decision(late, all=False):
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED

    def _counts(self, loss: torch.Tensor) -> bool:
        """Takes one validation's loss into account; whether patience has run out with it."""
        if not self._has_best or loss < self.best_score:
            self._has_best, self.best_score, self.wait_count = True, loss, 0
        else:
            self.wait_count += 1
        return self.wait_count >= self.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning forgets, in a checkpoint, that training had stopped: resuming would train an epoch more."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "has_best": self._has_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.reset_best:
            return
        super().load_state_dict({**state_dict, "patience": self.patience})  # the one asked for now
        # checkpoints of version 0.1.0 do not say: there a finite best, or an epoch waited, was one
        self._has_best = state_dict.get("has_best", bool(torch.isfinite(self.best_score)) or self.wait_count > 0)


class RestoreBestWeights(L.Callback):
    """Gives the model its best epoch's weights when training ends, as Keras's ``restore_best_weights``."""

    # not on_train_end: it is not called when a run is resumed that had reached its last epoch
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
        if best and trainer.is_global_zero:
            _refuse_replaced(trainer, Path(best))
        if best:  # the first process reads: the others may be on nodes that do not see its files
            state = read_checkpoint(Path(best))["state_dict"] if trainer.is_global_zero else {}
            pl_module.load_state_dict(trainer.strategy.broadcast(state), strict=True)


def _refuse_replaced(trainer: L.Trainer, best: Path) -> None:
    """The folder is locked, but not every disk knows locks, and files are copied by hand."""
    writer = trainer.strategy.checkpoint_io
    if isinstance(writer, SafeCheckpointIO) and not writer.is_as_written(best):
        raise UserError(
            f"{printable(best)} is not what this run wrote: another process replaced it; the run's last weights are in "
            f"{LAST_FILE}"
        )
