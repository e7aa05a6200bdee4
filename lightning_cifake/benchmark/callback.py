"""The callback by which ``fit`` takes turns in a benchmark; the worker sets :data:`turns` before it starts ``fit``."""

from typing import Any

import lightning as L

from lightning_cifake.benchmark.turns import Turns

turns: Turns | None = None


class BenchmarkCallback(L.Callback):
    """Tells :data:`turns` of every batch that is there, every step and every epoch that ends."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert turns is not None
        turns.batch_is_here()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert turns is not None
        turns.step_ended(len(batch.labels))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert turns is not None
        turns.epoch_ended()
