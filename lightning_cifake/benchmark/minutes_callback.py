"""The callback by which ``fit`` tells :mod:`minutes_run` how accurate it is, and when, as it trains."""

import math
import time
from typing import Any

import lightning as L
import torch

from lightning_cifake.benchmark.turns import Replies
from lightning_cifake.training.experiments import machine_of


class MinutesCallback(L.Callback):
    """Tells when training begins, and of every validation.

    Times are those of :func:`time.monotonic`, which is the same in all processes of a machine. Made before ``fit``
    prints anything: from then on standard output is for this alone.
    """

    def __init__(self) -> None:
        self._replies = Replies()
        self._images = self._steps = 0  # trained on; taken in this epoch
        self._began: float | None = None  # of the pass that runs
        self._waiting = True  # for the first training batch, or the first one after a pass

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self._waiting:
            return
        self._waiting = False
        told = {"event": "training", "at": time.monotonic()}
        if not self._images:
            told |= {
                "machine": machine_of(pl_module.device),
                "precision": str(trainer.precision),
                "batch_size": trainer.datamodule.batch_size,
                "epochs": trainer.max_epochs,
            }
        self._replies.send(told)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += len(batch.labels)
        self._steps = batch_idx + 1

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._began = self._now(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        ended, figures = self._now(pl_module), trainer.callback_metrics
        if trainer.sanity_checking:
            return
        finite = math.isfinite(float(figures.get("val_loss", math.nan)))
        told = {
            "event": "pass",
            "began": self._began,
            "ended": ended,
            "images": self._images,
            "val_accuracy": float(figures["val_accuracy"]) if finite else None,
            "extra": self._steps + trainer.val_check_batch
            <= trainer.num_training_batches,  # another one follows in this epoch
        }
        self._replies.send(told)
        self._waiting = True

    def _now(self, pl_module: Any) -> float:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # what was only queued counts where it belongs
        return time.monotonic()
