"""What is said about one image, and rows of it: lines, JSON and CSV, written as they come."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np

from lightning_cifake.errors import UserError

AI, REAL, UNCERTAIN = "AI", "REAL", "UNCERTAIN"
OUTPUT_SUFFIXES = (".csv", ".json", ".jsonl")
_ESCAPED = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})  # a file's name may hold them, a line may not


@dataclass(frozen=True)
class Answer:
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
        path = self.path.translate(_ESCAPED)
        if self.error is not None:
            return f"{path}\tERROR\t{self.error}"
        return f"{path}\t{self.verdict}\t{self.prob_real:.6f}" + (f"\t{self.warning}" if self.warning else "")

    def json(self) -> str:
        return json.dumps(asdict(self))

    def csv(self) -> str:
        return _csv_row(["" if value is None else value for value in asdict(self).values()])


CSV_HEADER = ",".join(field.name for field in fields(Answer))


def decide(prob_real: float, threshold: float, uncertain: tuple[float, float] | None = None) -> str:
    """The verdict: REAL strictly above the threshold in float32, as Keras decides; UNCERTAIN from ``low`` to ``high``,
    both in."""
    if uncertain is not None and uncertain[0] <= prob_real <= uncertain[1]:
        return UNCERTAIN
    return REAL if np.float32(prob_real) > np.float32(threshold) else AI


def doubts(height: int, width: int, size: int) -> str | None:
    """Why an image is unlike those that the model was trained on, all ``size`` x ``size`` as they came; None if not."""
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
def writing_answers(path: Path | None) -> Iterator[Callable[[Answer], None]]:
    """A function that adds an answer to a file of .csv, .json (a list) or .jsonl; the file is there when all is well.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    if path is None:
        yield lambda answer: None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield _writer(file, path.suffix)
            if path.suffix == ".json":
                file.write("\n]\n" if file.tell() > 2 else "]\n")
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # of standard output, not of this file
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def _writer(file: TextIO, suffix: str) -> Callable[[Answer], None]:
    if suffix == ".csv":
        file.write(f"{CSV_HEADER}\n")
        return lambda answer: print(answer.csv(), file=file)
    if suffix == ".jsonl":
        return lambda answer: print(answer.json(), file=file)
    separators = iter(["[\n"])
    file.write("[")

    def add(answer: Answer) -> None:
        file.write(("\n" if next(separators, None) else ",\n") + answer.json())

    return add


def _csv_row(values: list[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(values)  # it quotes what its own line end holds
    return buffer.getvalue().removesuffix("\r\n")
