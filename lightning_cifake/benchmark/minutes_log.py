"""The raw log of one training, as JSON Lines that seal each other, and what is told from it: minutes to an accuracy.

Its first line says what was trained and on what, each that follows is one pass over the validation images, and the last
says why it ended. A line holds the digest of the one before it, so that none is changed, left out or brought in.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_cifake.benchmark.records import minutes_to
from lightning_cifake.errors import UserError
from lightning_cifake.files import json_digest, read_bounded, sealed_json
from lightning_cifake.text import plural, printable, reason_of
from lightning_cifake.training.experiments import machine_text

KIND, FORM = "minutes to an accuracy", 1
TARGETS = (0.90, 0.95, 0.97)
Clock = Literal["paid", "training", "wall"]
CLOCKS: dict[Clock, str] = {
    "paid": "from the command to the accuracy, with one validation an epoch",
    "training": "of training alone",
    "wall": "of the wall clock, with every validation",
}
"""``paid``, the headline, is what a user waits for: start, data, training, checkpoints, and the one validation an epoch
that every system makes by itself. Passes within an epoch are made for the curve alone, and are left out of it."""

_AFTER = "after"  # the key that a line has the digest of the one before under
_MOST = 2**24  # bytes of a log
_HEADER: dict[str, type | tuple[type, ...]] = {
    "system": str, "title": str, "machine": dict, "date": str, "seed": int, "train_images": int, "val_images": int,
    "val_digest": str, "training_began": (int, float), "precision": str, "epochs": int,
}  # fmt: skip


class Point(NamedTuple):
    """One pass over the validation images.

    Attributes:
        seconds: from the process's start to the pass's end.
        validating: of them, seconds in this pass and those before it, with what hangs on them (a checkpoint).
        extra: of these, seconds of the passes that are not an epoch's last: those its user would not make.
        images: trained on so far.
        epoch: of the training images, as images: 1.5 is in the middle of the second epoch.
        val_accuracy: 0 to 1; None where the loss was not finite.
    """

    seconds: float
    validating: float
    extra: float
    images: int
    epoch: float
    val_accuracy: float | None


class Stopwatch:
    """Times that a training told -> the times of a log's lines. All in seconds of one clock.

    Args:
        began: when the process was started.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._validating = self._extra = 0.0
        self._open: tuple[float, bool] | None = None  # the pass that training has not gone on from yet

    def resumed(self, at: float) -> None:
        """The next training batch is there: what the pass before it took is known now."""
        if self._open is None:
            return
        began, extra = self._open
        self._open = None
        self._validating += at - began
        self._extra += at - began if extra else 0.0

    def passed(self, began: float, ended: float, extra: bool) -> dict[str, float]:
        """A pass: ``seconds``, ``validating`` and ``extra`` of :class:`Point`."""
        self.resumed(began)
        self._open = began, extra
        own = ended - began
        return {
            "seconds": round(ended - self.began, 3),
            "validating": round(self._validating + own, 3),
            "extra": round(self._extra + (own if extra else 0.0), 3),
        }


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        path: its file.
        header: its first line.
        points: its passes.
        ended: why it ended: ``budget``, ``until``, ``epochs``, ``interrupted``, ``failed``; None where it does not say,
            because it was killed or still runs.
        end: seconds from the process's start to its end, or to the last pass.
    """

    path: Path
    header: Mapping[str, Any]
    points: tuple[Point, ...]
    ended: str | None
    end: float

    @property
    def machine(self) -> str:
        return machine_text(self.header["machine"])

    @property
    def images_per_second(self) -> float:
        """Trained on, by the clock of training alone."""
        last = self.points[-1]
        seconds = self._seconds(last, "training")
        return last.images / seconds if seconds > 0 else math.nan

    def _seconds(self, point: Point, clock: Clock) -> float:
        if clock == "training":
            return point.seconds - self.header["training_began"] - point.validating
        return point.seconds - (point.extra if clock == "paid" else 0.0)

    def minutes(self, clock: Clock = "paid") -> float:
        """All of the run, by a clock: what an accuracy was not reached in. The time since the last pass counts, but
        where the log does not say when it ended."""
        last = self.points[-1]
        return (self._seconds(last, clock) + self.end - last.seconds) / 60

    def course(self, clock: Clock = "paid") -> list[tuple[float, float]]:
        """(minutes, accuracy) of each pass that has one."""
        return [
            (self._seconds(point, clock) / 60, point.val_accuracy)
            for point in self.points
            if point.val_accuracy is not None
        ]

    def minutes_to(self, accuracy: float, clock: Clock = "paid") -> float | None:
        """Minutes to the first pass that reaches an accuracy; None where none does. Nothing is interpolated: between
        two passes nobody knows."""
        return minutes_to(self.course(clock), accuracy)


class LogWriter:
    """Writes a log line by line, each to the disk as it comes.

    Raises:
        UserError: there is such a file already, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._before = path, ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, content: Mapping[str, Any]) -> None:
        line = {**content, _AFTER: self._before}
        self._before = json_digest(line)
        try:
            self._file.write(sealed_json(line, indent=None))
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def unwritable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileExistsError):
        return UserError(f"{printable(path)} is there already: expected a new file, --output names one")
    return UserError(f"cannot write {printable(path)}: {reason_of(error)}")


def read_log(path: Path) -> Log:
    """Reads a log, every line checked.

    Raises:
        UserError: no such file, another file, a line that is damaged, missing or foreign, or no pass in it. One line.
    """
    shown = printable(path)
    try:
        lines = read_bounded(path, _MOST).decode("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise UserError(f"{shown} is no log of minutes: {reason_of(error)}") from error
    if not lines:
        raise UserError(f"{shown} is empty: expected a log that `minutes run` wrote")
    contents, before = [], ""
    for number, line in enumerate(lines, 1):
        content = _line(line)
        if content is None or content.pop(_AFTER) != before:
            raise UserError(
                f"{shown}, line {number}: expected a line as `minutes run` wrote it behind the one before, got a "
                "damaged or another one"
            )
        before = json_digest({**content, _AFTER: before})
        contents.append(content)
    return _log(path, contents)


def _line(text: str) -> dict[str, Any] | None:
    """A line's content without its digest; None where it is not what was written."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or _AFTER not in content or content.pop("sha256", None) != json_digest(content):
        return None
    return content


def _log(path: Path, contents: list[dict[str, Any]]) -> Log:
    shown, header = printable(path), contents[0]
    if (header.get("kind"), header.get("form")) != (KIND, FORM):
        raise UserError(f"{shown}: expected a log of minutes in form {FORM}, got another file")
    wrong = [name for name, kind in _HEADER.items() if not isinstance(header.get(name), kind)]
    wrong += ["machine"] if not {"processor", "cores"} <= set(header.get("machine") or ()) else []
    if wrong:
        raise UserError(f"{shown}: expected a log of minutes, got one without its {wrong[0]}")
    last = contents[-1] if "ended" in contents[-1] else None
    try:
        points = tuple(_point(content) for content in contents[1 : None if last is None else -1])
        ended, end = (None, points[-1].seconds) if last is None else (str(last["ended"]), float(last["seconds"]))
    except KeyError as error:
        raise UserError(f"{shown}: expected the {error.args[0]} of each line, got one without") from error
    except IndexError:
        points = ()
    if not points:
        raise UserError(
            f"{shown}: expected at least one pass over the {plural(header['val_images'], 'image')}, got none"
        )
    return Log(path, header, points, ended, end)


def _point(content: Mapping[str, Any]) -> Point:
    return Point(*(content[name] for name in Point._fields))
