"""What each epoch of a training gave, as Keras's ``History`` has it: figures, learning rate, seconds."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelSummary
from torch import Tensor

from lightning_cifake.data.datamodule import Batch
from lightning_cifake.training.measured_module import MeasuredModule


class EpochHistory(MeasuredModule):
    """A module that keeps a line an epoch, and logs train_loss and train_accuracy at its end."""

    train_sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.history: list[dict[str, Any]] = []
        """One dict an epoch, as Keras's ``History``: epoch (from 0), lr, train_loss, train_accuracy, val_*, seconds."""
        # loss times images, right decisions, images: of the epoch so far, of all processes: DDP lays the first one's
        # buffers over the others', and a checkpoint holds the first one's
        self.register_buffer("train_sums", torch.zeros(3), persistent=False)
        self._watched = True  # each step's loss is looked at
        self._timed: dict[str, float] = {}  # of the epoch so far: when it started, images and seconds of training

    @torch.no_grad()
    def add_batch(self, loss: Tensor, right: Tensor, count: int) -> None:
        """A batch's mean loss and its right decisions, both scalars, of all processes.

        As Keras: in train mode, before the update, weighted by the batch's size.
        """
        # full_like, not new_tensor: that would wait for a copy to the device
        self.train_sums += torch.stack([loss.detach() * count, right.to(loss.dtype), torch.full_like(loss, count)])

    def log_step(self, loss: Tensor) -> None:
        """Logs a training step's loss where somebody looks at it: ``log`` takes as long as a small network's layer.

        A logger looks at every ``log_every_n_steps``, whoever comes behind an epoch at its last; a progress bar, and a
        callback that is not this project's, at each.
        """
        trainer = self.trainer
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        asked = every and (trainer.should_stop or (trainer.global_step + 1) % every == 0)
        if self._watched or trainer.is_last_batch or asked:
            # Lightning takes what goes to a bar from the device in each step, also where there is none
            self.log("loss", loss, prog_bar=trainer.progress_bar_callback is not None)

    def on_train_epoch_start(self) -> None:
        self.train_sums.zero_()
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        self._watched = any(map(_looks_at_losses, callbacks))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if not self._timed:
            self._timed = {"start": time.monotonic(), "images": 0, "seconds": 0.0}
        # before the step: at an epoch's end the scheduler may have stepped, or not where the epoch is cut short
        self._timed["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._timed["images"] += len(batch.labels) if batch.shard is None else batch.shard.whole
        self._timed["seconds"] = time.monotonic() - self._timed["start"]

    def on_train_epoch_end(self) -> None:
        loss, right, count = self.train_sums.tolist()
        epoch = {
            "epoch": self.current_epoch,
            "lr": self._timed["lr"],  # what its last step trained at
            "train_loss": loss / count,
            "train_accuracy": right / count,
            **self._val_metrics,
            "train_seconds": self._timed["seconds"],
            "images_per_second": self._timed["images"] / max(self._timed["seconds"], 1e-9),
        }
        if self.history and self.history[-1]["epoch"] == epoch["epoch"]:  # it had been cut short, and was resumed
            self.history.pop()
        self.history.append(epoch)
        self.log_dict({"train_loss": epoch["train_loss"], "train_accuracy": epoch["train_accuracy"]}, prog_bar=True)
        self._timed, self._val_metrics = {}, {}

    def save_history(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["train_sums"] = self.train_sums.clone()

    def take_history(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint.get("history", [])
        if "train_sums" in checkpoint:
            self.train_sums.copy_(checkpoint["train_sums"])


def _looks_at_losses(callback: L.Callback) -> bool:
    """Whether a callback may look at the loss of each step: this project's do not, nor do two of Lightning's own."""
    if isinstance(callback, GradientAccumulationScheduler | ModelSummary):
        return False
    return not type(callback).__module__.startswith("lightning_cifake.")
