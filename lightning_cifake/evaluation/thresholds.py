"""A threshold for P(REAL), chosen on labelled images by a rule, and what it costs there, with exact intervals.

Two kinds of mistakes: a false alarm is a REAL image that is called AI, a miss is a FAKE one that is called REAL. An
image is called REAL where its float32 probability is strictly above the threshold.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.evaluation.intervals import CONFIDENCE

RULES = "accuracy, youden, false_alarms=RATE, recall=RATE, or a number"


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    ``accuracy``: most images right. ``youden``: the largest mean of both classes' recalls, which does not depend on how
    many images of each there are. ``false_alarms``: at most the rate of REAL images called AI, and as many FAKE ones
    found as that allows. ``recall``: at least the rate of FAKE images found, and as few false alarms as that allows.
    ``fixed``: the rate is the threshold.

    Attributes:
        rate: in (0, 1) for ``false_alarms`` and ``recall``, in [0, 1] for ``fixed``; NaN else.
    """

    kind: Literal["accuracy", "youden", "false_alarms", "recall", "fixed"]
    rate: float = float("nan")

    def __str__(self) -> str:
        if self.kind in ("accuracy", "youden"):
            return self.kind
        return f"{self.rate:g}" if self.kind == "fixed" else f"{self.kind}={self.rate:g}"


def parse_rule(text: str) -> Rule:
    """``accuracy``, ``youden``, ``false_alarms=0.01``, ``recall=0.95`` or ``0.5``.

    Raises:
        ValueError: none of these.
    """
    if text in ("accuracy", "youden"):
        return Rule(text)  # type: ignore[arg-type]
    kind, equals, number = text.partition("=")
    rate = _number(number if equals else text)
    if not equals and 0 <= rate <= 1:
        return Rule("fixed", rate)
    if kind in ("false_alarms", "recall") and 0 < rate < 1:
        return Rule(kind, rate)  # type: ignore[arg-type]
    raise ValueError(f"expected {RULES}, with RATE between 0 and 1 (0.01 is 1 %), got {text}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def choose_threshold(prob_real: np.ndarray, labels: np.ndarray, rule: Rule) -> float:
    """The threshold that a rule asks for on these images: half-way between two neighbouring probabilities.

    Of thresholds that are as good by the rule, the one in the widest gap; the one nearest to 1/2 of gaps as wide.

    Args:
        prob_real: (N,) P(REAL), compared as float32.
        labels: (N,) FAKE = 0, REAL = 1; both classes.
        rule: see :class:`Rule`.

    Returns:
        In [0, 1], a value of float32.

    Raises:
        ValueError: one class only.
    """
    if rule.kind == "fixed":
        return rule.rate
    cuts, false_alarms, found = _counts(prob_real, labels)
    real, fake = int((labels == 1).sum()), int((labels == 0).sum())
    if not real or not fake:
        raise ValueError(f"expected images of both classes, got {fake} FAKE and {real} REAL")
    # each rule as a score: the highest is best. Whole numbers, so that equals are equal
    match rule.kind:
        case "accuracy":
            score = found - false_alarms
        case "youden":
            score = found * real - false_alarms * fake
        case "false_alarms":
            score = np.where(false_alarms <= _whole_part(rule.rate * real), found * (real + 1) - false_alarms, -1)
        case "recall":
            needed = fake - _whole_part((1 - rule.rate) * fake)
            score = np.where(found >= needed, real - false_alarms, -1)
    best = np.flatnonzero(score == score.max())
    low, high = cuts[best], cuts[best + 1]
    # a gap of 0.1 in the middle and one of 1e-9 beside 0 or 1 are told apart; so the widest lies where images are few
    middle = _between(low, high)
    return float(middle[np.lexsort((np.abs(middle - 0.5), low - high))[0]])


def _whole_part(count: float) -> int:
    """0.29 x 100 is 28.999999999999996: that is 29."""
    return int(np.floor(count + 1e-9))


def _counts(prob_real: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K + 1,) edges of the gaps that a threshold can lie in; in each: (K,) REAL and (K,) FAKE images called AI."""
    prob = np.asarray(prob_real, np.float32)
    values = np.unique(prob)
    inside = np.searchsorted(values, prob)
    real, fake = (np.bincount(inside[labels == label], minlength=len(values)).cumsum() for label in (1, 0))
    edges = np.concatenate([[0.0], values.astype(np.float64), [1.0]])
    return edges, np.concatenate([[0], real]), np.concatenate([[0], fake])


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A value of float32 from low on and below high; 1 where both are: all images are AI above it."""
    middle = ((low + high) / 2).astype(np.float32).astype(np.float64)
    return np.where(middle < high, middle, low)


def threshold_figures(prob_real: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, Any]:
    """What a threshold costs on these images: ``false_alarms`` and ``recall_fake``, and ``accuracy``.

    Returns:
        For each ``count``, ``images``, ``rate`` and ``interval``: [low, high] of 95 %, exact (Clopper & Pearson,
        Biometrika 26, 1934); rate and interval are None where there is no image of that class.
    """
    called_real = np.asarray(prob_real, np.float32) > np.float32(threshold)
    real = labels == 1
    return {
        "false_alarms": _share(int((~called_real & real).sum()), int(real.sum())),
        "recall_fake": _share(int((~called_real & ~real).sum()), int((~real).sum())),
        "accuracy": _share(int((called_real == real).sum()), len(labels)),
    }


def _share(count: int, images: int) -> dict[str, Any]:
    if not images:
        return {"count": 0, "images": 0, "rate": None, "interval": None}
    return {"count": count, "images": images, "rate": count / images, "interval": list(exact_interval(count, images))}


def exact_interval(count: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share: at least ``confidence`` of such intervals hold the true one.

    It holds too where the threshold is the one below which ``count`` of these very images lie, as ``false_alarms=RATE``
    and ``recall=RATE`` choose it: the true share below the n-th smallest image is distributed as
    Beta(n, images - n + 1), of which these are quantiles (Wilks, Annals of Mathematical Statistics 12, 1941).
    """
    from scipy.stats import binomtest  # half a second to import

    found = binomtest(count, images).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def doubts(rule: Rule, labels: np.ndarray) -> list[str]:
    """What must be said with a threshold's figures on the images that it was chosen on; empty where they are fair."""
    found = []
    if rule.kind in ("accuracy", "youden"):
        found.append(
            "the threshold was chosen on the same images: new ones give somewhat worse figures, and the intervals are "
            "too narrow"
        )
    label = REAL if rule.kind == "false_alarms" else FAKE
    name = CLASS_NAMES[label]
    images = int((labels == label).sum())
    if rule.kind in ("false_alarms", "recall"):
        share = rule.rate if rule.kind == "false_alarms" else 1 - rule.rate
        if images * share < 1 - 1e-9:
            found.append(
                f"{images} {name} images are too few for {rule}: below {int(np.ceil(1 / share - 1e-9)):,} it is the "
                f"same as none at all; the upper end of the interval is what can be promised"
            )
    return found
