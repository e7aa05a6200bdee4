"""What runs, exports and evaluations left in folders, read for a table: figures, and exported models' manifests."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_bounded, read_json
from lightning_cifake.migration import migrate_model
from lightning_cifake.run_folder import CONFIG, HISTORY, METRICS, SPLIT
from lightning_cifake.text import printable, reason_of

OFFICIAL = "official"
EVALUATION = "evaluation"  # kind of record
_SEED = re.compile(r"seed[-_]?\d+")
_TEST_FOLDER = re.compile(r"(test|validate)-")  # a folder that `test` or `validate` made inside a run's
_MOST = 2**24  # bytes of a history


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        name: of its row: its folder below the one that was given, without ``seed-N``.
        folder: where it lies.
        figures: the metrics.json of its test; of the one on the official test images where there are two.
        trained: the metrics.json that the training wrote; the test's of a checkpoint that was tested alone.
        history: a dict of numbers an epoch; empty where there is none.
    """

    name: str
    folder: Path
    figures: Mapping[str, Any]
    trained: Mapping[str, Any]
    history: Sequence[Mapping[str, float]] = ()

    @property
    def network(self) -> Mapping[str, Any] | None:
        """Its ``class_path`` and ``init_args``."""
        spec = migrate_model(self.trained.get("model") or {}).get("network")
        return {"class_path": spec, "init_args": {}} if isinstance(spec, str) else spec

    @property
    def minutes(self) -> float | None:
        """Of training: the wall clock's, or the epochs' own sum of a run that was made in pieces."""
        seconds = [sum(epoch.get("train_seconds", 0.0) for epoch in self.history)]
        seconds += [fit for fit in [at(self.trained, "seconds", "fit")] if isinstance(fit, int | float)]
        return max(seconds) / 60 or None


@dataclass(frozen=True)
class Export:
    """The manifest of an exported model, and the path it was found at."""

    path: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One model's figures, as ``evaluate`` measured them.

    Attributes:
        data: of the record: what it was asked about.
        all, unseen: of all images, and of those that are not known from training (None where that is not known):
            ``images``, ``accuracy``, ``interval``, ``interval_of`` images, ``auroc``.
    """

    data: Mapping[str, Any]
    all: Mapping[str, Any]
    unseen: Mapping[str, Any] | None


@dataclass
class Found:
    """What lies in the folders; ``problems`` has a line for each record that is damaged or missing.

    ``evaluations`` are by the SHA-256 of the model's file.
    """

    runs: list[Run] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    evaluations: dict[str, Evaluated] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_records(folders: Sequence[Path]) -> Found:
    """All records below some folders.

    Args:
        folders: searched with all below them; or files, manifests of exported models.

    Raises:
        UserError: one of them is neither.
    """
    found = Found()
    for folder in folders:
        if folder.is_file():
            found.exports += _read_exports([folder], found.problems)
            continue
        if not folder.is_dir():
            raise UserError(f"expected a folder with runs in it, or a manifest, got {printable(folder)}")
        for place in _run_folders(folder):
            try:
                evaluated = read_evaluation(place / METRICS)
                if evaluated is None:
                    found.runs.append(read_run(folder, place, found.problems))
                else:
                    found.evaluations |= evaluated
            except UserError as error:
                found.problems.append(str(error))
        others = [path for path in sorted(folder.rglob("*.json")) if path.name not in (METRICS, SPLIT)]
        found.exports += _read_exports(others, found.problems)
    return found


def _read_exports(paths: Sequence[Path], problems: list[str]) -> list[Export]:
    """What of some JSON files is a manifest."""
    exports = []
    for path in paths:
        try:
            manifest, _ = read_json(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if _is_manifest(manifest):
            exports.append(Export(path, manifest))
    return exports


def _run_folders(folder: Path) -> Iterator[Path]:
    places = {path.parent for name in (METRICS, CONFIG) for path in folder.rglob(name)}
    tested = {place.parent for place in places if place.name.startswith("test-")}  # of a checkpoint alone, too
    return iter(sorted(place for place in places | tested if not _TEST_FOLDER.match(place.name)))


def read_run(root: Path, folder: Path, problems: list[str]) -> Run:
    """One run.

    Args:
        root: what its name is relative to.
        problems: gets a line where its history is damaged.

    Raises:
        UserError: it was not tested, or its record is damaged.
    """
    official = folder / f"test-{OFFICIAL}" / METRICS
    there = [path for path in (folder / METRICS, official, *sorted(folder.glob(f"test-*/{METRICS}"))) if path.is_file()]
    if not there:
        raise UserError(f"{printable(folder)}: expected {METRICS}, got none: the run has not ended, or was not tested")
    trained = chosen = _figures(there[0])
    if trained.get("protocol") != OFFICIAL and official.is_file():
        chosen = _figures(official)
    history: list[dict[str, float]] = []
    try:
        history = _history(folder / HISTORY)
    except UserError as error:
        problems.append(str(error))
    return Run(row_name(root, folder), folder, chosen, trained, history)


def read_evaluation(path: Path) -> dict[str, Evaluated] | None:
    """The models of an evaluation that say which file they are, by its SHA-256; None where it is a run's record.

    Raises:
        UserError: it is damaged.
    """
    content = read_json(path)[0] if path.is_file() else {}
    if content.get("kind") != EVALUATION:
        return None
    models = content.get("models")
    found = {}
    for model in models if isinstance(models, list) else []:
        parts = [_part(at(model, "all")), _part(at(model, "unseen"))]
        if parts[0] is None:
            raise UserError(f"{printable(path)}: expected the accuracy of each model with its interval, got none")
        if isinstance(sha256 := at(model, "sha256"), str):
            found[sha256] = Evaluated(at(content, "data") or {}, parts[0], parts[1])
    return found


def _part(content: Any) -> dict[str, Any] | None:
    """What a row wants of all images or of some; None where there is no accuracy with its interval."""
    accuracy, interval = (at(content, "figures", "accuracy", key) for key in ("value", "interval"))
    if not _is_share(accuracy) or not isinstance(interval, list) or not all(map(_is_share, interval)):
        return None
    return {
        "images": at(content, "images"),
        "accuracy": accuracy,
        "interval": interval,
        "interval_of": "images",
        "auroc": at(content, "figures", "auroc", "value"),
    }


def row_name(root: Path, folder: Path) -> str:
    """The folder below the one that was given; the seeds of one configuration share their parent's."""
    parts = [part for part in folder.relative_to(root).parts if not _SEED.fullmatch(part)]
    return "/".join(parts) or root.resolve().name


def _figures(path: Path) -> dict[str, Any]:
    """A metrics.json whose figures are what they should be."""
    content, _ = read_json(path)
    shown = printable(path)
    accuracy, images = content.get("accuracy"), content.get("images")
    if not _is_share(accuracy) or not isinstance(images, int) or images < 1:
        raise UserError(f"{shown}: expected the accuracy (0 to 1) and the number of images of a test, got none")
    if content.get("stage", "test") != "test":
        raise UserError(f"{shown}: expected the figures of a test, got those of {printable(content['stage'])}")
    auroc = content.get("auroc")
    if auroc is not None and not _is_share(auroc):
        raise UserError(f"{shown}: expected an AUROC from 0 to 1, got {printable(auroc)}")
    return content


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_manifest(content: Mapping[str, Any]) -> bool:
    known = (at(content, "model", "sha256"), at(content, "model", "bytes"), at(content, "real", "onnxruntime"))
    return all(value is not None for value in known) and _is_share(at(content, "real", "onnxruntime", "accuracy"))


def _history(path: Path) -> list[dict[str, float]]:
    """A run's epochs; nothing where there is no such file."""
    shown = printable(path)
    try:
        text = read_bounded(path, _MOST).decode()
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{shown} is damaged: expected a row of numbers an epoch ({reason_of(error)})") from error


def course_of(history: Sequence[Mapping[str, float]], name: str = "val_accuracy") -> list[tuple[float, float]]:
    """(minutes of training, figure) at the end of each epoch that has one; validation's own time is left out."""
    minutes, course = 0.0, []
    for epoch in history:
        minutes += epoch.get("train_seconds", math.nan) / 60
        if name in epoch and math.isfinite(epoch[name]) and math.isfinite(minutes):
            course.append((minutes, epoch[name]))
    return course


def minutes_to(course: Sequence[tuple[float, float]], target: float) -> float | None:
    """Minutes of training until the end of the first epoch that reaches a figure; None where none does."""
    return next((minutes for minutes, figure in course if figure >= target), None)


def at(content: Any, *keys: str) -> Any:
    """What lies under some keys of nested objects; None where one is missing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
