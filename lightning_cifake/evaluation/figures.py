"""Predictions -> every figure of an evaluation with its interval, and the curves to draw.

``docs/figures-of-evaluation.md`` defines them. The values are the libraries'; the resamples behind the intervals are
:mod:`bootstrap`'s.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.evaluation.bootstrap import (
    ECE_BINS,
    FALSE_ALARMS,
    NAMES,
    SortedAnswers,
    least_real,
    resamples,
)
from lightning_cifake.evaluation.intervals import CONFIDENCE, auroc_interval, wilson_interval
from lightning_cifake.evaluation.predictions import Predictions

DRAWS = 2000
LEAST_FALSE_ALARMS = 10  # with a threshold that hangs on fewer, the interval is too narrow: seen in simulation
FEW = 100  # images: of fewer the bootstrap's interval of a share is too narrow, by the same simulation
FEW_OF_A_CLASS = 1_000  # images: of fewer resamples are corrected; of more that changes nothing
LEAST_FOR_ECE = 2_000  # images; with fewer chance adds more to it than can be taken off its interval: likewise
MOST_POINTS = 400  # of a curve: finer than a page shows
TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision_real": "Precision of REAL",
    "recall_real": "Recall of REAL",
    "f1_real": "F1 of REAL",
    "precision_fake": "Precision of AI",
    "recall_fake": "Recall of AI",
    "f1_fake": "F1 of AI",
    "auroc": "AUROC",
    "average_precision": "Average precision of REAL",
    "eer": "Equal error rate",
    "recall_fake_at_1": "Recall of AI at 1 % false alarms",
    "recall_fake_at_01": "Recall of AI at 0.1 % false alarms",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "log_loss": "Log loss",
}
"""By figure: what it is called to people."""

LOWER_IS_BETTER = frozenset({"eer", "brier", "ece", "log_loss"})


def figures_of(predictions: Predictions, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Every figure of one model on one set of images.

    Args:
        predictions: any number of images, of both classes or of one.
        draws: resamples for the intervals; 0 for none.
        seed: of the resamples.

    Returns:
        Plain values: ``images``, ``class_counts`` (FAKE, REAL), ``threshold``, ``confusion_matrix``
        [[FAKE->FAKE, FAKE->REAL], [REAL->FAKE, REAL->REAL]], ``confidence``, and ``figures``: for each of
        :data:`bootstrap.NAMES` its ``value``, its ``interval`` [low, high], and a ``note`` where one of them is None or
        the interval is not the bootstrap's: why.

    Raises:
        ValueError: a logit that is no number, a label other than 0 and 1.
    """
    _check(predictions)
    labels, called = predictions.labels, predictions.called_real
    counts = [int((labels == label).sum()) for label in (FAKE, REAL)]
    matrix = [[int((called[labels == label] == told).sum()) for told in (False, True)] for label in (FAKE, REAL)]
    notes = _undefined(counts, matrix)
    values = _values(predictions, matrix, notes)
    drawn = drawn_figures(predictions, draws=draws, seed=seed)
    figures = {}
    for name in NAMES:
        figure: dict[str, Any] = {"value": values[name], "interval": None}
        if name in notes:
            figure["note"] = notes[name]
        elif drawn and name == "auroc":
            figure["interval"] = list(auroc_interval(predictions.prob_real, labels)[1])
        elif drawn:
            figure |= _interval(name, values[name], drawn[name], matrix)  # type: ignore[arg-type]  # it has a value
        figures[name] = figure
    return {
        "images": len(labels),
        "class_counts": dict(zip(CLASS_NAMES, counts, strict=True)),
        "threshold": float(predictions.threshold),
        "confusion_matrix": matrix,
        "confidence": CONFIDENCE,
        "figures": figures,
    }


def drawn_figures(predictions: Predictions, *, draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Each figure of each resample, (draws,) float64; NaN where undefined. No figure of no draws, or of no images."""
    if not draws or not len(predictions):
        return {}
    answers = SortedAnswers(predictions)
    fake, real = map(len, answers.prob)
    chunks = [answers.figures(places) for places in resamples(fake, real, draws, seed)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in NAMES}


def percentile_interval(drawn: np.ndarray) -> list[float]:
    """The middle 95 % of what was drawn, where it is defined."""
    tail = (1 - CONFIDENCE) / 2
    return [float(bound) for bound in np.nanquantile(drawn, [tail, 1 - tail])]


def bootstrap_interval(drawn: np.ndarray, value: float, fewest: int) -> list[float]:
    """What was drawn, between the levels that hold the true value 95 times of 100.

    With few images resamples differ too little from each other, and more of them lie on one side of the value than on
    the other. Both are corrected: the levels are those of Student's t (Hesterberg, What Teachers Should Know About the
    Bootstrap, The American Statistician 69, 2015, section 5.3), moved by the bias (Efron, Better Bootstrap Confidence
    Intervals, JASA 82, 1987). From :data:`FEW_OF_A_CLASS` images on it is the middle 95 %.

    Args:
        drawn: (D,) the figure of each resample, NaN where undefined.
        value: the figure itself.
        fewest: images of the smaller class.
    """
    if fewest >= FEW_OF_A_CLASS:
        return percentile_interval(drawn)
    from scipy.stats import norm, t

    known, images = drawn[~np.isnan(drawn)], max(fewest, 2)
    wide = t.ppf((1 + CONFIDENCE) / 2, images - 1) * (images / (images - 1)) ** 0.5
    below = float((known < value).mean() + (known == value).mean() / 2)
    bias = float(norm.ppf(np.clip(below, 1 / len(known), 1 - 1 / len(known))))
    return [float(bound) for bound in np.quantile(known, norm.cdf([2 * bias - wide, 2 * bias + wide]))]


def too_few(name: str, real: int, images: int) -> str | None:
    """Why a figure has no interval with so many images of REAL, and in all; None where it has one."""
    if name == "ece" and images < LEAST_FOR_ECE:
        return f"no interval: needs {LEAST_FOR_ECE:,} images, got {images:,}"
    needed = LEAST_FALSE_ALARMS * least_real(FALSE_ALARMS[name]) if name in FALSE_ALARMS else 0
    return f"no interval: needs {needed:,} images of REAL, got {real:,}" if real < needed else None


def curves_of(predictions: Predictions) -> dict[str, Any]:
    """What is drawn: ROC, precision against recall, and the reliability diagram; all of P(REAL).

    Returns:
        ``roc``: ``false_positive_rate``, ``true_positive_rate``, ``threshold`` (at or above it is called REAL; None at
        the first point, which calls nothing REAL). ``precision_recall``: ``precision``, ``recall``, ``threshold``. Both
        have at most :data:`MOST_POINTS` points, and are None where there are images of one class only.
        ``reliability``: ``bins``, those that hold images: ``low``, ``high``, ``images``, ``mean_prob_real``,
        ``share_real`` with its ``interval`` (Wilson's). Exactly 1.0 is in the last bin.

    Raises:
        ValueError: as :func:`figures_of`.
    """
    _check(predictions)
    from sklearn.metrics import precision_recall_curve, roc_curve  # a second to import

    prob, labels = predictions.prob_real.astype(np.float64), predictions.labels
    curves: dict[str, Any] = {"roc": None, "precision_recall": None, "reliability": {"bins": _bins(prob, labels)}}
    if 0 < labels.sum() < len(labels):
        false_rate, true_rate, threshold = roc_curve(labels, prob)
        roc = {"false_positive_rate": false_rate, "true_positive_rate": true_rate, "threshold": threshold}
        curves["roc"] = _thinned(roc)
        precision, recall, threshold = precision_recall_curve(labels, prob, drop_intermediate=True)
        pairs = {"precision": precision, "recall": recall, "threshold": np.append(threshold, np.inf)}
        curves["precision_recall"] = _thinned(pairs)
    return curves


def _check(predictions: Predictions) -> None:
    if not np.isfinite(predictions.logits).all():
        count = int((~np.isfinite(predictions.logits)).sum())
        raise ValueError(f"{predictions.model}: expected finite logits, got {count} of {len(predictions)} that are not")
    if other := set(np.unique(predictions.labels).tolist()) - {FAKE, REAL}:
        raise ValueError(f"expected labels 0 (FAKE) and 1 (REAL), got {sorted(other)[0]}")


def _undefined(counts: list[int], matrix: list[list[int]]) -> dict[str, str]:
    """Why a figure is undefined, by its name."""
    if not sum(counts):
        return dict.fromkeys(NAMES, "undefined: there are no images")
    notes: dict[str, str] = {}
    for label, count in enumerate(counts):
        name = CLASS_NAMES[label]
        if not count:
            both = set(NAMES) - {"accuracy", "brier", "ece", "log_loss", f"recall_{CLASS_NAMES[1 - label].lower()}"}
            notes |= dict.fromkeys(both, f"undefined: there are no images of {name}")
        elif not matrix[FAKE][label] + matrix[REAL][label] and min(counts):
            notes[f"precision_{name.lower()}"] = f"undefined: no image is called {name}"
    for name, allowed in FALSE_ALARMS.items():
        if 0 < counts[REAL] < least_real(allowed):
            notes[name] = f"undefined: needs {least_real(allowed):,} images of REAL, got {counts[REAL]:,}"
    return notes


def _values(predictions: Predictions, matrix: list[list[int]], notes: Mapping[str, str]) -> dict[str, float | None]:
    """Each figure; None where there is a note why it is undefined."""
    if len(notes) == len(NAMES):
        return dict.fromkeys(NAMES)
    import torch
    from sklearn import metrics
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torchmetrics.functional.classification import binary_calibration_error

    labels, called = predictions.labels, predictions.called_real.astype(int)
    prob = predictions.prob_real.astype(np.float64)
    target = torch.from_numpy(np.array(labels))
    logits = torch.from_numpy(np.array(predictions.logits, np.float64))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, called, labels=[FAKE, REAL], zero_division=0
    )
    values: dict[str, float | None] = {
        "accuracy": metrics.accuracy_score(labels, called),
        # from the logits: a probability of exactly 0 or 1 has lost how far off it was
        "log_loss": binary_cross_entropy_with_logits(logits, target.double()).item(),
        "brier": metrics.brier_score_loss(labels, prob, pos_label=REAL),
        "ece": binary_calibration_error(torch.from_numpy(prob), target, n_bins=ECE_BINS).item(),
    }
    for label, name in enumerate(CLASS_NAMES):
        of_class = {"precision": precision, "recall": recall, "f1": f1}
        values |= {f"{figure}_{name.lower()}": float(both[label]) for figure, both in of_class.items()}
    if "auroc" not in notes:
        values["balanced_accuracy"] = metrics.balanced_accuracy_score(labels, called)
        values["auroc"] = metrics.roc_auc_score(labels, prob)
        values["average_precision"] = metrics.average_precision_score(labels, prob)
        values |= _points_of_curve(predictions)
    return {name: None if name in notes else float(values[name]) for name in NAMES}  # type: ignore[arg-type]


def _points_of_curve(predictions: Predictions) -> dict[str, float]:
    """EER and the recalls at a share of false alarms, which no library gives exactly: of each image once."""
    answers = SortedAnswers(predictions)
    once = answers.figures_of_counts(*(np.ones((1, len(prob))) for prob in answers.prob))
    return {name: float(once[name][0]) for name in ("eer", *FALSE_ALARMS)}


def _interval(name: str, value: float, drawn: np.ndarray, matrix: list[list[int]]) -> dict[str, Any]:
    """The bootstrap's. Of few images, or where resampling shows no spread: Wilson's of a share."""
    (fake, false_real), (false_fake, real) = matrix
    of_class = [count for count in (fake + false_real, false_fake + real) if count]
    if note := too_few(name, false_fake + real, sum(of_class)):
        return {"note": note}
    low, high = bootstrap_interval(drawn, value, min(of_class))
    if name == "ece":  # chance makes gaps in every bin, and resampling makes more: as much as it adds is taken off
        added = float(drawn.mean()) - value
        low, high = max(0.0, low - added), high - added
    right, images = {
        "accuracy": (fake + real, fake + false_real + false_fake + real),
        "recall_fake": (fake, fake + false_real),
        "recall_real": (real, false_fake + real),
        "precision_fake": (fake, fake + false_fake),
        "precision_real": (real, real + false_real),
    }.get(name, (0, 0))
    why = "every resample gives the same value" if low == high else f"of {images} images" if images < FEW else None
    if images and why:
        return {"interval": list(wilson_interval(right, images)), "note": f"Wilson's interval: {why}"}
    return {"interval": [low, high]} if low < high else {"note": f"no interval: {why}"}


def _bins(prob: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.minimum(np.searchsorted(edges, prob, side="right") - 1, ECE_BINS - 1)
    found = []
    for at in np.unique(bins):
        held = bins == at
        real, images = int(labels[held].sum()), int(held.sum())
        found.append(
            {
                "low": float(edges[at]),
                "high": float(edges[at + 1]),
                "images": images,
                "mean_prob_real": float(prob[held].mean()),
                "share_real": real / images,
                "interval": list(wilson_interval(real, images)),
            }
        )
    return found


def _thinned(curve: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Points evenly by their number, which lie densest where the curve bends; the first and the last stay."""
    points = len(next(iter(curve.values())))
    kept = np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int))
    return {
        name: [value if np.isfinite(value) else None for value in values[kept].tolist()]
        for name, values in curve.items()
    }
