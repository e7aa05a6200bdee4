"""How far a measured share may be from what it measures: intervals of one test, and of several seeds."""

from collections.abc import Sequence

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
