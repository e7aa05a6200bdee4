"""Every figure of thousands of resampled test sets at once: what the intervals are made of.

The libraries compute a figure of one sample; 2,000 resamples of 20,000 images would take them an hour. Here a resample
is how often each image was drawn, the images of a class are sorted once by their probability, and a figure is a sum
over running totals. ``tests/evaluation/test_bootstrap.py`` holds each figure of each resample against the library's.

Source of the resampling: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13: images are
drawn with replacement within each class, so that a resample holds as many of each class as the test set.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from lightning_cifake.classes import FAKE, REAL
from lightning_cifake.evaluation.predictions import Predictions

FALSE_ALARMS = {"recall_fake_at_1": 0.01, "recall_fake_at_01": 0.001}
"""The share of REAL that may be called FAKE, by the figure that is then the share of FAKE found."""

ECE_BINS = 15
NAMES = (
    "accuracy",
    "balanced_accuracy",
    "precision_real",
    "recall_real",
    "f1_real",
    "precision_fake",
    "recall_fake",
    "f1_fake",
    "auroc",
    "average_precision",
    "eer",
    *FALSE_ALARMS,
    "brier",
    "ece",
    "log_loss",
)

_CHUNK = 1 << 17  # images drawn at once: its arrays stay within a processor's second cache
_EDGES = np.append(np.linspace(0, 1, ECE_BINS + 1), np.inf)  # as torchmetrics: exactly 1.0 is a bin of its own

Places = tuple[np.ndarray, np.ndarray]
"""(D, n) integers of FAKE, and (D, m) of REAL: which images of its class each of D resamples holds."""


def resamples(fake: int, real: int, draws: int, seed: int) -> Iterator[Places]:
    """``draws`` resamples, in chunks; the same for the same numbers and seed, whichever model is asked.

    Args:
        fake, real: images of each class, 0 or more.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, fake + real))
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        yield tuple(  # type: ignore[misc]  # of two
            generator.integers(max(1, images), size=(count, images), dtype=np.int32) for images in (fake, real)
        )


class SortedAnswers:
    """One model's answers, sorted within each class, ready for any resample of them.

    Args:
        predictions: at least one image.
    """

    def __init__(self, predictions: Predictions) -> None:
        prob = np.asarray(predictions.prob_real, np.float64)  # of float32, so that ties stay ties
        logits = np.asarray(predictions.logits, np.float64)
        self.prob: list[np.ndarray] = []
        self._rank: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []
        self._called_fake: list[int] = []
        for label in (FAKE, REAL):
            at = np.flatnonzero(predictions.labels == label)
            order = np.argsort(prob[at], kind="stable")
            rank = np.empty(len(at), np.int64)
            rank[order] = np.arange(len(at))
            sorted_prob = prob[at][order]
            self._rank.append(rank)
            self.prob.append(sorted_prob)
            self._sums.append(_summed(sorted_prob, logits[at][order], label))
            threshold = np.float64(np.float32(predictions.threshold))
            self._called_fake.append(int(np.searchsorted(sorted_prob, threshold, side="right")))
        fake, real = self.prob
        # cut k: the k lowest distinct probabilities are called FAKE
        self._cuts = [
            np.append(0, np.searchsorted(of_class, np.unique(prob), side="right")) for of_class in (fake, real)
        ]
        self._below = np.searchsorted(fake, real, side="left")
        self._up_to = np.searchsorted(fake, real, side="right")
        self._first = np.searchsorted(real, real, side="left")
        self._edges = [np.searchsorted(of_class, _EDGES, side="left") for of_class in (fake, real)]

    def figures(self, places: Places) -> dict[str, np.ndarray]:
        """Every figure of each resample, (D,) float64; NaN where it is undefined (see :mod:`figures`)."""
        return self.figures_of_counts(
            *(_counts(of_class, rank) for of_class, rank in zip(places, self._rank, strict=True))
        )

    def figures_of_counts(self, fake: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        """As :meth:`figures`, of how often each image was drawn.

        Args:
            fake, real: (D, n) and (D, m) float64, in the order of :attr:`prob`; each row sums to n and m.
        """
        draws, fakes = fake.shape
        reals = real.shape[1]
        running = _running(fake), _running(real)
        found = {name: np.full(draws, np.nan) for name in NAMES}
        found |= self._means(fake, real, running)
        true_fake, false_fake = (total[:, at] for total, at in zip(running, self._called_fake, strict=True))
        found["accuracy"] = (true_fake + reals - false_fake) / (fakes + reals)
        if fakes:
            found["recall_fake"] = true_fake / fakes
        if reals:
            found["recall_real"] = (reals - false_fake) / reals
        if fakes and reals:
            true_real, false_real = reals - false_fake, fakes - true_fake
            with np.errstate(invalid="ignore"):  # nothing is called so: 0 / 0 is the NaN that is wanted
                found["precision_real"] = true_real / (true_real + false_real)
                found["precision_fake"] = true_fake / (true_fake + false_fake)
            found["f1_real"] = 2 * true_real / (2 * true_real + false_real + false_fake)
            found["f1_fake"] = 2 * true_fake / (2 * true_fake + false_fake + false_real)
            found["balanced_accuracy"] = (found["recall_fake"] + found["recall_real"]) / 2
            found |= self._areas(real, running)
            found |= self._points(running)
        return found

    def _means(self, fake: np.ndarray, real: np.ndarray, running: Places) -> dict[str, np.ndarray]:
        """Brier score, log loss and ECE: means over images, by one product of matrices a class."""
        images = fake.shape[1] + real.shape[1]
        sums = fake @ self._sums[FAKE] + real @ self._sums[REAL]
        reals = np.diff(running[REAL][:, self._edges[REAL]], axis=1)  # in each bin
        return {
            "brier": sums[:, 0] / images,
            "log_loss": sums[:, 1] / images,
            "ece": np.abs(sums[:, 2:] - reals).sum(axis=1) / images,
        }

    def _areas(self, real: np.ndarray, running: Places) -> dict[str, np.ndarray]:
        fakes, reals = running[FAKE][:, -1:], running[REAL][:, -1:]
        below, up_to = running[FAKE][:, self._below], running[FAKE][:, self._up_to]
        auroc = np.einsum("dn,dn->d", real, below + up_to) / (2 * fakes * reals)[:, 0]
        # at the threshold of each image of REAL: what is at or above it
        true_real, false_real = reals - running[REAL][:, self._first], fakes - below
        precision = true_real / np.maximum(true_real + false_real, 1)  # 0 / 1 where nothing was drawn from here on
        return {"auroc": auroc, "average_precision": np.einsum("dn,dn->d", real, precision) / reals[:, 0]}

    def _points(self, running: Places) -> dict[str, np.ndarray]:
        """EER and the recalls at a share of false alarms: points on the curve, found by halving."""
        fakes, reals = (total.shape[1] - 1 for total in running)
        rows = np.arange(len(running[FAKE]))

        def found(cut: np.ndarray) -> np.ndarray:
            return running[FAKE][rows, self._cuts[FAKE][cut]] / fakes

        def false_alarms(cut: np.ndarray) -> np.ndarray:
            return running[REAL][rows, self._cuts[REAL][cut]] / reals

        def within(allowed: float, cut: np.ndarray) -> np.ndarray:
            return false_alarms(cut) <= allowed

        last = len(self._cuts[FAKE]) - 1
        before = _last_cut(lambda cut: false_alarms(cut) < 1 - found(cut), last, len(rows))
        gap = [1 - found(cut) - false_alarms(cut) for cut in (before, before + 1)]  # from above 0 to 0 or below
        share = gap[0] / (gap[0] - gap[1])
        points = {"eer": (1 - share) * false_alarms(before) + share * false_alarms(before + 1)}
        for name, allowed in FALSE_ALARMS.items():
            if reals >= least_real(allowed):
                points[name] = found(_last_cut(partial(within, allowed), last, len(rows)))
        return points


def least_real(false_alarms: float) -> int:
    """How many images of REAL a share of false alarms needs: with fewer, not one of them may be called FAKE."""
    return round(1 / false_alarms)


def _last_cut(holds: Callable[[np.ndarray], np.ndarray], last: int, draws: int) -> np.ndarray:
    """(draws,) the last cut of 0 to ``last`` where a condition holds; it holds at 0, and never again once it fails."""
    low, high = np.zeros(draws, np.int64), np.full(draws, last)
    while (low < high).any():
        middle = (low + high + 1) // 2
        held = holds(middle)
        low, high = np.where(held, middle, low), np.where(held, high, middle - 1)
    return low


def _summed(prob: np.ndarray, logits: np.ndarray, label: int) -> np.ndarray:
    """(n, 2 + bins) float64: each image's squared error, its log loss, its probability in the column of its bin."""
    table = np.zeros((len(prob), 2 + ECE_BINS + 1))
    table[:, 0] = (prob - label) ** 2
    table[:, 1] = np.logaddexp(0, -logits if label == REAL else logits)
    table[np.arange(len(prob)), 2 + np.searchsorted(_EDGES, prob, side="right") - 1] = prob
    return table


def _counts(places: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(D, n) float64: how often each image was drawn, in sorted order."""
    draws, images = places.shape
    at = rank[places] + images * np.arange(draws)[:, None]
    return np.bincount(at.ravel(), minlength=draws * images).reshape(draws, images).astype(np.float64)


def _running(counts: np.ndarray) -> np.ndarray:
    """(D, n + 1) float64: how many of the first 0, 1, ... n images."""
    total = np.zeros((counts.shape[0], counts.shape[1] + 1))
    np.cumsum(counts, axis=1, out=total[:, 1:])
    return total
