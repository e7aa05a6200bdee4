"""Models on labelled images -> the figures of all, on all images and on those that none was trained on; their files.

``python -m lightning_cifake evaluate MODEL... --data.root FOLDER`` is what users call. ``metrics.json`` holds all that
is known, ``predictions.csv`` each image's answers, ``report.html`` is a page of the first.
"""

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.assessment.chosen_on import with_chosen_on
from lightning_cifake.assessment.images import Asked, LabelledImages, Seen, open_images, seen_by
from lightning_cifake.assessment.models import BATCH, Model
from lightning_cifake.assessment.of_cifake import of_cifake
from lightning_cifake.assessment.originals import logits_under
from lightning_cifake.assessment.robustness import measure_robustness
from lightning_cifake.classes import DISPLAY_NAMES, REAL
from lightning_cifake.deploy.larger import Larger
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.compare import compare
from lightning_cifake.evaluation.examples import examples_of
from lightning_cifake.evaluation.figures import DRAWS, curves_of, drawn_figures, figures_of
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.evaluation.report import versions
from lightning_cifake.files import public_name, replacing_folder, sealed_json, write_whole
from lightning_cifake.machine import cores, processor
from lightning_cifake.run_folder import METRICS, PAGE, PREDICTIONS
from lightning_cifake.text import printable, reason_of

KIND = "evaluation"
FILES = (METRICS, PREDICTIONS, PAGE)
"""What an evaluation leaves; a folder that holds nothing else is replaced by the next one."""
PACKAGES = ("lightning_cifake", "torch", "onnxruntime", "torchmetrics", "scikit-learn", "scipy", "numpy", "pillow")
MEANS = ("accuracy", "balanced_accuracy", "recall_fake", "recall_real", "auroc", "average_precision", "eer")
"""Figures of which the mean over generators is given."""

Step = Callable[[int], None]
"""Told how many more are done."""
Report = Callable[[str, int], Step]
"""Told of a piece of work, in words, and how many steps it has."""


def silent(_: str, __: int) -> Step:
    """Reports nothing."""
    return lambda _: None


class Subject(NamedTuple):
    """A model, and what is done with pictures larger than it looks at."""

    model: Model
    larger: Larger = "resize"

    @property
    def name(self) -> str:
        return self.model.name if self.larger == "resize" else f"{self.model.name}, {self.larger}"


@dataclass(frozen=True)
class Answered:
    """One subject's answers, and what is known of its training on these images.

    Attributes:
        subject: who answered.
        images: what it was asked about, at its own size.
        predictions: its answers.
        seen: which of the images it was trained on.
        seconds: that answering took; decoding is in it where the policy is not ``resize``.
    """

    subject: Subject
    images: LabelledImages
    predictions: Predictions
    seen: Seen
    seconds: float


def ask(subject: Subject, images: LabelledImages, report: Report = silent) -> Answered:
    """One model's answers about all images, batch by batch.

    Raises:
        UserError: the model fails on them; a file cannot be read any more.
    """
    model, started = subject.model, time.perf_counter()
    if subject.larger == "resize":
        logits = np.empty(len(images), np.float32)
        step = report(f"asking {printable(subject.name)}", len(images))
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            logits[part] = model.logits(images.pixels(part))
            step(len(logits[part]))
    else:
        logits = logits_under(model, images, subject.larger)
    seconds = time.perf_counter() - started
    seen = with_chosen_on(seen_by(model.record, model.training, images), model.metadata, images)
    predictions = Predictions(
        subject.name, images.names, images.labels, logits, model.threshold, images.groups, seen.mask
    )
    return Answered(subject, images, predictions, seen, seconds)


def evaluate(
    subjects: Sequence[Subject],
    asked: Asked,
    *,
    draws: int = DRAWS,
    robustness: int | None = None,
    cache_dir: Path | None = None,
    report: Report = silent,
) -> tuple[dict[str, Any], list[Answered]]:
    """What metrics.json holds, but for the command; and the answers.

    Args:
        subjects: models, each once for every policy.
        asked: which images.
        draws: resamples of each interval; 0 for no intervals.
        robustness: images, spread over all, to ask about after each thing that happens to images; None for none.
        cache_dir: of decoded images.
        report: is told what is being done.

    Raises:
        UserError: the images cannot be had, a model fails on them.
    """
    at_size: dict[int, LabelledImages] = {}
    for subject in subjects:
        if (size := subject.model.image_size) not in at_size:
            at_size[size] = open_images(asked, size, cache_dir)
    first = next(iter(at_size.values()))
    if any(each.names != first.names for each in at_size.values()):
        raise UserError(f"{printable(asked.root)} has changed while it was read: run the same command again")
    answered = [ask(subject, at_size[subject.model.image_size], report) for subject in subjects]
    step = report("figures and their intervals", sum(map(_pieces, answered)) + len(answered) * (len(answered) - 1) // 2)
    models = [described(each, draws, step) for each in answered]
    for model, each in zip(models, answered, strict=True):
        if robustness is not None:
            larger = each.subject.larger
            model["robustness"] = measure_robustness(each.subject.model, each.images, sample=robustness, larger=larger)
    comparisons = []
    drawn = [drawn_figures(each.predictions, draws=draws if len(answered) > 1 else 0) for each in answered]
    for (a, drawn_a), (b, drawn_b) in combinations(zip(answered, drawn, strict=True), 2):
        comparisons.append(compare(a.predictions, b.predictions, drawn=(drawn_a, drawn_b)))
        step(1)
    content = {
        "kind": KIND,
        "data": _data(asked, first, answered),
        "models": models,
        "comparisons": comparisons,
        "draws": draws,
        "versions": versions(PACKAGES),
        "machine": f"{processor()}, {cores()} cores",
    }
    return content, answered


def _pieces(answered: Answered) -> int:
    """How many times figures are computed for one."""
    groups = sum(len(values_of(answered.predictions, by)) for by in answered.predictions.groups)
    return 1 + _has_unseen(answered) + groups


def _has_unseen(answered: Answered) -> bool:
    return answered.seen.mask is not None and bool(answered.seen.mask.any())


def described(answered: Answered, draws: int = DRAWS, step: Step = lambda _: None) -> dict[str, Any]:
    """One entry of ``models`` in metrics.json."""
    subject, predictions, seen = answered.subject, answered.predictions, answered.seen

    def figures(of: Predictions) -> dict[str, Any]:
        found = figures_of(of, draws=draws)
        step(1)
        return found

    everything = figures(predictions)
    unseen = None if seen.mask is None else everything
    if _has_unseen(answered):
        unseen = figures(predictions.take(~np.asarray(seen.mask)))
    groups = {
        by: {value: figures(of_group(predictions, by, value)) for value in values_of(predictions, by)}
        for by in predictions.groups
    }
    model = subject.model
    return {
        "name": subject.name,
        "file": public_name(model.file),
        "sha256": model.sha256,
        "threshold": model.threshold,
        "temperature": model.temperature,
        "image_size": model.image_size,
        "precision": model.precision,
        "larger": subject.larger,
        "seen": {"images": None if seen.mask is None else int(seen.mask.sum()), "how": seen.how},
        "all": everything,
        "unseen": unseen,
        "groups": groups,
        "means": {by: mean_of(groups[by]) for by in groups if by == "generator"},
        "curves": curves_of(predictions),
        "examples": examples_of(predictions),
        "robustness": None,
        "seconds": answered.seconds,
        "images_per_second": len(predictions) / answered.seconds if answered.seconds else None,
    }


def values_of(predictions: Predictions, by: str) -> list[str]:
    """The values of a group, in order, without ""."""
    return sorted(set(predictions.groups[by].tolist()) - {""})


def of_group(predictions: Predictions, by: str, value: str) -> Predictions:
    """The images of a group. Those of a generator without photographs of its own stand beside all photographs."""
    of_it = predictions.groups[by] == value
    if by == "generator" and not (predictions.labels[of_it] == REAL).any():
        of_it = of_it | (predictions.labels == REAL)
    return predictions.take(of_it)


def mean_of(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each of MEANS the ``value``, the mean over those ``of`` the groups for which it is defined, and the ``worst``.

    It has no interval: another choice of generators would change it more than another choice of images.
    """
    found = {}
    for name in MEANS:
        values = {value: group["figures"][name]["value"] for value, group in groups.items()}
        known = {value: figure for value, figure in values.items() if figure is not None}
        if known:
            worst = (max if name == "eer" else min)(known, key=lambda value: known[value])
            found[name] = {"value": float(np.mean(list(known.values()))), "of": len(known), "worst": worst}
    return found


def _data(asked: Asked, images: LabelledImages, answered: Sequence[Answered]) -> dict[str, Any]:
    known = [each.seen.mask for each in answered if each.seen.mask is not None]
    return {
        "root": public_name(asked.root),
        "name": public_name(asked.root),
        "digest": images.source.digest,
        "part": images.about,
        "protocol": asked.protocol,
        "images": len(images),
        "unreadable": [{"name": each.path, "reason": each.reason} for each in images.unreadable],
        "duplicates": images.copies,
        "of_cifake": {part: int(mask.sum()) for part, mask in of_cifake(images)._asdict().items()},
        "duplicates_of_training": int(np.logical_or.reduce(known).sum()) if known else None,
        "left_out": dict(images.source.skipped),
        "notes": list(images.source.notes),
    }


def predictions_csv(answered: Sequence[Answered]) -> str:
    """A row an image: path, label, P(REAL) of each model, and what groups it is in."""
    first = answered[0].predictions
    names = ["prob_real"] if len(answered) == 1 else [f"prob_real {each.subject.name}" for each in answered]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", *names, *first.groups])
    probabilities = [each.predictions.prob_real.tolist() for each in answered]
    groups = [values.tolist() for values in first.groups.values()]
    for path, label, *rest in zip(first.names, first.labels.tolist(), *probabilities, *groups, strict=True):
        shown = [f"{each:.9g}" for each in rest[: len(answered)]]  # nine digits give the float32 back exactly
        writer.writerow([path, DISPLAY_NAMES[label], *shown, *rest[len(answered) :]])
    return text.getvalue()


def check_output(folder: Path) -> None:
    """Refuses a folder that an evaluation cannot be written to without a loss, before any work is done.

    Raises:
        UserError: it holds something that is not an evaluation's, or is no folder, or is the current one.
    """
    shown = printable(folder)
    try:
        if not folder.exists():
            above = next(each for each in folder.absolute().parents if each.exists())
            if not above.is_dir() or not os.access(above, os.W_OK):
                raise UserError(f"--output: cannot make {shown}: nothing can be written to {printable(above)}")
            return
        if not folder.is_dir():
            raise UserError(f"--output: expected a folder, got the file {shown}")
        if folder.resolve() == Path.cwd():
            raise UserError("--output: expected a folder of its own, got the current one")
        others = sorted(each.name for each in folder.iterdir() if each.name not in FILES)
        if not others and (folder / METRICS).is_file() and not is_evaluation(folder / METRICS):
            others = [METRICS]
    except OSError as error:
        raise UserError(f"--output: cannot look into {shown}: {reason_of(error)}") from error
    if others:
        raise UserError(
            f"--output: expected a new folder, or one of an earlier evaluation, which it replaces; got {shown}, which "
            f"holds {printable(others[0])}" + (" of a run" if others == [METRICS] else "")
        )


def is_evaluation(path: Path) -> bool:
    """Whether a metrics.json is an evaluation's, damaged or not; those of runs are not."""
    with path.open("rb") as file:
        return f'"kind": "{KIND}"'.encode() in file.read(200)


@contextmanager
def writing(folder: Path, content: Mapping[str, Any], answered: Sequence[Answered]) -> Iterator[Path]:
    """Writes the files; the folder, whole, is there when the block ends well, which may add to it.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    made = folder
    try:
        with replacing_folder(folder) as made:
            write_whole(made / METRICS, sealed_json(dict(content)))
            write_whole(made / PREDICTIONS, predictions_csv(answered))
            yield made
    except UserError as error:  # its user knows the folder by its own name
        raise UserError(str(error).replace(printable(made), printable(folder))) from error
    except OSError as error:
        raise UserError(f"cannot write {printable(folder)}: {reason_of(error)}") from error
