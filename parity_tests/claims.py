"""What a parity test claims, recorded while it is asserted: every row of the report is a check that has run."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity_tests.tolerances import EXACT, Tolerance

RUNGS = {
    "0 reference": "The reference itself: what it cuts, leaks, saves and refuses",
    "1 split": "Sizes of the split, lists of files, labels",
    "2 images": "Decoding, resizing, scaling, augmentation",
    "3 activations": "Every stage's output, and the network's",
    "4 gradients": "Loss, gradients, running statistics",
    "5 optimizer": "Adam, the learning rate's schedule, early stopping",
    "6 training": "Whole training runs, step by step",
    "7 metrics": "Figures of an evaluation",
    "8 round trip": "Weights from Keras to Lightning and back, and to ONNX",
    "9 statistics": "Independent training runs, compared",
}
SAYS = {
    "0 reference": "`tf_reference` is the published code on today's Keras: its split, its leaks, its constants.",
    "1 split": "Both cut the same files into training, validation and test, however many there are.",
    "2 images": "Both see the same pixels, and change them in the same way by the same draws.",
    "3 activations": "With the same weights every stage of the network gives the same.",
    "4 gradients": "So do the loss, every gradient and the running statistics of batch norm.",
    "5 optimizer": "Adam, its schedule and early stopping take the same steps and stop at the same one.",
    "6 training": "Trained side by side, the two stay one system, step by step.",
    "7 metrics": "Of the same answers both count the same accuracy, AUROC, precision and recall.",
    "8 round trip": "A model goes from Keras to Lightning and back, answers the same, and trains on as if never moved.",
    "9 statistics": "Trained apart, each with its own random numbers, the two come out alike.",
}
"""What a rung claims, in a sentence."""
HOLDS, FAILS, SKIPPED = "holds", "fails", "skipped"


@dataclass
class Row:
    """One claim of one test, or a figure that is only reported.

    Attributes:
        kind: ``claim`` (measured at most tolerance), ``fault`` (put in by hand: measured more than tolerance) or
            ``figure`` (reported, nothing is asked of it).
        text: the claim; for a fault what was put in.
        rung: a key of :data:`RUNGS`.
        test: pytest's name of the test, ``file.py::function[parameter]``.
        verdict: ``holds``, ``fails`` or ``skipped``.
        measured: None where the test did not come so far.
        tolerance: what it was held against; for a fault with the factor in it. Its constant's name beside it.
        cases: how often the test checked it; ``measured`` is the worst of them.
        reason: why it was skipped, or how the test ended.
        seconds: the whole test's.
        date: of the run, ISO.
        long: the test is marked so, and runs only when asked for.
    """

    kind: str
    text: str
    rung: str
    test: str
    verdict: str
    measured: float | None = None
    tolerance: float | None = None
    tolerance_name: str = ""
    unit: str = ""
    cases: int = 1
    reason: str = ""
    seconds: float = 0.0
    date: str = ""
    long: bool = False


@dataclass
class Note:
    """A paragraph, or a picture (its file's name in the report's folder) with its caption, under a rung."""

    rung: str
    test: str
    text: str
    picture: str = ""
    date: str = ""
    long: bool = False


@dataclass
class Recorded:
    """What one run of the tests left; as JSON through :func:`dataclasses.asdict`."""

    rows: list[Row] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    known_tests: list[str] = field(default_factory=list)  # all that exist, run or not
    facts: dict[str, Any] = field(default_factory=dict)  # date, machine, versions, data

    def to_json(self) -> dict[str, Any]:
        rows = [{key: _finite(value) for key, value in asdict(row).items()} for row in self.rows]
        return {**self.facts, "claims": rows, "notes": [asdict(note) for note in self.notes]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Recorded":
        numbers = ("measured", "tolerance")
        rows = [
            Row(**{**row, **{key: float(row[key]) for key in numbers if row[key] is not None}})
            for row in content["claims"]
        ]
        facts = {key: value for key, value in content.items() if key not in ("claims", "notes")}
        return cls(rows, [Note(**note) for note in content["notes"]], facts=facts)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Recorder:
    """A pytest plugin that collects what the tests of one run claim."""

    def __init__(self) -> None:
        self.recorded = Recorded()
        self.pictures: Path | None = None  # where the report wants them
        self.today = date.today().isoformat()
        self._item: pytest.Item | None = None
        self._rows: dict[tuple[str, str], Row] = {}
        self._notes: list[Note] = []
        self._started = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before -m and -k take any away."""
        self.recorded.known_tests = [_name(item) for item in items if _is_ours(item)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._item, self._rows, self._notes, self._started = item, {}, [], time.perf_counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if _is_ours(item) and (report.when == "call" or (report.when == "setup" and not report.passed)):
            self._close(item, report)
        return report

    def _close(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Writes up a test that has ended; one that claimed nothing stands for itself, by its name."""
        if not self._rows and getattr(item.module, "RUNG", None) not in RUNGS:  # type: ignore[attr-defined]
            return
        sentence = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._row("claim", sentence, SKIPPED).reason = reason.removeprefix("Skipped: ")
        elif report.failed and all(row.verdict == HOLDS for row in self._rows.values()):
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or str(report.longrepr)
            self._row("claim", sentence, FAILS).reason = message.strip().splitlines()[0][:200]
        elif not self._rows:
            self._row("claim", sentence, HOLDS)
        for row in self._rows.values():
            row.seconds = round(time.perf_counter() - self._started, 2)
        self.recorded.rows += self._rows.values()
        self.recorded.notes += self._notes

    def add(self, kind: str, text: str, verdict: str, measured: float, **fields: Any) -> None:
        """Records one check; of several with one text in one test (a property's cases) the worst stays."""
        row = self._rows.get((kind, text))
        if row is None:
            self._row(kind, text, verdict, measured=measured, **fields)
            return
        row.cases += 1
        worse = measured < row.measured if kind == "fault" else measured > row.measured  # type: ignore[operator]
        if worse or math.isnan(measured) or (verdict == FAILS and row.verdict == HOLDS):
            row.measured = measured
        if verdict == FAILS:
            row.verdict = FAILS

    def _row(self, kind: str, text: str, verdict: str, rung: str | None = None, **fields: Any) -> Row:
        assert self._item is not None, "a claim outside of a test"
        row = Row(kind, text, self.rung(rung), _name(self._item), verdict, date=self.today, long=self._long(), **fields)
        self._rows[kind, text] = row
        return row

    def note(self, text: str, rung: str | None, picture: str = "") -> None:
        assert self._item is not None, "a note outside of a test"
        self._notes.append(Note(self.rung(rung), _name(self._item), text, picture, self.today, self._long()))

    def rung(self, rung: str | None) -> str:
        found = rung or getattr(getattr(self._item, "module", None), "RUNG", None)
        if found not in RUNGS:
            raise TypeError(f"{_name(self._item)}: expected RUNG in its file to be one of {list(RUNGS)}, got {found!r}")
        return found

    def _long(self) -> bool:
        return self._item is not None and self._item.get_closest_marker("long") is not None


def _is_ours(item: pytest.Item) -> bool:
    return item.path.parent == Path(__file__).parent


def _name(item: pytest.Item | None) -> str:
    return f"{item.path.name}::{item.name}" if item is not None else ""


class Claims:
    """The fixture ``claim``: asserts and records. Its folder is where a test writes its pictures."""

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        self._recorder, self.folder = recorder, folder

    def __call__(self, text: str, measured: Any, tolerance: Tolerance, rung: str | None = None) -> None:
        """``measured`` is at most ``tolerance``."""
        value, bound = float(measured), _checked(tolerance)
        holds = value <= bound  # NaN does not
        self._add("claim", text, holds, value, float(bound), bound.name, rung)
        if not holds:
            raise AssertionError(f"{text}: measured {value:.3g}, tolerance {bound:.3g} ({bound.name})")

    def equal(self, text: str, ours: Any, theirs: Any, rung: str | None = None) -> None:
        """The two are one: arrays in shape and every value, sequences in length and every item; NaN is NaN."""
        unequal, example = _differences(ours, theirs)
        self._add("claim", text, unequal == 0, float(unequal), float(EXACT), EXACT.name, rung)
        if unequal:
            raise AssertionError(f"{text}: {unequal} unequal, {example}")

    def fault(self, text: str, moved: Any, tolerance: Tolerance, factor: float = 1e3, rung: str | None = None) -> None:
        """A fault that was put in by hand is seen: it moved what is measured by more than ``factor`` tolerances."""
        value, bound = float(moved), _checked(tolerance)
        seen = value > factor * bound
        name = bound.name if factor == 1 or not bound else f"{factor:g} x {bound.name}"
        self._add("fault", text, seen, value, factor * float(bound), name, rung)
        if not seen:
            raise AssertionError(
                f"not seen: {text}; it moved by {value:.3g}, expected more than {factor:g} x {bound:g}"
            )

    def figure(self, text: str, measured: Any, unit: str = "", rung: str | None = None) -> None:
        """A measured number that the page reports and of which nothing is asked."""
        self._recorder.add("figure", text, HOLDS, float(measured), unit=unit, rung=rung)

    def note(self, markdown: str, rung: str | None = None) -> None:
        """A paragraph under the rung's tables."""
        self._recorder.note(markdown, rung)

    def picture(self, path: Path, caption: str, rung: str | None = None) -> None:
        """A picture under the rung's tables; ``path`` lies in ``folder``, under a name that no other test uses."""
        assert path.parent == self.folder and path.is_file(), f"expected a file written in {self.folder}, got {path}"
        self._recorder.note(caption, rung, path.name)

    def _add(
        self, kind: str, text: str, good: bool, measured: float, tolerance: float, name: str, rung: str | None
    ) -> None:
        verdict = HOLDS if good else FAILS
        self._recorder.add(kind, text, verdict, measured, tolerance=tolerance, tolerance_name=name, rung=rung)


def _checked(tolerance: Tolerance) -> Tolerance:
    if not isinstance(tolerance, Tolerance):
        raise TypeError(f"expected a Tolerance of parity_tests/tolerances.py, with its reason, got {tolerance!r}")
    return tolerance


def _differences(ours: Any, theirs: Any) -> tuple[int, str]:
    """How many places differ, and the first of them in words."""
    if isinstance(ours, str) or isinstance(theirs, str) or not _is_many(ours) or not _is_many(theirs):
        same = bool(np.array_equal(ours, theirs, equal_nan=isinstance(ours, float) and isinstance(theirs, float)))
        return int(not same), f"ours {ours!r}, theirs {theirs!r}"
    if isinstance(ours, Sequence) and isinstance(theirs, Sequence):
        places = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if _differences(a, b)[0]]
        shorter = min(len(ours), len(theirs))
        extra = abs(len(ours) - len(theirs))
        if places:
            return len(places) + extra, f"first at {places[0]}: {_differences(ours[places[0]], theirs[places[0]])[1]}"
        return extra, f"{len(ours)} of ours, {len(theirs)} of theirs, first beyond: {[*ours, *theirs][shorter:][:1]}"
    actual, other = np.asarray(ours), np.asarray(theirs)
    if actual.shape != other.shape:
        return max(actual.size, other.size, 1), f"shape {actual.shape} of ours, {other.shape} of theirs"
    both_nan = (actual != actual) & (other != other)
    wrong = np.argwhere(np.asarray((actual != other) & ~both_nan))
    if not len(wrong):
        return 0, ""
    at = tuple(int(i) for i in wrong[0])
    return len(wrong), f"first at {at}: ours {actual[at]!r}, theirs {other[at]!r}"


def _is_many(value: Any) -> bool:
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0
