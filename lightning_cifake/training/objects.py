"""What an image shows as a second target of training: an airplane, a truck, ..., real or generated."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import name_of
from lightning_cifake.training.loss import Loss

UNKNOWN = -1
"""The object class of an image whose name does not tell it."""


class ObjectTarget:
    """Adds the cross-entropy over the object classes to a loss, where the network tells them apart.

    Args:
        weight: what that part of the loss is multiplied by; 0: there is none.
        network: for a weight, one with ``object_classes`` and ``forward_with_objects``; see
            :mod:`lightning_cifake.networks.registry`.

    Raises:
        UserError: a negative weight, or a network that has no such output.
    """

    def __init__(self, weight: float, network: nn.Module) -> None:
        if not 0 <= weight < float("inf"):
            raise UserError(f"model.object_weight: expected at least 0, got {weight}")
        classes = getattr(network, "object_classes", 0)
        if weight and not (callable(getattr(network, "forward_with_objects", None)) and classes):
            raise UserError(
                "model.object_weight: expected a network with object_classes and forward_with_objects, got "
                f"{name_of(network)}, which tells no object classes apart"
            )
        self.weight, self.classes = weight, classes

    def check_data(self, data: Any) -> None:
        """Whether the images have object classes that are learnt from them.

        Raises:
            UserError: they have none, or more than the network; or images are mixed, and show two.
        """
        found = getattr(getattr(data, "images", None), "object_classes", None)
        if not self.weight or found is None:
            return
        if not found.any() or found.max() > self.classes:
            raise UserError(
                f"model.object_weight: expected images of 1 to {self.classes} object classes, numbered in their names "
                f"as CIFAKE's, 0012 (3).jpg, got {int(found.max())}"
            )
        if getattr(getattr(data, "augmentation", None), "mixup", 0):
            raise UserError("data.mixup: expected 0 with model.object_weight: a mixed image shows two objects")

    def loss(
        self,
        own: Tensor,
        reduced: Callable[[Loss, Tensor, Tensor], Tensor],
        logits: Tensor,
        object_logits: Tensor | None,
        objects: Tensor | None,
    ) -> Tensor:
        """The loss with this part; images of unknown object add nothing to it.

        Args:
            own: of the labels, a scalar.
            reduced: made it of a loss over (N,) logits and (N,) targets: ``mean_loss`` or ``summed_loss``.
            logits: (N,) of P(REAL).
            object_logits: (N, object_classes); None without a weight.
            objects: (N,) int64 from 0, or :data:`UNKNOWN`.
        """
        if object_logits is None or objects is None:
            return own
        each = F.cross_entropy(object_logits, objects, ignore_index=UNKNOWN, reduction="none")
        return own + self.weight * reduced(lambda *_: each, logits, logits)
