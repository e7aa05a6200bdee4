"""What the Trainer's arguments may be, told from the arguments alone: before Lightning is imported or data decoded.

Lightning checks some of them as it is made, some when the data is there, and some never: those end in a division by
zero, or train nothing.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores
from lightning_cifake.text import printable, shorten

PROCESSES_A_CORE = 4  # more of them than this on a processor is a slip of the finger
_DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")


class Rule(NamedTuple):
    """What is expected, and whether a value is that. Values of other types are left to the parser's own check."""

    expected: str
    holds: Callable[[Any], bool]


def _whole(least: int, *, also: int | None = None) -> Callable[[Any], bool]:
    return lambda value: not _is_number(value) or (_is_whole(value) and (value >= least or value == also))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)


def _share_or_count(value: Any, *, or_none: bool = False) -> bool:
    if not _is_number(value):
        return True
    if value == 0:
        return or_none
    return 0 < value <= 1 or (value > 1 and _is_whole(value))


def _lasts(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_DURATION.fullmatch(value)) and value.strip("0:") != ""
    if isinstance(value, timedelta):
        return value > timedelta(0)
    if isinstance(value, Mapping):
        return any(_is_number(part) and part > 0 for part in value.values())
    return not _is_number(value)


def _interval(value: Any) -> bool:
    return _lasts(value) if isinstance(value, str) else _share_or_count(value)


def _one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: not isinstance(value, str) or value.lower() in names)


SHARE = "a share above 0 and up to 1, or a whole number of batches from 1"
SHARE_OR_NONE = "a share from 0 to 1, or a whole number of batches"
DURATION = "a time above 0 as DD:HH:MM:SS"

TRAINER: dict[str, Rule] = {
    "max_epochs": Rule("at least 1, or -1 for no end", _whole(1, also=-1)),
    "min_epochs": Rule("at least 0", _whole(0)),
    "max_steps": Rule("at least 1, or -1 for no end", _whole(1, also=-1)),
    "min_steps": Rule("at least 0", _whole(0)),
    "max_time": Rule(DURATION, _lasts),
    "limit_train_batches": Rule(SHARE, _share_or_count),
    "limit_val_batches": Rule(SHARE_OR_NONE, lambda value: _share_or_count(value, or_none=True)),
    "limit_test_batches": Rule(f"{SHARE} (--test_at_end false leaves the test out)", _share_or_count),
    "limit_predict_batches": Rule(SHARE_OR_NONE, lambda value: _share_or_count(value, or_none=True)),
    "overfit_batches": Rule(SHARE_OR_NONE, lambda value: _share_or_count(value, or_none=True)),
    "val_check_interval": Rule(f"{SHARE}, or {DURATION}", _interval),
    "check_val_every_n_epoch": Rule("at least 1", _whole(1)),
    "num_sanity_val_steps": Rule("at least 0, or -1 for all of them", _whole(0, also=-1)),
    "log_every_n_steps": Rule("at least 0", _whole(0)),
    "accumulate_grad_batches": Rule("at least 1", _whole(1)),
    "gradient_clip_val": Rule(
        "a finite number from 0", lambda value: not _is_number(value) or (math.isfinite(value) and value >= 0)
    ),
    "gradient_clip_algorithm": _one_of("norm", "value"),
    "fast_dev_run": Rule("true, false, or a number of batches", _whole(0)),
    "num_nodes": Rule("at least 1", _whole(1)),
    "reload_dataloaders_every_n_epochs": Rule("at least 0", _whole(0)),
    "profiler": Rule(
        "one of simple, advanced, pytorch, or xla where torch_xla is installed",
        lambda value: not isinstance(value, str) or "." in value or value in _profilers(),  # a class is the parser's
    ),
    "devices": Rule("auto, a number from 1, or a list of devices", lambda value: _devices(value)),
    "barebones": Rule("false: a run of this project logs, saves and stops early", lambda value: value is not True),
    "enable_checkpointing": Rule("true: a run keeps its best and its last state", lambda value: value is not False),
}

RUN: dict[str, Rule] = {
    "patience": Rule("at least 1", _whole(1)),
    "checkpoint_minutes": Rule("at least 0", lambda value: not _is_number(value) or value >= 0),
    "seed_everything": Rule(
        "0 to 4294967295",  # numpy's
        lambda value: not _is_number(value) or (_is_whole(value) and 0 <= value < 2**32),
    ),
}


def _profilers() -> tuple[str, ...]:
    return ("simple", "advanced", "pytorch", *(["xla"] if find_spec("torch_xla") else []))


def _devices(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto" or (bool(re.fullmatch(r"-1|\d+(\s*,\s*\d*)*", value.strip())) and value.strip() != "0")
    return not _is_number(value) or (_is_whole(value) and (value >= 1 or value == -1))


def check_arguments(
    trainer: Mapping[str, Any], run: Mapping[str, Any], command: str = "fit", on_cpu: bool | None = None
) -> None:
    """Refuses what Lightning would refuse late, or would take for an empty run.

    Args:
        trainer: the Trainer's arguments by name, those that are known.
        run: the command's own, as ``patience``.
        command: ``fit``, ``validate`` or ``test``.
        on_cpu: whether the accelerator is a processor; None: only where it is named.

    Raises:
        UserError: one that does not hold, with what was expected and what it got.
    """
    for prefix, rules, values in (("trainer.", TRAINER, trainer), ("", RUN, run)):
        for name, rule in rules.items():
            value = values.get(name)
            if value is not None and not rule.holds(value):
                shown = str(value).lower() if isinstance(value, bool) else shorten(printable(value), 80)
                raise UserError(f"{prefix}{name}: expected {rule.expected}, got {shown}")
    _check_together(trainer, command, trainer.get("accelerator") == "cpu" if on_cpu is None else on_cpu)


def _check_together(trainer: Mapping[str, Any], command: str, on_cpu: bool) -> None:
    longest, least = trainer.get("max_epochs") or -1, trainer.get("min_epochs") or 0
    if _is_number(longest) and _is_number(least) and 0 < longest < least:
        raise UserError(f"trainer.min_epochs: expected at most trainer.max_epochs, {longest}, got {least}")
    if command == "validate" and trainer.get("limit_val_batches") == 0:
        raise UserError(f"trainer.limit_val_batches: expected {SHARE} to measure on, got 0")
    devices: Any = trainer.get("devices") or 1
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    nodes = trainer.get("num_nodes") or 1
    most = PROCESSES_A_CORE * cores()
    if on_cpu and _is_number(devices) and devices > most and nodes == 1:
        raise UserError(
            f"trainer.devices: expected at most {most} processes on the {cores()} cores of this machine, got {devices}"
        )


def check_given(trainer: Mapping[str, str], run: Mapping[str, str], command: str = "fit") -> None:
    """:func:`check_arguments` on the text of a command line, before its parser is imported.

    Args:
        trainer: what is given as ``--trainer.NAME TEXT``, by name.
        run: what is given as ``--NAME TEXT``.
        command: ``fit``, ``validate`` or ``test``.

    Raises:
        UserError: as there.
    """
    check_arguments(_values(trainer), _values(run), command)


def _values(given: Mapping[str, str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for name, text in given.items():
        if name == "max_time" or (name == "val_check_interval" and text.count(":") == 3):
            values[name] = text  # YAML 1.1 takes 00:01:00 for a number to the base of 60
            continue
        with suppress(yaml.YAMLError):  # the parser says it
            values[name] = yaml.safe_load(text)
    return values
