"""What validation, test and prediction ask of a network, and the figures over all that it answers."""

from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from lightning_cifake.data.datamodule import Batch
from lightning_cifake.distributed import gather
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.training.averaging import WeightAverage
from lightning_cifake.training.loss import in_float64, mean_loss

_LOGGED = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")


class Outputs(NamedTuple):
    """What a whole validation or test gave.

    logits (N,) float32 (float64 in 64-true), labels (N,) int64, index (N,) int64 into the source.
    """

    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index

    @property
    def prob_real(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return torch.from_numpy(self.logits).sigmoid().float().numpy()


class MeasuredModule(L.LightningModule):
    """A module whose network is validated and tested; with a running average of its weights, that one is.

    It logs val_loss, val_accuracy, ... once a validation, test_loss, ... once a test.
    """

    network: nn.Module
    loss: Any

    def __init__(self) -> None:
        super().__init__()
        self.outputs: Outputs | None = None
        """Of the last validation or test that ran to its end."""
        self.named_metrics: dict[str, dict[str, Any]] = {}
        """Of the last validation and test, ``val_`` before the first one's, of each part that a network names."""
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._named_parts: list[dict[str, Tensor]] = []
        self._average: WeightAverage | None = None
        self._val_metrics: dict[str, Any] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.images)
        if named := getattr(self.network, "named_logits", None):
            self._named_parts.append({name: each.float() for name, each in named(batch.images).items()})
        logits = logits if logits.dtype == torch.float64 else logits.float()
        self._parts.append((logits, batch.labels, batch.index))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(N,) float32 probabilities of REAL."""
        return self(batch.images).float().sigmoid()

    def on_validation_start(self) -> None:
        self._measure_average(True)

    def on_validation_end(self) -> None:
        self._measure_average(False)

    def on_train_end(self) -> None:
        self._measure_average(True)  # for good

    def _measure_average(self, measuring: bool) -> None:
        if self._average is not None and self._average.measuring != measuring:
            self._average.swap()

    def on_validation_epoch_start(self) -> None:
        self._parts, self._named_parts = [], []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        loss, metrics = self._evaluate("val_")
        values = {"val_loss": loss, **{f"val_{name}": metrics[name] for name in _LOGGED if metrics[name] is not None}}
        self._val_metrics = {} if self.trainer.sanity_checking else values
        for name, value in values.items():
            self.log(name, value, prog_bar=name in ("val_loss", "val_accuracy"))

    def on_test_epoch_end(self) -> None:
        loss, metrics = self._evaluate("")
        self.log_dict({"test_loss": loss, **{f"test_{n}": metrics[n] for n in _LOGGED if metrics[n] is not None}})

    def _evaluate(self, prefix: str) -> tuple[float, dict[str, Any]]:
        """Loss and metrics over everything that was seen since the epoch began, computed once, at its end.

        Each process computes them over the parts of all, in the order of one process.
        """
        parts = [(logits.cpu(), labels.cpu(), index.cpu()) for logits, labels, index in self._parts]
        self._parts = []
        if self.trainer.world_size > 1:
            parts = [part for batch in zip(*gather(parts), strict=True) for part in batch]
        logits, labels, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self.outputs = Outputs(logits.numpy(), labels.long().numpy(), index.numpy())
        named, self._named_parts = self._named_parts, []
        if len(logits) == sum(len(next(iter(each.values()))) for each in named):  # not in several processes
            for name in named[0]:
                figures = binary_metrics(torch.cat([each[name].cpu() for each in named]).sigmoid(), labels)
                kept = {f"{prefix}{key}": figures[key] for key in _LOGGED}
                self.named_metrics[name] = {**self.named_metrics.get(name, {}), **kept}
        loss = mean_loss(in_float64(self.loss), logits.double(), labels.double()).item()
        if not np.isfinite(loss):
            return float("nan"), dict.fromkeys(_LOGGED)
        return loss, binary_metrics(self.outputs.prob_real, self.outputs.labels)


def is_real(logits: Tensor) -> Tensor:
    """(N,) bool: P(REAL) > 0.5, strictly, on the float32 probability, as Keras decides."""
    return logits.detach().float().sigmoid() > 0.5
