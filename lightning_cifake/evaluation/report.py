"""All that an evaluation leaves in a run's folder: metrics.json, the paper's report and pictures, predictions.csv."""

import csv
import importlib.metadata
import io
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifake.classes import DISPLAY_NAMES, POSITIVE_NAME
from lightning_cifake.files import sealed_json, write_whole
from lightning_cifake.run_folder import CONFUSION, HISTORY_PICTURE, METRICS, PREDICTIONS, REPORT, ROC

# metrics and plots are imported where they are used: versions() is called where torch need not be

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

log = logging.getLogger(__name__)

REPORTED_PACKAGES = (
    "lightning_cifake",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
)


def write_evaluation(
    folder: Path,
    prob_real: "Tensor | ArrayLike",
    labels: "Tensor | ArrayLike",
    *,
    paths: Sequence[str] | None,
    facts: dict[str, Any],
    threshold: float = 0.5,
    history: list[dict[str, Any]] | None = None,
    best_epoch: int | None = None,
) -> dict[str, Any]:
    """Writes the figures, the report and the pictures of one evaluation, metrics.json last, when all else is there.

    Each file is whole or not there. What this evaluation cannot give (a ROC of one class, predictions without paths) is
    removed where an earlier one left it, so that a folder never mixes two; history.png is the training's and stays.

    Args:
        folder: made where missing.
        prob_real: (N,) P(REAL) in [0, 1].
        labels: (N,) FAKE = 0, REAL = 1.
        paths: N names of images for predictions.csv (path, label, prob_real), or None for no such file.
        threshold: an image is called REAL where its float32 probability is strictly above.
        facts: what else metrics.json says, after the figures and in this order; NaN and infinities become null.
        history, best_epoch: as :func:`plots.plot_history`; no picture without history.

    Returns:
        ``metrics``: what metrics.json holds: the figures of :func:`metrics.binary_metrics`, ``positive_class`` (which
        class its precision, recall, F1 and average precision are about), ``class_counts``, ``warnings``, the facts.
        ``report``: the text, and a paragraph where a figure is worse than no model at all. ``files``: their paths.

    Raises:
        ValueError: as :func:`metrics.binary_metrics`; paths of another number than images; a fact named as a figure is.
        UserError: a file cannot be written.
    """
    from lightning_cifake.evaluation.metrics import binary_metrics, classification_report_text

    figures = binary_metrics(prob_real, labels, threshold)
    figures = {
        **figures,
        "positive_class": POSITIVE_NAME,
        "class_counts": _class_counts(figures),
        "warnings": warnings_of(figures),
    }
    if taken := figures.keys() & facts.keys():
        raise ValueError(f"expected facts under names of their own, got {sorted(taken)}, which are figures")
    metrics = plain({**figures, **facts})
    report = classification_report_text(prob_real, labels, threshold)
    if figures["warnings"]:
        report = report.rstrip("\n") + "\n\n" + "\n".join(figures["warnings"]) + "\n"
    texts = {
        REPORT: report,
        PREDICTIONS: None if paths is None else _predictions(paths, labels, prob_real),
        METRICS: sealed_json(metrics),
    }
    files = _write_pictures(folder, figures, prob_real, labels, history, best_epoch)
    for name, text in texts.items():
        if text is None:
            (folder / name).unlink(missing_ok=True)
        else:
            files.append(folder / name)
            write_whole(files[-1], text)
    return {"metrics": metrics, "report": report, "files": files}


def _write_pictures(
    folder: Path,
    figures: dict[str, Any],
    prob_real: "Tensor | ArrayLike",
    labels: "Tensor | ArrayLike",
    history: list[dict[str, Any]] | None,
    best_epoch: int | None,
) -> list[Path]:
    """The confusion matrix, the ROC curve and the history, as far as there is one to draw; what was written."""
    from lightning_cifake.evaluation import plots

    images = f"{figures['images']:,} images"
    files = [folder / CONFUSION]
    plots.plot_confusion_matrix(
        figures["confusion_matrix"], files[0], f"Confusion matrix, {images}, accuracy {figures['accuracy']:.2%}"
    )
    if figures["auroc"] is None:
        log.warning("%s is left out: a ROC curve needs images of both classes, these %s are of one", ROC, images)
        (folder / ROC).unlink(missing_ok=True)
    else:
        files.append(folder / ROC)
        plots.plot_roc(prob_real, labels, files[-1], f"ROC curve of P({POSITIVE_NAME}), {images}")
    if history:
        files.append(folder / HISTORY_PICTURE)
        plots.plot_history(history, files[-1], best_epoch)
    return files


def _class_counts(figures: dict[str, Any]) -> dict[str, int]:
    """Images of each class."""
    return {name: int(sum(row)) for name, row in zip(DISPLAY_NAMES, figures["confusion_matrix"], strict=True)}


def warnings_of(figures: dict[str, Any]) -> list[str]:
    """A sentence for each figure that is worse than what no model at all would reach.

    Args:
        figures: of :func:`metrics.binary_metrics`.
    """
    sentences = []
    counts = _class_counts(figures)
    majority = max(counts, key=lambda name: counts[name])
    share = counts[majority] / figures["images"]
    if figures["accuracy"] < share:
        sentences.append(
            f"The accuracy, {figures['accuracy']:.2%}, is below the {share:.2%} that calling every image {majority} "
            "would reach."
        )
    if figures["auroc"] is not None and figures["auroc"] < 0.5:
        sentences.append(
            f"The AUROC, {figures['auroc']:.4f}, is below the 0.5 of guessing: generated images tend to get a higher "
            "P(REAL) than photographs."
        )
    return sentences


def versions(packages: Sequence[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Python, platform and the installed versions of what results depend on, read without importing it.

    What is not installed is left out.
    """
    found = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _predictions(paths: Sequence[str], labels: "Tensor | ArrayLike", prob_real: "Tensor | ArrayLike") -> str:
    from lightning_cifake.evaluation.metrics import checked

    prob, target = checked(prob_real, labels)
    if len(paths) != len(target):
        raise ValueError(f"expected a path for each of {len(target)} images, got {len(paths)}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "prob_real"])
    for path, label, real in zip(paths, target.tolist(), prob.tolist(), strict=True):
        writer.writerow([path, DISPLAY_NAMES[label], f"{real:.9g}"])  # nine digits give the float32 back exactly
    return text.getvalue()


def plain(value: Any) -> Any:
    """For JSON: numbers of numpy and torch as Python's, NaN and infinities (JSON has none) as None, paths as text.

    By hand: ``json.dumps`` never asks its ``default`` about a NaN.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # an array or a tensor, of any shape
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
