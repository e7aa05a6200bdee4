"""A running average of a network's weights: what is validated, saved and exported in place of the last step's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifake.checkpoint import load_strictly
from lightning_cifake.errors import UserError

RAW = "raw_weights"
"""A checkpoint's key: the weights that training goes on from. Its state_dict holds the averages."""


class WeightAverage:
    """Exponential moving average of weights and of batch norms' statistics; counters are taken as they are.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the random weights of the beginning are soon
    forgotten. A few launches a step on a GPU, which the host does not wait for.

    Args:
        network: whose; it holds the weights that are trained, and while :attr:`measuring` the averages.
        decay: from 0 to below 1.
        updates: how many were made before.

    Source: the warm-up is that of TensorFlow's ExponentialMovingAverage with num_updates.
    """

    def __init__(self, network: nn.Module, decay: float, updates: int = 0) -> None:
        self.network, self.decay, self.updates = network, decay, updates
        self.measuring = False
        # detached, of the same memory
        self._own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        self._other = {name: value.clone() for name, value in self._own.items()}
        self._averaged = [name for name, value in self._own.items() if value.is_floating_point()]
        self._copied = [name for name in self._own if name not in set(self._averaged)]

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(*(self._of(self._averaged)), weight)
        if self._copied:
            torch._foreach_copy_(*self._of(self._copied))

    def _of(self, names: list[str]) -> tuple[list[Tensor], list[Tensor]]:
        return [self._other[name] for name in names], [self._own[name] for name in names]

    @torch.no_grad()
    def swap(self) -> None:
        """The averages into the network and the trained weights out of it, or back."""
        for name, own in self._own.items():
            kept = own.clone()
            own.copy_(self._other[name])
            self._other[name].copy_(kept)
        self.measuring = not self.measuring

    def save(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """The averages into its state_dict, and the trained weights beside them where it is one to resume from."""
        averages, trained = (self._own, self._other) if self.measuring else (self._other, self._own)
        checkpoint["state_dict"] |= {prefix + name: value for name, value in averages.items()}
        if "optimizer_states" in checkpoint:
            checkpoint[RAW] = {"weights": trained, "updates": self.updates}


def resume(network: nn.Module, decay: float, raw: Any) -> WeightAverage:
    """From a network that holds the averages of a checkpoint, and what :meth:`WeightAverage.save` put beside them.

    Raises:
        UserError: it is not that.
    """
    weights, updates = (raw.get("weights"), raw.get("updates")) if isinstance(raw, Mapping) else (None, None)
    if not isinstance(weights, dict) or type(updates) is not int or updates < 0 or not _all_finite(weights):
        raise UserError("the checkpoint cannot be resumed: expected the trained weights beside the averaged ones")
    average = WeightAverage(network, decay, updates)
    load_strictly(network, weights, "the trained weights of the checkpoint")
    return average


def _all_finite(weights: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) and bool(torch.isfinite(value).all()) for value in weights.values())
