"""What must not go by unnoticed: a loss that is no number, and steps that the gradient scaler left out."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_cifake.distributed import gather
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable
from lightning_cifake.training.keras_adam import KerasAdam

CHECK_EVERY_ON_GPU = 50  # steps; looking at a loss makes the host wait for the device


class NonFiniteLoss(UserError):
    """The training loss became NaN or infinite."""


class StopOnNonFinite(L.Callback):
    """Ends the run when the loss is NaN or infinite, naming the step and the batch's files.

    On a CPU every step is looked at before the weights are changed; on a GPU the losses stay on the device and are
    looked at every 50 steps, and before anything is saved. ``last.ckpt`` and ``best.ckpt`` keep what they held. The
    loss is the whole batch's, the same in every process, so that all processes end at the same step.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._pending.append((trainer.global_step, loss.detach(), self._index))
        if loss.device.type == "cpu" or len(self._pending) >= CHECK_EVERY_ON_GPU:
            self._check(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._index = batch.index

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer)  # before anything is saved or measured

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)

    def _check(self, trainer: L.Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        finite = torch.stack([loss for _, loss, _ in pending]).isfinite().tolist()
        if all(finite):
            return
        step, loss, index = pending[finite.index(False)]
        index = index.cpu() if trainer.world_size == 1 else torch.cat(gather(index.cpu()))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        paths = data.paths(index) if hasattr(data, "paths") else index.tolist()
        error = NonFiniteLoss(
            f"the loss became {loss.item()} at step {step} (epoch {trainer.current_epoch}); best.ckpt and last.ckpt "
            f"are as they were. The batch's files: {', '.join(map(printable, paths))}"
        )
        error.reported_by_rank_zero = not trainer.is_global_zero
        raise error


class CountSkippedSteps(L.Callback):
    """Counts the steps that the fp16 gradient scaler left out because a gradient overflowed; logs ``skipped_steps``."""

    def __init__(self) -> None:
        self.skipped = 0
        self._tried = 0
        self._stepped = 0
        self._taken_before = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stepped = 0
        for optimizer in trainer.optimizers:
            if not isinstance(optimizer, KerasAdam):  # which counts itself, and whose step is torch's within its own
                optimizer.register_step_post_hook(self._count_step)
        self._tried, self._taken_before = 0, self._taken(trainer)

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self._tried += 1

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count(trainer)
        if self._has_scaler(trainer):
            pl_module.log("skipped_steps", float(self.skipped))

    def _count(self, trainer: L.Trainer) -> None:
        if not self._has_scaler(trainer) or not self._tried:
            return
        taken = self._taken(trainer)
        self.skipped += self._tried - (taken - self._taken_before)
        self._tried, self._taken_before = 0, taken

    @staticmethod
    def _has_scaler(trainer: L.Trainer) -> bool:
        return getattr(trainer.precision_plugin, "scaler", None) is not None

    def _count_step(self, *_: Any) -> None:
        self._stepped += 1

    def _taken(self, trainer: L.Trainer) -> int:
        optimizer = trainer.optimizers[0]
        return optimizer.steps_taken if isinstance(optimizer, KerasAdam) else self._stepped

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._count(trainer)  # Lightning collects state_dict() after this

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
