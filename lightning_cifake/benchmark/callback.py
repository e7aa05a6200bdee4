"""The callback by which ``fit`` takes turns in a benchmark, asked on its standard input: see :mod:`turns`."""

from typing import Any

import lightning as L
import torch

from lightning_cifake.benchmark.turns import Replies, Turns


class BenchmarkCallback(L.Callback):
    """Tells of every batch that is there, every step and every epoch that ends, and waits there to be asked.

    Made before ``fit`` prints anything: from then on standard output is for replies alone.
    """

    def __init__(self) -> None:
        self.turns = Turns(Replies())

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.device.type == "cuda":
            self.turns.synchronise = torch.cuda.synchronize

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.turns.batch_is_here()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.turns.step_ended(len(batch.labels))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.turns.epoch_ended()
