"""What is wrong with a data set, before anyone trains on it: copies, wrong labels, shortcuts."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.assessment import audit_duplicates, audit_labels, audit_near, audit_shortcuts
from lightning_cifake.assessment.audit_files import Header, describe, read_header
from lightning_cifake.assessment.audit_words import findings_of
from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.decode import ImageSet, is_demo, load_images
from lightning_cifake.data.layout import parse_classes
from lightning_cifake.data.sources import open_source
from lightning_cifake.errors import UserError
from lightning_cifake.files import public_name
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

IMAGE_SIZE = 32
SMALLEST_SIZE = 16  # what descriptors and thumbnails are made of
LISTED = 200  # pairs, groups and suspects that audit.json names; excluded.txt names all
Task = Callable[[str, int], audit_near.Tick]
"""Begins a bar: what is done, and of how many; gives what moves it on."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        record: for audit.json, in plain values; its ``findings`` are its sentences, the worst first.
        excluded: the lines of excluded.txt.
        images: what was looked at.
        pairs: the near-duplicates.
    """

    record: dict[str, Any]
    excluded: list[str]
    images: ImageSet
    pairs: audit_near.Pairs


def audit(
    root: Path | str,
    classes: str | None = None,
    image_size: int = IMAGE_SIZE,
    model: str | None = None,
    headers: bool = True,
) -> Audit:
    """Looks a data set through; a bar on standard error shows how far it is.

    Args:
        root: a folder, a zip or ``demo``, as ``fit`` takes it.
        classes: the names of the class folders, as ``fake=ai,real=nature``.
        image_size: height and width that images are compared at, from 16 on.
        model: whose answers speak for or against labels; without one a cheap classifier is fitted out of fold.
        headers: reads every file's header too.

    Raises:
        UserError: no data set, one class, no readable image of one, or files that change meanwhile.
    """
    if image_size < SMALLEST_SIZE:
        raise UserError(f"--image_size: expected at least {SMALLEST_SIZE}, got {image_size}")
    asked = _opened(model) if model else None
    images = load_images(root, image_size, classes=classes)
    with _bars() as task:
        read = None if is_demo(root) or not headers else _headers(images, root, classes, task)
        equal = audit_duplicates.equal_pixels(images)
        exact = audit_duplicates.exact(images, equal)
        tick = task("comparing thumbnails", audit_near.blocks_of(len(np.unique(equal))))
        pairs = audit_near.near_duplicates(images.images, equal, tick)
        near = audit_duplicates.near(images, equal, pairs, LISTED)
        suspects = _labels(images, asked, task)
        shortcuts = _shortcuts(images, read, task)
    record: dict[str, Any] = {
        "kind": "audit",
        "data": _data(images),
        "exact": exact.described(LISTED),
        "near": near,
        "labels": None if suspects is None else audit_labels.describe(suspects, images.paths, images.labels, LISTED),
        "files": None if read is None else describe(read, images.labels),
        "shortcuts": shortcuts,
    }
    found = np.empty(0, np.int64) if suspects is None else suspects.suspects
    excluded, record["excluded"] = audit_duplicates.excluded(images, equal, exact, pairs, found)
    record["findings"] = findings_of(record)
    return Audit(record, excluded, images, pairs)


@contextmanager
def _bars() -> Iterator[Task]:
    """Bars on standard error, one a step."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:

        def task(description: str, total: int) -> audit_near.Tick:
            number = progress.add_task(description, total=total)
            return lambda done: progress.advance(number, done)

        yield task


def _headers(images: ImageSet, root: Path | str, classes: str | None, task: Task) -> list[Header]:
    source = open_source(root, parse_classes(classes))
    tick, found = task("reading headers", len(images)), []
    for path in images.paths:
        try:
            found.append(read_header(source.read(path)))
        except (OSError, ValueError, LookupError) as error:
            raise UserError(
                f"{printable(path)} of {printable(images.name)} could be read a moment ago and cannot be now: "
                f"{reason_of(error)}"
            ) from error
        tick(1)
    return found


def _opened(model: str) -> Any:
    from lightning_cifake.assessment.models import open_model

    return open_model(model)


def _labels(images: ImageSet, model: Any, task: Task) -> audit_labels.LabelFindings | None:
    """What speaks against labels; None where there are too few images."""
    if not audit_labels.enough(images.labels):
        return None
    count = len(images)
    if model is None:
        tick = task("fitting a classifier out of fold", count + len(audit_shortcuts.sample_of(images.labels)))
        prob_real = audit_labels.out_of_fold_probabilities(images.images, images.labels, images.groups, tick)
        return audit_labels.label_errors(prob_real, images.labels, audit_labels.CLASSIFIER, out_of_fold=True)
    from scipy.special import expit

    tick, found = task(f"asking {printable(model.name)}", count), []
    for at in range(0, count, 1024):
        found.append(expit(model.logits(np.asarray(images.images[at : at + 1024])).astype(np.float64)))
        tick(len(found[-1]))
    return audit_labels.label_errors(np.concatenate(found), images.labels, f"the model {model.name}", out_of_fold=False)


def _shortcuts(images: ImageSet, headers: list[Header] | None, task: Task) -> list[dict[str, Any]]:
    chosen = audit_shortcuts.sample_of(images.labels)
    labels = images.labels[chosen]
    fold = audit_shortcuts.folds_of(labels, images.groups[chosen])
    of_chosen = None if headers is None else [headers[at] for at in chosen]
    tried = list(audit_shortcuts.shortcuts_of(images.images[chosen], of_chosen))
    tick, found = task("trying shortcuts", len(tried)), []
    for shortcut in tried:
        found.append(audit_shortcuts.measure(shortcut, labels, fold))
        tick(1)
    return found


def _data(images: ImageSet) -> dict[str, Any]:
    parts: dict[str, dict[str, int]] = {}
    for part in ("train", "val", "test", ""):
        here = images.parts == part
        if here.any():
            counts = np.bincount(images.labels[here], minlength=2).tolist()
            parts[part or "all"] = dict(zip(CLASS_NAMES, counts, strict=True))
    return {
        "name": public_name(images.name),
        "digest": images.digest,
        "images": len(images),
        "image_size": int(images.images.shape[1]),
        "classes": images.classes,
        "parts": parts,
        "unreadable": [{"name": each.path, "reason": each.reason} for each in images.problems[:LISTED]],
        "unreadable_count": len(images.problems),
        "not_images": dict(images.skipped),
        "notes": [note.replace(images.name, public_name(images.name)) for note in images.notes],
    }
