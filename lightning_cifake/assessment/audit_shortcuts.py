"""Whether something trivial tells the classes apart: the form of the files, the mean colour, a linear model on pixels.

Each is measured out of fold: a file is called by what was fitted on others, and the same pixels are on one side. Where
one of these is far above chance, a detector may learn it in place of what makes an image real.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.assessment.audit_files import Header
from lightning_cifake.evaluation.intervals import auroc_interval, wilson_interval

log = logging.getLogger(__name__)

FOLDS = 5
MOST_IMAGES = 20_000  # that are looked at, half of each class: their intervals are a point wide
GIVEN_AWAY = 0.75  # the lower end of AUROC's interval from which a shortcut is called one
TOLD = 0.55  # and from which it is said to tell something
FEWEST = 10  # images of a class, below which nothing is measured
GIVES_AWAY, TELLS, CHANCE, UNKNOWN = "gives the classes away", "tells something", "chance", "too few images"
_COMPONENTS = 128

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(n, D) to learn from, (n,) labels, (m, D) to answer about -> (m,) probabilities of REAL."""


class Shortcut(NamedTuple):
    """Something about each of N images, in (N, D) numbers, and what learns from it."""

    name: str
    of: str  # "the files" or "the pixels"
    values: np.ndarray
    fit: Fit
    classifier: str


def shortcuts_of(images: np.ndarray, headers: Sequence[Header] | None) -> Iterator[Shortcut]:
    """Those that are looked at.

    Args:
        images: (N, S, S, 3) uint8.
        headers: N, or None where there are no files.
    """
    trees, table = "gradient-boosted trees", "the share of REAL at each value"
    if headers is not None:
        bytes_of = np.array([[header.bytes] for header in headers], float)
        sizes = np.array([[header.width, header.height] for header in headers], float)
        yield Shortcut("size of the file in bytes", "the files", bytes_of, _trees, trees)
        yield Shortcut("width and height", "the files", sizes, _trees, trees)
        for name, values in (
            ("format", [header.format for header in headers]),
            ("mode", [header.mode for header in headers]),
            ("JPEG tables and chroma", [f"{header.tables} {header.sampling}" for header in headers]),
            ("what is written beside", [header.beside for header in headers]),
        ):
            _, codes = np.unique(values, return_inverse=True)
            yield Shortcut(name, "the files", codes.reshape(-1, 1), _table, table)
    yield Shortcut("mean colour", "the pixels", images.mean((1, 2)), _trees, trees)
    yield Shortcut("sharpness", "the pixels", _sharpness(images), _trees, trees)
    flat = images.reshape(len(images), -1)
    yield Shortcut(
        "all pixels, linearly", "the pixels", flat, _linear, f"{_COMPONENTS} components, logistic regression"
    )


def _sharpness(images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, 2): how far neighbours are apart, in the mean and at most, in levels of grey."""
    grey = images.mean(3, dtype=np.float32)
    across, down = abs(np.diff(grey, axis=2)), abs(np.diff(grey, axis=1))
    steps = np.concatenate([across.reshape(len(grey), -1), down.reshape(len(grey), -1)], 1)
    return np.stack([steps.mean(1), steps.max(1)], 1) if steps.shape[1] else np.zeros((len(grey), 2))


def _trees(values: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    if (values == values[0]).all():  # nothing to learn, and trees that say so with a warning
        return np.full(len(asked), labels.mean())
    from sklearn.ensemble import HistGradientBoostingClassifier

    least = max(2, min(20, len(values) // 10))
    trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, min_samples_leaf=least, random_state=0)
    return trees.fit(values, labels).predict_proba(asked)[:, 1]


def _table(codes: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """A value's share of REAL, drawn to a half where few images have it."""
    values = int(max(codes.max(), asked.max())) + 1
    of_all, of_real = (np.bincount(each[:, 0], minlength=values) for each in (codes, codes[labels == 1]))
    return ((of_real + 1) / (of_all + 2))[asked[:, 0]]


def _linear(pixels: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    pixels, asked = (np.asarray(each, np.float32) / 255 for each in (pixels, asked))
    count = min(_COMPONENTS, len(pixels) // 4, pixels.shape[1])
    components = PCA(count, whiten=True, svd_solver="randomized", random_state=0).fit(pixels)
    regression = LogisticRegression(C=1e-2, max_iter=500).fit(components.transform(pixels), labels)
    return regression.predict_proba(components.transform(asked))[:, 1]


def sample_of(labels: np.ndarray, most: int = MOST_IMAGES, seed: int = 0) -> np.ndarray:
    """Places of as many images of each class, sorted: accuracy on them is .5 by chance."""
    rng = np.random.RandomState(seed)  # its stream is frozen
    of_class = [np.flatnonzero(labels == label) for label in (0, 1)]
    each = min(most // 2, *map(len, of_class))
    return np.sort(np.concatenate([rng.permutation(places)[:each] for places in of_class]))


def folds_of(labels: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """(N,) int64: the fold of each image, whole groups in one, each class even over them."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    rng = np.random.RandomState(seed)
    for label in (0, 1):
        places = rng.permutation(np.flatnonzero(labels[first] == label))
        fold[places] = np.arange(len(places)) % folds
    return fold[group.reshape(-1)]


def out_of_fold(fit: Fit, values: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N,) float64 probabilities, each of a model that has not seen the image nor any of its group."""
    scores = np.empty(len(labels))
    for number in np.unique(fold):
        held = fold == number
        scores[held] = fit(values[~held], labels[~held], values[held])
    return scores


def measure(shortcut: Shortcut, labels: np.ndarray, fold: np.ndarray) -> dict[str, Any]:
    """AUROC and accuracy with 95 % intervals, and what they mean, for audit.json.

    Args:
        shortcut: of N images, as many of each class.
        labels: (N,) FAKE = 0, REAL = 1.
        fold: (N,) as :func:`folds_of` gives them.
    """
    found: dict[str, Any] = {
        "name": shortcut.name,
        "of": shortcut.of,
        "classifier": shortcut.classifier,
        "images": len(labels),
        "auroc": {"value": None, "interval": None},
        "accuracy": {"value": None, "interval": None},
        "verdict": UNKNOWN,
    }
    if min((labels == 0).sum(), (labels == 1).sum()) < FEWEST:
        return found
    scores = out_of_fold(shortcut.fit, shortcut.values, labels, fold)
    auroc, interval = auroc_interval(scores, labels)
    right = int(((scores > 0.5) == labels).sum())
    found["auroc"] = {"value": round(auroc, 4), "interval": [round(each, 4) for each in interval]}
    found["accuracy"] = {
        "value": round(right / len(labels), 4),
        "interval": [round(each, 4) for each in wilson_interval(right, len(labels))],
    }
    found["verdict"] = GIVES_AWAY if interval[0] >= GIVEN_AWAY else TELLS if interval[0] >= TOLD else CHANCE
    return found
