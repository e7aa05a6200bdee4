"""Schedules that step with every optimizer step, over the whole length of a run.

A schedule whose class takes ``run_steps``, the optimizer steps of the whole run, is one: the model fills it in from the
Trainer, and Lightning steps it with the optimizer.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_cifake.errors import UserError


class OneCycle(LambdaLR):
    """Up to the learning rate, then down to almost nothing in the last step.

    A checkpoint keeps the step it stands at, not its length: a run that is resumed with another ``max_epochs`` goes on
    along the curve of its new length.

    Args:
        optimizer: whose rates it scales, those of all its groups alike.
        run_steps: optimizer steps of the whole run.
        warmup: share of the steps that go up.
        start: share of the learning rate that it begins above.
        end: share of the learning rate that it ends above.
        shape: ``linear``, or ``cosine``: half a wave up and half a wave down.

    Source: Smith and Topin 2018, "Super-convergence"; fast CIFAR-10 recipes take the linear one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        run_steps: int,
        warmup: float = 0.2,
        start: float = 0.0,
        end: float = 0.0,
        shape: str = "linear",
    ) -> None:
        if shape not in ("linear", "cosine"):
            raise UserError(f"model.scheduler.shape: expected linear or cosine, got {shape}")
        bend = _straight if shape == "linear" else _half_wave
        super().__init__(optimizer, _up_and_down(run_steps, warmup, start, end, bend, bend))


class Cosine(LambdaLR):
    """Half a wave of a cosine, from the learning rate to almost nothing in the last step; a straight way up before it.

    Resumed as :class:`OneCycle`.

    Args:
        optimizer: whose rates it scales.
        run_steps: optimizer steps of the whole run.
        warmup: share of the steps that go up.
        end: share of the learning rate that it ends above.

    Source: Loshchilov and Hutter 2017, "SGDR", without restarts.
    """

    def __init__(self, optimizer: Optimizer, run_steps: int, warmup: float = 0.0, end: float = 0.0) -> None:
        super().__init__(optimizer, _up_and_down(run_steps, warmup, 0.0, end, _straight, _half_wave))


Bend = Callable[[float], float]


def _up_and_down(
    steps: int, warmup: float, start: float, end: float, going_up: Bend, going_down: Bend
) -> Callable[[int], float]:
    """Step, from 0, -> factor on the learning rate. No step is lost to a factor of 0; steps beyond the last are as it.

    A function, not an object with these numbers: torch would restore that from the checkpoint of a resumed run.
    """
    for name, share in (("warmup", warmup), ("start", start), ("end", end)):
        if not 0 <= share < 1:
            raise UserError(f"model.scheduler.{name}: expected a share from 0 to below 1, got {share}")
    up = round(warmup * steps)

    def factor(step: int) -> float:
        if step < up:
            return start + (1 - start) * going_up((step + 1) / (up + 1))
        left = max(steps - step, 1) / max(steps - up, 1)
        return end + (1 - end) * going_down(left)

    return factor


def _straight(share: float) -> float:
    return share


def _half_wave(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2
