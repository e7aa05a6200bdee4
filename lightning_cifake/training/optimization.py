"""The optimizer and the schedule as arguments: by class path with plain arguments, or as anything that makes one."""

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lightning_cifake.class_paths import (
    Spec,
    check_arguments,
    construct,
    import_class,
    is_plain,
    normal_spec,
    parameters_of,
    path_of,
)
from lightning_cifake.errors import UserError
from lightning_cifake.training.loss import check_loss

log = logging.getLogger(__name__)

OPTIMIZER = "lightning_cifake.training.keras_adam.KerasAdam"
SCHEDULER = "lightning_cifake.training.optimization.EpochDecay"
"""The published ones."""
RUN_STEPS = "run_steps"
"""An argument of schedules that step with every optimizer step; see :mod:`lightning_cifake.training.schedules`."""
Given = str | Mapping[str, Any] | Callable[..., Any]


class EpochDecay(LambdaLR):
    """The rate times ``lr_decay`` at the start of every epoch, the first included, as Keras's callback runs.

    Args:
        optimizer: whose rate it is.
        lr_decay: the factor.

    Source: paper section 10.5; Keras's LearningRateScheduler sets the rate as an epoch begins.
    """

    def __init__(self, optimizer: Optimizer, lr_decay: float = 0.95) -> None:
        # not an attribute: a resumed run would take it from the checkpoint, whatever it was asked for
        super().__init__(optimizer, lambda epoch: lr_decay ** (epoch + 1))


class Maker:
    """Makes an optimizer, a schedule or a loss, from what stands for it.

    Args:
        given: a class path, ``{"class_path", "init_args"}``, a class, or a function.
        key: its name in messages, as ``model.optimizer``.
        base: what a class has to be.
        first: how many arguments are given it by position.
        own: argument -> the flag that it is given from, and that is named instead of it.

    Raises:
        UserError: no such class, one of another kind, or arguments that it does not take.
    """

    def __init__(
        self, given: Given, key: str, base: type, first: int = 0, own: Mapping[str, str] | None = None
    ) -> None:
        self.key, self.first, self.own = key, first, dict(own or {})
        self.spec: Spec | None
        """In plain values; None where a function stands for it."""
        if isinstance(given, str | Mapping):
            self.spec = normal_spec(given, key)
            self.made: Callable[..., Any] = import_class(self.spec["class_path"], key, base)
        elif callable(given):
            self.made, self.spec = given, _spec_of(given)
        else:
            raise UserError(f"{key}: expected a class path, a class or a function, got {type(given).__name__}")
        self.arguments: dict[str, Any] = {}
        if self.spec is not None:
            self.made, self.arguments = _class_of(self.made), self.spec["init_args"]
        parameters, takes_any = parameters_of(self.made)
        self.takes = {name for name in self.own if name in parameters or takes_any}
        taken = set(getattr(self.made, "keywords", ())) | self.arguments.keys()
        for name in taken & self.own.keys():
            raise UserError(f"{key}.{name}: expected it as {self.own[name]}, which every {key[6:]} is given")
        if self.spec is not None:
            check_arguments(self.made, self.arguments, key, [*list(parameters)[:first], *self.takes])

    def __call__(self, *first: Any, **own: Any) -> Any:
        """One, from what it is given by position, and those of ``own`` that it takes."""
        also = {name: value for name, value in own.items() if name in self.takes}
        return construct(self.made, self.arguments, self.key, *first, **also)


def _class_of(made: Callable[..., Any]) -> Callable[..., Any]:
    return made.func if isinstance(made, functools.partial) else made


def _spec_of(made: Callable[..., Any]) -> Spec | None:
    """Of a class, or of a class with plain arguments laid in."""
    arguments = made.keywords if isinstance(made, functools.partial) else {}
    cls = _class_of(made)
    path = path_of(cls) if isinstance(cls, type) and not getattr(made, "args", ()) else None
    return {"class_path": path, "init_args": dict(arguments)} if path and is_plain(arguments) else None


def optimizer_maker(given: Given) -> Maker:
    """Of ``(parameters, lr=...)``."""
    return Maker(given, "model.optimizer", Optimizer, 1, {"lr": "model.learning_rate"})


def scheduler_maker(given: Given) -> Maker:
    """Of ``(optimizer)``, with ``lr_decay=...`` and ``run_steps=...`` where it takes them."""
    own = {"lr_decay": "model.lr_decay", RUN_STEPS: "trainer.max_epochs"}
    return Maker(given, "model.scheduler", LRScheduler, 1, own)


def configuration(optimizer: Optimizer, scheduler: Any, every_step: bool = False) -> tuple[list[Optimizer], list[Any]]:
    """What Lightning takes: a step an epoch, or a step; a schedule that waits for a plateau watches val_loss."""
    if every_step:
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
    waits = isinstance(scheduler, ReduceLROnPlateau)
    return [optimizer], [{"scheduler": scheduler, "monitor": "val_loss"} if waits else scheduler]


def run_steps(trainer: Any) -> int:
    """How many optimizer steps a run has, as the Trainer's max_epochs and max_steps say.

    Raises:
        UserError: it has no end.
    """
    steps = math.inf if trainer is None else min(_steps_of_epochs(trainer), _or_without_end(trainer.max_steps))
    if not math.isfinite(steps):
        raise UserError(
            "model.scheduler: expected trainer.max_epochs or trainer.max_steps for a schedule over the whole run, got "
            "a run without end"
        )
    return int(steps)


def _steps_of_epochs(trainer: Any) -> float:
    data = getattr(trainer, "datamodule", None)
    if data is None:  # loaders that were handed to the Trainer itself
        return float(trainer.estimated_stepping_batches)
    # not the Trainer's own estimate: it sets up its loaders for it, and then no longer restores a resumed one's place
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return float(math.ceil(batches / trainer.accumulate_grad_batches) * _or_without_end(trainer.max_epochs))


def _or_without_end(given: int | None) -> float:
    return math.inf if given is None or given < 0 else given


def is_published(spec: Any, path: str) -> bool:
    """Whether a specification names this class."""
    return isinstance(spec, Mapping) and spec.get("class_path") in (path, f"lightning_cifake.{path.rpartition('.')[2]}")


def refuse_other_rate(scheduler: Any, was: float, now: float) -> None:
    """A run is resumed at another rate with the published schedule, whose rate at any epoch is known.

    Raises:
        UserError: another one, whose state holds the rate.
    """
    if was != now and not is_published(scheduler, SCHEDULER):
        path = scheduler["class_path"] if isinstance(scheduler, Mapping) else "a function"
        raise UserError(
            f"model.learning_rate: {was} in the checkpoint, got {now}: a run is resumed at another rate with the "
            f"published schedule alone, and its model.scheduler is {path}"
        )


def take_schedule(checkpoint: dict[str, Any], hparams: Mapping[str, Any]) -> None:
    """Puts the learning rate and decay that were asked for now into the state that training resumes from.

    Torch keeps both in the states of the optimizer and of the scheduler, and restores them from there. The rate is
    what it would be at this epoch had the run begun with them.

    Raises:
        UserError: another rate with a schedule that this is not known of.
    """
    before = checkpoint.get("hyper_parameters", {})
    rate, decay = hparams["learning_rate"], hparams["lr_decay"]
    if (before.get("learning_rate", rate), before.get("lr_decay", decay)) == (rate, decay):
        return
    refuse_other_rate(hparams["scheduler"], before.get("learning_rate", rate), rate)
    if not is_published(hparams["scheduler"], SCHEDULER):
        return
    for schedule, optimizer in zip(checkpoint["lr_schedulers"], checkpoint["optimizer_states"], strict=True):
        groups = optimizer["param_groups"]
        # an optimizer may give a group a rate of its own: it keeps its share
        was = before.get("learning_rate", rate)
        rates = [rate * (base / was) if base != was else rate for base in schedule["base_lrs"]]
        now = [base * decay ** (schedule["last_epoch"] + 1) for base in rates]
        schedule |= {"base_lrs": rates, "_last_lr": now}
        for group, base, lr in zip(groups, rates, now, strict=True):
            group |= {"lr": lr, "initial_lr": base}


def made_loss(given: Any) -> tuple[Any, Spec | None]:
    """The loss, and what names it again."""
    if isinstance(given, str | Mapping | type):
        maker = Maker(given, "model.loss", nn.Module)
        made, spec = maker(), maker.spec
    else:
        made, spec = given, None
    check_loss(made)
    return made, spec
