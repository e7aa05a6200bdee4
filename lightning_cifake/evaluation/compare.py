"""Two models on the same images: where they differ, and whether more than chance would have it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_cifake.classes import CLASS_NAMES, REAL
from lightning_cifake.evaluation.bootstrap import NAMES
from lightning_cifake.evaluation.figures import DRAWS, bootstrap_interval, drawn_figures, figures_of, too_few
from lightning_cifake.evaluation.predictions import Predictions

FEW = 25  # of the images that one model alone gets right: below it the chi-square is too coarse


Drawn = Mapping[str, np.ndarray]
"""One model's figures of each resample: of :func:`~lightning_cifake.evaluation.figures.drawn_figures`."""


def compare(
    a: Predictions,
    b: Predictions,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    drawn: tuple[Drawn, Drawn] | None = None,
) -> dict[str, Any]:
    """How two models' answers about the same images differ.

    Args:
        a, b: about the same images in the same order, each with the threshold of its own.
        draws, seed: of the resamples; both models are asked about the same ones, so that what makes a resample easy for
            both cancels. Percentile intervals of the differences (Efron and Tibshirani, 1993, chapter 13).
        drawn: a's and b's of the same resamples, where they are known already: of many models each is drawn once.

    Returns:
        Plain values: ``models``, their names; ``agreement``, the share that both call the same (None where there is no
        image); ``both_right``, ``only_a`` (right), ``only_b``, ``both_wrong``: numbers of images; ``mcnemar``, of
        :func:`mcnemar`; ``differences``: for each figure ``value``, a's less b's, and its ``interval``: None where one
        of theirs needs more images, and where every resample gives the same; ``images``: those that they call
        differently, the farthest apart first: ``name``, ``label``, ``prob_real`` [a's, b's].

    Raises:
        ValueError: other images; else as :func:`figures.figures_of`.
    """
    if list(a.names) != list(b.names) or not np.array_equal(a.labels, b.labels):
        raise ValueError(f"expected answers about the same images, got others of {a.model} and of {b.model}")
    right = [each.called_real == (each.labels == REAL) for each in (a, b)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    apart = np.flatnonzero(a.called_real != b.called_real)
    prob = np.stack([a.prob_real, b.prob_real], axis=1)
    apart = apart[np.argsort(-abs(prob[apart, 0] - prob[apart, 1]), kind="stable")]
    return {
        "models": [a.model, b.model],
        "agreement": 1 - len(apart) / len(a) if len(a) else None,
        "both_right": int((right[0] & right[1]).sum()),
        "only_a": only_a,
        "only_b": only_b,
        "both_wrong": int((~right[0] & ~right[1]).sum()),
        "mcnemar": mcnemar(only_a, only_b),
        "differences": _differences(
            a, b, drawn or (drawn_figures(a, draws=draws, seed=seed), drawn_figures(b, draws=draws, seed=seed))
        ),
        "images": [
            {"name": a.names[at], "label": CLASS_NAMES[a.labels[at]], "prob_real": prob[at].tolist()}
            for at in apart.tolist()
        ],
    }


def mcnemar(only_a: int, only_b: int) -> dict[str, Any]:
    """McNemar's test: would two equally good models differ as far on these images?

    Of fewer than :data:`FEW` images the exact binomial test, two-sided; else the chi-square of one degree of freedom
    with Edwards's continuity correction. Sources: McNemar, Psychometrika 12, 1947; Edwards, Psychometrika 13, 1948.

    Args:
        only_a, only_b: images that one model alone gets right.

    Returns:
        ``test`` (``exact`` or ``chi-square``), ``statistic`` (None of the exact test), ``p_value``.
    """
    from scipy.stats import binomtest, chi2  # half a second to import

    images = only_a + only_b
    if images < FEW:
        p_value = float(binomtest(only_a, images).pvalue) if images else 1.0
        return {"test": "exact", "statistic": None, "p_value": p_value}
    statistic = max(0, abs(only_a - only_b) - 1) ** 2 / images
    return {"test": "chi-square", "statistic": statistic, "p_value": float(chi2.sf(statistic, 1))}


def _differences(a: Predictions, b: Predictions, drawn: tuple[Drawn, Drawn]) -> dict[str, Any]:
    alone = [figures_of(each, draws=0)["figures"] for each in (a, b)]
    fewest = min((count for count in np.bincount(a.labels, minlength=2).tolist() if count), default=0)
    differences: dict[str, Any] = {}
    for name in NAMES:
        values = [figures[name]["value"] for figures in alone]
        if None in values:
            differences[name] = {"value": None, "interval": None}
            continue
        interval = None
        if all(drawn) and not too_few(name, int((a.labels == REAL).sum()), len(a)):
            low, high = bootstrap_interval(drawn[0][name] - drawn[1][name], values[0] - values[1], fewest)
            interval = [low, high] if low < high else None
        differences[name] = {"value": values[0] - values[1], "interval": interval}
    return differences
