"""Several trained networks as one: the weighted sum of their logits."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks import contract
from lightning_cifake.networks.flips import MeanOfFlips
from lightning_cifake.networks.registry import build_network


class Ensemble(nn.Module):
    """Images (N, 3, S, S) float in [0, 1] -> logits (N,) of P(REAL): of each member, weighted and added up.

    The members are as they were trained: in eval mode, their weights frozen. S is theirs; they must agree on it. The
    weights are equal until somebody fills them; their sum is the inverse of the ensemble's temperature.

    Args:
        members: of each its ``network`` (a short name or a class path), the ``arguments`` that it is made with, and
            whether it answers with the mean over an image and its mirror (``flips``); what else stands there, as which
            ``checkpoint`` it is from, is for readers.

    Raises:
        UserError: no members, one that cannot be built, or some for images of different sizes.
    """

    weights: Tensor

    def __init__(self, members: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        if not members:
            raise UserError(
                "model.network ensemble: it is made of checkpoints, not trained: ensemble a.ckpt b.ckpt --output "
                "ensemble.ckpt"
            )
        self.init_args = {"members": members}
        built = [build_network(_spec(member)) for member in members]
        sizes = sorted({int(each.image_size) for each in built if hasattr(each, "image_size")})  # type: ignore[arg-type]
        if len(sizes) > 1:
            raise UserError(f"model.network.members: expected images of one size, got members for {sizes}")
        if sizes:
            self.image_size = sizes[0]
        flips = [bool(member.get("flips")) for member in members]
        self.members = nn.ModuleList(MeanOfFlips(each) if f else each for each, f in zip(built, flips, strict=True))
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> "Ensemble":
        """Stays in eval mode: the members' statistics and dropout are those that they answer with."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([member(images) for member in self.members], 1)  # (N, members)
        return (logits * self.weights).sum(1)  # not a product of matrices: int8 would take it for a dense layer

    def for_export(self) -> nn.Module:
        """A copy in which each member is what it exports."""
        made = copy.deepcopy(self)
        made.members = nn.ModuleList(contract.for_export(member) for member in self.members)
        return made


def _spec(member: Any) -> dict[str, Any]:
    if not isinstance(member, Mapping) or not isinstance(member.get("network"), str):
        raise UserError(f"model.network.members: expected network and arguments, got {type(member).__name__}")
    return {"class_path": member["network"], "init_args": member.get("arguments") or {}}


def member_of(spec: Mapping[str, Any], flips: bool, checkpoint: str) -> dict[str, Any]:
    """What :class:`Ensemble` is told of a member: its ``class_path`` and ``init_args``, and where it is from.

    In other words than a specification's: nested ones are told apart from what a configuration may build.
    """
    told = {"network": spec["class_path"], "arguments": dict(spec["init_args"]), "checkpoint": checkpoint}
    return {**told, "flips": True} if flips else told


def weigh(ensemble: Ensemble, weights: Sequence[float]) -> None:
    """Fills the weights, one for each member, in place."""
    ensemble.weights.copy_(torch.tensor(weights, dtype=ensemble.weights.dtype))
