"""The callbacks of a run, in one list: what ``fit`` uses and what a script of your own can hand to a Trainer."""

import sys
from pathlib import Path

import lightning as L

from lightning_cifake.training.checkpoints import ExactResume, LastCheckpoint, best_checkpoint
from lightning_cifake.training.early_stopping import PATIENCE, KerasEarlyStopping, RestoreBestWeights
from lightning_cifake.training.guards import CountSkippedSteps, StopOnNonFinite


def default_callbacks(
    run_dir: Path | str, patience: int = PATIENCE, checkpoint_minutes: float = 10.0
) -> list[L.Callback]:
    """Early stopping that restores, best and last checkpoint, exact resume, and the guards.

    Args:
        run_dir: where ``best.ckpt`` and ``last.ckpt`` go.
        patience: epochs without a lower val_loss before training stops.
        checkpoint_minutes: longest time between two writes of ``last.ckpt``.
    """
    run_dir = Path(run_dir)
    return [
        ExactResume(),
        StopOnNonFinite(),
        CountSkippedSteps(),
        KerasEarlyStopping(patience),
        RestoreBestWeights(),
        EpochLines(),
        best_checkpoint(run_dir),
        LastCheckpoint(run_dir, every_seconds=60 * checkpoint_minutes),
    ]


class EpochLines(L.Callback):
    """Prints one line an epoch: what a log file, or a reader of one, wants to see."""

    _reported = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reported = len(getattr(pl_module, "history", []))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self.report(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.report(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.report(trainer, pl_module)  # a signal obeyed at an epoch's end

    def report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        history = getattr(pl_module, "history", [])
        while trainer.is_global_zero and self._reported < len(history):
            epoch = history[self._reported]
            self._reported += 1
            parts = [f"epoch {epoch['epoch'] + 1}/{trainer.max_epochs}"]
            parts += [f"{name} {epoch[name]:.4f}" for name in _SHOWN if isinstance(epoch.get(name), float)]
            parts.append(f"{epoch['train_seconds']:.0f} s, {epoch['images_per_second']:.0f} images/s")
            print("  ".join(parts), file=sys.stdout, flush=True)


_SHOWN = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auroc")
