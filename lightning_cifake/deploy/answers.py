"""What is said about one image, and rows of it: lines, JSON and CSV, written as they come."""

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.console import EXACT_NAMES
from lightning_cifake.errors import UserError
from lightning_cifake.files import replacing
from lightning_cifake.text import printable, reason_of

AI, REAL = DISPLAY_NAMES
UNCERTAIN = "UNCERTAIN"
OUTPUT_SUFFIXES = (".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Prediction:
    """About one image.

    Attributes:
        path: the file, or a name of the array or bytes that were given.
        verdict: AI, REAL, or UNCERTAIN where such a band was asked for; None with an error.
        prob_real: P(REAL) in [0, 1]; None with an error.
        error: why there is no answer.
        warning: why this one deserves less trust: the image is unlike those of training.
    """

    path: str
    verdict: str | None
    prob_real: float | None
    error: str | None = None
    warning: str | None = None

    def line(self) -> str:
        """Tab-separated, for people: what would move the cursor or end the line is shown escaped (``\\x1b``)."""
        # a byte of a name that is not UTF-8 stays one, where the stream writes bytes: a reader can open the file by it
        path = printable(self.path, exact_bytes=True)
        if self.error is not None:
            return f"{path}\tERROR\t{printable(self.error)}"
        warning = f"\t{printable(self.warning)}" if self.warning else ""
        return f"{path}\t{self.verdict}\t{self.prob_real:.6f}{warning}"

    def json(self) -> str:
        """Exact, in ASCII.

        Raises:
            ValueError: ``prob_real`` is NaN or infinite, which JSON cannot say.
        """
        return json.dumps(dict(zip(_FIELDS, self._values(), strict=True)), allow_nan=False)

    def csv(self, safe: bool = False) -> str:
        """Exact; with ``safe`` no spreadsheet takes a cell for a formula."""
        values = ["" if value is None else value for value in self._values()]
        return _csv_row([_safe(value) if safe else value for value in values])

    def _values(self) -> tuple[object, ...]:
        """In the order of the fields; ``dataclasses.asdict`` would copy each deeply."""
        return self.path, self.verdict, self.prob_real, self.error, self.warning


_FIELDS = tuple(field.name for field in fields(Prediction))
CSV_HEADER = ",".join(_FIELDS)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four full-width


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def decide(prob_real: float, threshold: float, uncertain: tuple[float, float] | None = None) -> str:
    """The verdict: REAL strictly above the threshold in float32, as Keras decides; UNCERTAIN from ``low`` to ``high``,
    both in."""
    if uncertain is not None and uncertain[0] <= prob_real <= uncertain[1]:
        return UNCERTAIN
    return REAL if np.float32(prob_real) > np.float32(threshold) else AI


def input_warning(height: int, width: int, size: int) -> str | None:
    """Why an image is unlike those that the model was trained on, all ``size`` x ``size``; None if not."""
    if (height, width) == (size, size):
        return None
    reasons = []
    if min(height, width) > 4 * size:
        reasons.append("scaled down so far that what generators leave behind is mostly lost")
    elif min(height, width) < size:
        reasons.append("scaled up")
    else:
        reasons.append("scaled down")
    if max(height, width) > 1.25 * min(height, width):
        reasons.append("squeezed to a square")
    return f"{width}x{height}, trained on {size}x{size}: {', '.join(reasons)}"


@contextmanager
def writing_answers(path: Path | None, csv_safe: bool = False) -> Iterator[Callable[[Prediction], None]]:
    """A function that adds an answer to a file of .csv, .json (a list) or .jsonl; the file is there when all is well.

    UTF-8; bytes of names that are not stay as they are in CSV, and are escaped in JSON.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    if path is None:
        yield lambda answer: None
        return
    of_caller: BaseException | None = None
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISDIR(path.stat().st_mode):  # now, and not when all is done: so a name that is too long
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors=EXACT_NAMES, newline="") as file,
        ):
            add, finish = _writer(file, path, csv_safe)
            try:
                yield add
            except BaseException as error:
                of_caller = error
                raise
            finish()
    except OSError as error:
        if error is of_caller:  # standard output's
            raise
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {printable(path)}: {reason_of(error)}")


def _writer(file: TextIO, path: Path, csv_safe: bool) -> tuple[Callable[[Prediction], None], Callable[[], None]]:
    """What adds an answer, and what ends the file."""
    suffix, count = path.suffix.lower(), 0

    def write(text: str) -> None:
        try:
            file.write(text)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def add(answer: Prediction) -> None:
        nonlocal count
        if suffix == ".csv":
            write(f"{answer.csv(csv_safe)}\n")
        elif suffix == ".jsonl":
            write(f"{answer.json()}\n")
        else:
            write((",\n" if count else "\n") + answer.json())
        count += 1

    def finish() -> None:
        if suffix == ".json":
            write("\n]\n" if count else "]\n")

    write({".csv": f"{CSV_HEADER}\n", ".jsonl": ""}.get(suffix, "["))
    return add, finish


def _csv_row(values: list[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(values)  # it quotes what its own line end holds
    return buffer.getvalue().removesuffix("\r\n")
