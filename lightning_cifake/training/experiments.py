"""A table of experiments as CSV: each row says what was expected of a run before it began, and what came of it.

Runs append to it, several at once where they like; its last column, ``learned``, is for people to fill in.
"""

import csv
import io
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

from lightning_cifake.errors import UserError
from lightning_cifake.files import exclusive, read_bounded, write_whole
from lightning_cifake.machine import cores, processor
from lightning_cifake.text import printable, reason_of

COLUMNS = (
    "date", "prediction", "configuration", "seed", "epochs", "best_epoch", "minutes", "machine", "train_loss",
    "train_accuracy", "val_loss", "val_accuracy", "val_auroc", "learned",
)  # fmt: skip
"""The figures are of the best epoch, whose number counts from 1. The test set is no part: nothing is chosen on it."""

_MAX_BYTES = 2**24
_FIGURES = tuple(name for name in COLUMNS if name.startswith(("train_", "val_")))


def append_experiment(path: Path | str, row: Mapping[str, Any]) -> None:
    """Adds a row to a table, which is made where there is none; what stands in it stays as it is, byte for byte.

    Safe with several processes at once, and a reader meets the table before or after the row, never half of it.

    Args:
        path: of the table, whose first line names its columns: :data:`COLUMNS`, in any order, and others of your own.
        row: values by column. What is missing or None is left empty, ``date`` is today's.

    Raises:
        UserError: the table is none, or cannot be written.
        ValueError: a value for a column that there is not.
    """
    path = Path(path)
    if unknown := set(row) - set(COLUMNS):
        raise ValueError(f"expected columns of {', '.join(COLUMNS)}, got {', '.join(sorted(unknown))}")
    cells = {name: _cell(value) for name, value in {"date": date.today().isoformat(), **row}.items()}
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock, lambda: None):
            text, columns = _read(path)
            if text and not text.endswith(("\n", "\r")):
                text += "\n"
            added = [cells.get(name, "") for name in columns]
            write_whole(path, text + _lines(*([] if text else [columns]), added))
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {reason_of(error)}") from error


def check_experiments(path: Path | str) -> None:
    """Refuses a table that :func:`append_experiment` would refuse: before a run, not at its end.

    Raises:
        UserError: see there.
    """
    _read(Path(path))


def read_experiments(path: Path | str) -> list[dict[str, str]]:
    """The rows, each a text by column.

    Raises:
        UserError: the table is none.
    """
    text, _ = _read(Path(path))
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def best_figures(history: list[dict[str, Any]], best_epoch: int | None) -> dict[str, Any]:
    """The columns of a row that a run's history tells.

    Args:
        history: one entry an epoch, as history.csv has it.
        best_epoch: from 0; the last one's figures without it.
    """
    if not history:
        return {"epochs": 0}
    chosen = next((epoch for epoch in history if epoch["epoch"] == best_epoch), history[-1])
    return {
        "epochs": len(history),
        "best_epoch": chosen["epoch"] + 1,
        **{name: chosen.get(name) for name in _FIGURES},
    }


def machine_of(device: torch.device) -> dict[str, Any]:
    """What computed: ``processor`` and ``cores``, and ``gpu`` where the device is one."""
    found: dict[str, Any] = {"processor": processor(), "cores": cores()}
    if device.type == "cuda":
        with suppress(RuntimeError, AssertionError):  # a GPU that is gone by now
            found["gpu"] = torch.cuda.get_device_name(device)
    return found


def machine_text(machine: Mapping[str, Any]) -> str:
    """``NVIDIA H100, 16 cores``, ``AMD EPYC, 2 cores``."""
    return f"{machine.get('gpu') or machine['processor']}, {machine['cores']} cores"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else printable(" ".join(str(value).split()))


def _lines(*rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a table, and its columns; no text where there is no table yet.

    Bytes that are no UTF-8 come back as they were.
    """
    shown = printable(path)
    try:
        text = read_bounded(path, _MAX_BYTES).decode(errors="surrogateescape")
    except FileNotFoundError:
        return "", COLUMNS
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    if not text:
        return "", COLUMNS
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{shown} is no table of experiments: {reason_of(error)}") from error
    columns = tuple(rows[0])
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(
            f"{shown} is no table of experiments: expected the columns {', '.join(COLUMNS)}, got no {missing[0]}"
        )
    for number, cells in enumerate(rows[1:], 1):
        if cells and len(cells) != len(columns):
            raise UserError(f"{shown}, row {number}: expected {len(columns)} cells, got {len(cells)}")
    return text, columns
