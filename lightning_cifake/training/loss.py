"""A loss over the images of a batch, or of one process's part of it."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_cifake.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
BCE = "torch.nn.BCEWithLogitsLoss"
"""The published loss."""


class SmoothedBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy with smoothed labels in training; in evaluation without, so that val_loss is plain BCE's.

    Args:
        smoothing: labels 0 and 1 become smoothing / 2 and 1 - smoothing / 2.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7, for two classes.
    """

    def __init__(self, smoothing: float = 0.05) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise UserError(f"model.loss.smoothing: expected a share from 0 to below 1, got {smoothing}")
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Both (N,) float; labels from 0 (FAKE) to 1 (REAL)."""
        if self.training:
            labels = labels * (1 - self.smoothing) + self.smoothing / 2
        return super().forward(logits, labels)


def check_loss(loss: Any) -> None:
    """Refuses a loss that adds up where the mean is wanted.

    Raises:
        UserError: its reduction is ``sum``.
    """
    if getattr(loss, "reduction", "mean") not in ("mean", "none"):
        raise UserError(f"model.loss.reduction: expected mean or none, got {loss.reduction}")


def mean_loss(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over these images, a scalar.

    Raises:
        UserError: the loss gives neither one number nor one for each image.
    """
    value = loss(logits, labels)
    return value if _is_scalar(value, logits) else value.mean()


def summed_loss(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over these images, a scalar: not the mean times their number where the loss can sum by itself."""
    if getattr(loss, "reduction", None) == "mean":
        loss = copy.copy(loss)
        loss.reduction = "sum"  # type: ignore[attr-defined]
        return loss(logits, labels)
    value = loss(logits, labels)
    return value * len(logits) if _is_scalar(value, logits) else value.sum()


def in_float64(loss: Loss) -> Loss:
    """The same loss, with what it holds, on the CPU, in float64 and in eval mode."""
    return copy.deepcopy(loss).cpu().double().eval() if isinstance(loss, nn.Module) else loss


def _is_scalar(value: Any, logits: Tensor) -> bool:
    shape = tuple(value.shape) if isinstance(value, Tensor) else None
    if shape not in ((), tuple(logits.shape)):
        got = type(value).__name__ if shape is None else f"shape {shape}"
        raise UserError(f"model.loss: expected one number or one for each of the {len(logits)} images, got {got}")
    return shape == ()
