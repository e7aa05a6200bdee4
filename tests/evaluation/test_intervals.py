"""AUROC's interval is DeLong's on the scale of log-odds, holds what it says with few images, and never says certain."""

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import logit
from scipy.stats import norm

from lightning_cifake.evaluation.intervals import auroc_interval, wilson_interval


def test_the_value_is_scikit_learns_and_the_interval_is_that_of_delongs_variance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(labels, 1.5), 1)  # with ties
    value, interval = auroc_interval(scores, labels)
    assert value == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    real, fake = scores[labels == 1], scores[labels == 0]
    wins = (real[:, None] > fake) + (real[:, None] == fake) / 2
    variance = wins.mean(1).var(ddof=1) / len(real) + wins.mean(0).var(ddof=1) / len(fake)
    half = norm.ppf(0.975) * variance**0.5 / (value * (1 - value))
    assert logit(interval) == pytest.approx([logit(value) - half, logit(value) + half])


@pytest.mark.parametrize("gap", [1.0, 2.0])
def test_nineteen_of_twenty_hold_the_true_value_with_thirty_images_a_class(gap: float) -> None:
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 30)
    truth, held = norm.cdf(gap / 2**0.5), 0
    for _ in range(600):
        _, (low, high) = auroc_interval(rng.normal(gap * labels, 1), labels)
        held += low <= truth <= high
    assert 0.925 < held / 600 < 0.98  # DeLong's without log-odds: .925 and .888 in 400 sets


@pytest.mark.parametrize(("scores", "value"), [([0, 0, 0, 1, 1], 1.0), ([1, 1, 1, 0, 0], 0.0), ([1] * 5, 0.5)])
def test_where_no_two_change_places_it_is_wilsons_of_as_many_pairs(scores: list[int], value: float) -> None:
    found, interval = auroc_interval(np.array(scores), np.array([0, 0, 0, 1, 1]))
    assert found == value and interval == wilson_interval(round(2 * value), 2)
