"""What ``fit --experiments FILE --prediction TEXT`` writes down of a run."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import public_name
from lightning_cifake.training.experiments import check_experiments

_ELSEWHERE = frozenset(
    (
        "--experiments", "--prediction", "--seed_everything", "--data.root", "--data.cache_dir", "--output_dir",
        "--overwrite", "--checkpoint_minutes", "--threads", "--trainer.enable_progress_bar",
    )
)  # fmt: skip
"""Flags that are columns of their own, or change no figure."""


def check_asked(config: Any, subcommand: str) -> None:
    """Refuses what could not be written down, before anything is trained.

    Raises:
        UserError: one of the two flags without the other, a command that trains nothing, a table that is none.
    """
    if not config.experiments and not config.prediction:
        return
    if subcommand != "fit":
        raise UserError(f"--experiments and --prediction are for fit: {subcommand} trains nothing")
    if not config.experiments:
        raise UserError("--prediction: expected --experiments FILE beside it, to be written to, got none")
    if not (config.prediction or "").strip():
        raise UserError("--experiments: expected --prediction TEXT beside it, said before the run, got none")
    check_experiments(config.experiments)


def configuration_of(arguments: Sequence[str]) -> str:
    """The configurations and flags of a command line, without those that are written down elsewhere; no folders.

    Args:
        arguments: what follows ``fit``; ``--config`` with JSON in it is what a checkpoint was made with.
    """
    kept: list[str] = []
    for flag, values in _flags(arguments):
        if flag in _ELSEWHERE or any(value.startswith("{") for value in values if flag == "--config"):
            continue
        kept += [flag, *(_without_folders(flag, value) for value in values)]
    return shlex.join(kept)


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with its values, which follow it or stand behind its ``=``."""
    flag, values = "", []
    for part in (*arguments, "--"):
        if not part.startswith("--") and part != "-c":
            values.append(part)
            continue
        if flag:
            yield flag, values
        flag, equals, value = part.partition("=")
        flag, values = "--config" if flag == "-c" else flag, [value] if equals else []


def _without_folders(flag: str, value: str) -> str:
    if flag == "--config" and value.endswith((".yaml", ".yml")):
        return Path(value).stem
    if flag == "--ckpt_path":  # a run is checkpoints/official/1/last.ckpt
        return "/".join(Path(value).parts[-3:])
    return public_name(value) if value.startswith(("/", "~")) else value
