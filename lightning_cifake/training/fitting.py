"""Training steps of a network that is fitted to all images at once, inside Lightning's loop: ``networks/registry.py``
says which members it has."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifake.data.datamodule import Batch
from lightning_cifake.errors import UserError
from lightning_cifake.training.loss import mean_loss
from lightning_cifake.training.measured_module import is_real

OF_GRADIENTS = ("ema_decay", "teacher", "object_weight", "compile", "cuda_graphs")
"""Arguments of the model that nothing comes of where no step is taken."""


def is_fitted(network: nn.Module) -> bool:
    """Whether it is fitted to all training images at once, and not trained step by step."""
    return hasattr(network, "fit_collected")


def check_fitting(arguments: Mapping[str, Any], processes: int) -> None:
    """Before anything is collected.

    Args:
        arguments: the model's, by name.
        processes: which train.

    Raises:
        UserError: several processes, or an argument that is for gradients.
    """
    given = [name for name in OF_GRADIENTS if arguments.get(name) not in (None, 0, False, "none")]
    if given:
        named = ", ".join(f"model.{name}" for name in given)
        raise UserError(f"{named}: expected none of it with a network that is fitted to all images at once")
    if processes > 1:
        raise UserError(
            f"trainer.devices: expected 1 with a network that is fitted to all images at once, got {processes} "
            "processes"
        )


class Collected:
    """The labels of an epoch's batches, whose images its network has been handed."""

    def __init__(self) -> None:
        self._labels: list[Tensor] = []

    def clear(self) -> None:
        self._labels = []

    def add(self, network: Any, batch: Batch) -> None:
        network.collect(batch.images, batch.labels)
        self._labels.append(batch.labels)

    def fit(self, network: Any, loss: Any, batches: int) -> Tensor:
        """Fits the network: (3,) loss times images, right decisions and images, of all that was collected.

        Raises:
            UserError: the epoch's first steps were another run's, and what they collected is in no checkpoint.
        """
        labels, self._labels = self._labels, []
        if len(labels) != batches:
            raise UserError(
                f"expected all {batches} batches of an epoch to fit to, got the last {len(labels)}: a run of this "
                "network begins again, and is not resumed in an epoch's middle"
            )
        logits, target = network.fit_collected().float(), torch.cat(labels).float()
        right = (is_real(logits) == (target > 0.5)).sum()
        return torch.stack([mean_loss(loss, logits, target) * len(target), right, right.new_tensor(len(target))])


def no_gradient(network: nn.Module) -> Tensor:
    """A loss for a loop and an optimizer that expect one: its gradient is zero everywhere."""
    return 0 * torch.stack([parameter.sum() for parameter in network.parameters() if parameter.requires_grad]).sum()
