"""The model's arguments on the command line: its network, optimizer, schedule and loss each by name or class path.

jsonargparse finds the classes and reads their arguments, as ``--model.network.layout keras``; nothing is made here.
"""

import logging
import re
from argparse import SUPPRESS
from collections.abc import Mapping, Set
from importlib import import_module
from typing import Any

from jsonargparse import ActionFail, ArgumentParser, Namespace
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_cifake.class_paths import check_arguments, find_in_current_folder, import_class
from lightning_cifake.errors import UserError
from lightning_cifake.migration import ONLY_OF_NETWORK, RESNET50
from lightning_cifake.networks.registry import SHIPPED
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.loss import BCE
from lightning_cifake.training.optimization import OPTIMIZER, RUN_STEPS, SCHEDULER

log = logging.getLogger(__name__)

CLASSES: dict[str, tuple[type, str, set[str], str]] = {
    "network": (nn.Module, SHIPPED["resnet50"], set(), "a network: %s or a class path (of the current folder too)"),
    "optimizer": (
        Optimizer,
        OPTIMIZER,
        {"params", "lr"},
        "the optimizer's class path, or SGDW, lightning_cifake.training.optimizers.AdamW or ...Muon; its rate is "
        "model.learning_rate",
    ),
    "scheduler": (
        LRScheduler,
        SCHEDULER,
        {"optimizer", "lr_decay", RUN_STEPS},
        "the schedule's class path, a step an epoch; OneCycle and Cosine: a step with the optimizer's",
    ),
    "loss": (nn.Module, BCE, set(), "the loss's class path, of logits and labels (N,): of each image, or their mean"),
}
"""Argument of the model -> its base class, the published one, what it is given otherwise, and its help."""


def add_model_arguments(parser: ArgumentParser) -> None:
    """Adds ``--model.*``. A class is kept in words, with the plain arguments that it takes."""
    parser.add_class_arguments(
        FakeImageClassifier, "model", fail_untyped=False, sub_configs=True, instantiate=False,
        skip={*CLASSES, "of_0_1_0"},
    )  # fmt: skip
    for name, (base, published, given, text) in CLASSES.items():
        key = f"model.{name}"
        shown = text % ", ".join(SHIPPED) if "%s" in text else text
        parser.add_subclass_arguments(
            base, key, as_group=False, skip=given, instantiate=False, fail_untyped=False, default=None,
            metavar="NAME", help=f"{shown}; --{key}.NAME VALUE gives it an argument, --{key}.help CLASS lists them",
        )  # fmt: skip
        parser.set_defaults({key: {"class_path": published}})
        _read_names(parser, name)
    for name in ONLY_OF_NETWORK:
        parser.add_argument(f"--model.{name}", action=ActionFail(message=_moved(name)), help=SUPPRESS)


def _moved(name: str) -> str:
    return f"model.{name} is model.network.{name} since 0.2.0: give --model.network.{name}"


def _read_names(parser: ArgumentParser, name: str) -> None:
    """Short names where a class path is read, from a flag or a file; and what is wrong with a path, in one line."""
    base, _, given, _ = CLASSES[name]
    key = f"model.{name}"
    action: Any = parser._option_string_actions[f"--{key}"]
    action.default = Namespace(class_path=CLASSES[name][1])  # not the shortest of its paths, which the parser looks for
    check = action._check_type

    def in_full(value: Any) -> Any:
        if isinstance(value, str):
            return _path_of_name(name, value)
        if isinstance(value, dict | Namespace) and isinstance(value.get("class_path"), str):
            value["class_path"] = _path_of_name(name, value["class_path"])
        elif getattr(value, "key", None) == "class_path":
            return value._replace(val=_path_of_name(name, value.val))
        return value

    def checked(value: Any, *args: Any, cfg: Any = None, **kwargs: Any) -> Any:
        value = in_full(value)
        try:
            return check(value, *args, cfg=cfg, **kwargs)
        except TypeError as error:
            before = cfg.get(key) if cfg else None
            path, arguments = _asked_for(value, before.class_path if before else CLASSES[name][1])
            for argument in arguments.keys() & _ELSEWHERE.keys() & given:
                raise UserError(f"{key}.{argument}: expected it as {_ELSEWHERE[argument]}") from error
            if path is not None:
                cls = import_class(path, key, base, SHIPPED if name == "network" else None)
                check_arguments(cls, arguments, key, given)
            if told := _OF_AN_ARGUMENT.search(str(error)):
                raise TypeError(f'Parser key "{key}.{told[1]}":\n{told[2]}') from error
            raise

    action._check_type = checked


_ELSEWHERE = {"lr": "model.learning_rate", "lr_decay": "model.lr_decay", RUN_STEPS: "trainer.max_epochs"}
_OF_AN_ARGUMENT = re.compile(r'\n\s+Parser key "([\w.]+)":\s*(Expected.*?)(?=\n\s*- |\n\s*Given value|\Z)', re.DOTALL)
_HOMES = {
    "optimizer": ("torch.optim", "lightning_cifake.training.optimizers"),
    "scheduler": ("torch.optim.lr_scheduler", "lightning_cifake.training.schedules"),
    "loss": ("torch.nn", "lightning_cifake.training.loss"),
}
"""torch's own first: of two classes of one name, ours is named by its path."""


def _path_of_name(argument: str, name: str) -> str:
    """The class path of a short name, torch's or ours: ``SGD`` is ``torch.optim.SGD``."""
    find_in_current_folder(name)  # the parser imports it, and an installed command has no current folder in its path
    if argument == "network":
        return SHIPPED.get(name, name)
    homes = _HOMES[argument] if name.isidentifier() else ()
    return next((f"{home}.{name}" for home in homes if hasattr(import_module(home), name)), name)


def _asked_for(value: Any, before: str) -> tuple[str | None, dict[str, Any]]:
    """The class path and the arguments, of those that are told apart, in what was refused."""
    if isinstance(value, str):
        return (None if value.lstrip().startswith("{") else value), {}
    if isinstance(value, dict | Namespace):
        path = value.get("class_path")
        return (path if isinstance(path, str) else None), {}
    if (name := getattr(value, "key", None)) is None:
        return None, {}
    argument = str(name).removeprefix("init_args.")
    return (before, {}) if "." in argument or argument == "class_path" else (before, {argument: value.val})


def plain_arguments(model: Namespace) -> dict[str, Any]:
    """What FakeImageClassifier is made with: the classes as class_path and init_args."""
    return {
        name: {"class_path": value["class_path"], "init_args": value.get("init_args") or {}}
        if name in CLASSES
        else value
        for name, value in model.as_dict().items()
    }


def take_moved(model: Namespace, named: Set[str]) -> None:
    """What a configuration in 0.1.0's words says, into the network's arguments; the parser refuses the flags alone.

    Args:
        model: the model's arguments.
        named: flags of the command line, which go over any configuration.

    Raises:
        UserError: the network is another one than 0.1.0's.
    """
    moved = {name: model.pop(name) for name in ONLY_OF_NETWORK if name in model}
    for name, value in moved.items():
        if _path_of_name("network", model.network.class_path).rpartition(".")[2] != RESNET50.rpartition(".")[2]:
            raise UserError(_moved(name))
        log.info("model.%s of a configuration is model.network.%s since 0.2.0", name, name)
        if named.isdisjoint({f"--model.network.{name}", f"--model.network.init_args.{name}"}):
            model.network.init_args[name] = value


def as_namespace(spec: Mapping[str, Any]) -> Namespace:
    """``{"class_path", "init_args"}`` as the parser holds it."""
    return Namespace(class_path=spec["class_path"], init_args=Namespace(**spec["init_args"]))
