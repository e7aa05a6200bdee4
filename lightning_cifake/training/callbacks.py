"""The callbacks of a run, in one list: what ``fit`` uses and what a script of your own can hand to a Trainer."""

import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_cifake.cpu_threads import ThreadGovernor, users_own
from lightning_cifake.training.checkpoints import ExactResume, LastCheckpoint, best_checkpoint
from lightning_cifake.training.early_stopping import PATIENCE, KerasEarlyStopping, RestoreBestWeights
from lightning_cifake.training.guards import CountSkippedSteps, StopOnNonFinite

log = logging.getLogger(__name__)


def default_callbacks(
    run_dir: Path | str, patience: int = PATIENCE, checkpoint_minutes: float = 10.0, threads: int | None = None
) -> list[L.Callback]:
    """Early stopping that restores, best and last checkpoint, exact resume, polite threads, and the guards.

    Args:
        run_dir: where ``best.ckpt`` and ``last.ckpt`` go.
        patience: as :class:`KerasEarlyStopping` takes it.
        checkpoint_minutes: longest time between two writes of ``last.ckpt``.
        threads: as :class:`ComputeThreads` takes it.
    """
    run_dir = Path(run_dir)
    return [
        ExactResume(),
        ComputeThreads(threads),
        StopOnNonFinite(),
        CountSkippedSteps(),
        KerasEarlyStopping(patience),
        RestoreBestWeights(),
        EpochSummary(),
        best_checkpoint(run_dir),
        LastCheckpoint(run_dir, every_seconds=60 * checkpoint_minutes),
    ]


class ComputeThreads(L.Callback):
    """Sets how many threads compute on a CPU.

    Args:
        threads: that many, throughout. None: all cores, fewer while other processes compute
            (:class:`~lightning_cifake.cpu_threads.ThreadGovernor`); as many as ``OMP_NUM_THREADS`` says where that is
            set, and as Lightning sets where several processes train.

    Another number of threads sums in another order: two runs are the same to the last bit only where each step of both
    had the same number. :attr:`steps` tells.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.given = threads
        self.steps: Counter[int] = Counter()
        """How many training steps were computed by how many threads; goes into a checkpoint."""
        self._governor: ThreadGovernor | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.strategy.root_device.type != "cpu":
            return
        if self.given is not None:
            torch.set_num_threads(self.given)
        elif trainer.world_size == 1 and not users_own():
            self._governor = ThreadGovernor()
            torch.set_num_threads(self._governor.threads)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.steps[torch.get_num_threads()] += 1
        self._adjust_threads()

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._adjust_threads()

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._adjust_threads()

    def _adjust_threads(self) -> None:
        if self._governor is None:
            return
        before = self._governor.threads
        if not self._governor.tick():
            return
        torch.set_num_threads(self._governor.threads)
        state = "busy" if self._governor.threads < before else "quiet again"
        log.info("the machine is %s: %s threads compute, not %s", state, self._governor.threads, before)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": dict(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = Counter(state_dict.get("steps", {}))


class HasTrained(L.Callback):
    """Whether a step was taken since this was made, and whether training ended by itself."""

    happened = ended = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.happened = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = True

    on_fit_end = on_train_end  # alone where a resumed run has nothing left to train


class EpochSummary(L.Callback):
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
            end = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""  # it may have none
            parts = [f"epoch {epoch['epoch'] + 1}{end}"]
            parts += [f"{name} {epoch[name]:.4f}" for name in _PRINTED if isinstance(epoch.get(name), float)]
            parts.append(f"{epoch['train_seconds']:.0f} s, {epoch['images_per_second']:.0f} images/s")
            print("  ".join(parts), file=sys.stdout, flush=True)


_PRINTED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auroc")


class Begun(L.Callback):
    """Whether a run has come so far that its state is restored, and the first batch is next.

    Args:
        first_training: is called then, where there is something to train.
    """

    def __init__(self, first_training: Callable[[], None]) -> None:
        self.first_training, self.happened = first_training, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first_training()
        self.happened = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.happened = True

    on_test_start = on_validation_start
