"""How far a measured share may be from what it measures: intervals of one test, and of several seeds."""

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def wilson_interval(right: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share: what other test images from the same source would give.

    From the counts alone, which every record has; with thousands of images a bootstrap over them gives the same.
    Source: Wilson, Probable inference, JASA 22, 1927.

    Args:
        right: how many of the images.
        images: at least 1.
        confidence: in (0, 1).
    """
    from scipy.stats import binomtest  # half a second to import

    found = binomtest(right, images).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def auroc_interval(
    scores: np.ndarray, labels: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, tuple[float, float]]:
    """AUROC and its interval: by DeLong's variance, on the scale of its log-odds, on which it is nearer to normal.

    Where no two images of different classes change places, there is no variance; then it is Wilson's of as many
    independent pairs as there are. Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988; Pepe, The Statistical
    Evaluation of Medical Tests for Classification and Prediction, 2003, chapter 5.

    Args:
        scores: (N,), higher for REAL; ties count a half.
        labels: (N,) FAKE = 0, REAL = 1, both classes.
        confidence: in (0, 1).
    """
    from scipy.stats import norm, rankdata

    real, fake = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([real, fake]))
    below_real = (ranks[: len(real)] - rankdata(real)) / len(fake)  # the share of FAKE below each REAL
    above_fake = 1 - (ranks[len(real) :] - rankdata(fake)) / len(real)  # the share of REAL above each FAKE
    value, pairs = float(below_real.mean()), min(len(real), len(fake))
    spread = float(below_real.var() + above_fake.var())
    if pairs < 2 or spread == 0 or not 0 < value < 1:
        return value, wilson_interval(round(value * pairs), pairs, confidence)
    error = (below_real.var(ddof=1) / len(real) + above_fake.var(ddof=1) / len(fake)) ** 0.5
    middle = np.log(value / (1 - value))
    half = norm.ppf((1 + confidence) / 2) * error / (value * (1 - value))
    low, high = (float(1 / (1 + np.exp(-(middle + side * half)))) for side in (-1, 1))
    return value, (low, high)


def seeds_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of the mean of independent trainings: what other seeds would give on the same images.

    Args:
        values: of at least two seeds.
        confidence: in (0, 1).
    """
    from statistics import fmean, stdev

    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half
