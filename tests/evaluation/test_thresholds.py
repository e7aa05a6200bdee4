"""Thresholds: each rule's is found by hand or by a library too, and the intervals hold what they promise."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta, norm
from sklearn.metrics import roc_curve

from lightning_cifake.evaluation.thresholds import (
    choose_threshold,
    doubts,
    exact_interval,
    parse_rule,
    threshold_figures,
)

REAL = np.array([0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97])
FAKE = np.array([0.01, 0.02, 0.04, 0.1, 0.2, 0.35, 0.5, 0.65])
PROB, LABELS = np.concatenate([FAKE, REAL]).astype(np.float32), np.repeat([0, 1], [8, 10])


@pytest.mark.parametrize(
    ("rule", "low", "high", "false_alarms", "found"),
    [
        ("false_alarms=0.05", 0.1, 0.15, 0, 4),  # none of ten is all that 5 % allows
        ("false_alarms=0.1", 0.2, 0.3, 1, 5),
        ("false_alarms=0.2", 0.35, 0.45, 2, 6),
        ("false_alarms=0.3", 0.5, 0.6, 3, 7),
        ("recall=0.5", 0.1, 0.15, 0, 4),
        ("recall=0.6", 0.2, 0.3, 1, 5),  # 4.8 of eight: five
        ("recall=0.999", 0.65, 0.7, 4, 8),
        ("0.5", 0.5, 0.5, 3, 7),
    ],
)
def test_a_threshold_is_the_one_found_by_hand(
    rule: str, low: float, high: float, false_alarms: int, found: int
) -> None:
    threshold = choose_threshold(PROB, LABELS, parse_rule(rule))
    assert low <= threshold <= high
    figures = threshold_figures(PROB, LABELS, threshold)
    assert (figures["false_alarms"]["count"], figures["recall_fake"]["count"]) == (false_alarms, found)


def test_youden_and_accuracy_are_the_best_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 80])  # not of one size: the two rules differ
    prob = expit(rng.normal(labels * 2 - 1, 1.5)).astype(np.float32)
    false_rate, true_rate, _ = roc_curve(labels, prob)
    youden = threshold_figures(prob, labels, choose_threshold(prob, labels, parse_rule("youden")))
    reached = youden["recall_fake"]["rate"] - youden["false_alarms"]["rate"]
    assert reached == pytest.approx((true_rate - false_rate).max(), abs=1e-12)
    accuracy = threshold_figures(prob, labels, choose_threshold(prob, labels, parse_rule("accuracy")))["accuracy"]
    assert accuracy["count"] == pytest.approx((true_rate * 80 + (1 - false_rate) * 300).max())


def test_equal_probabilities_stay_on_one_side_and_a_decision_is_that_of_float32() -> None:
    above = np.nextafter(np.float32(0.3), np.float32(1))
    prob, labels = np.array([0.3, 0.3, 0.3, above], np.float32), np.array([0, 0, 1, 1])
    threshold = choose_threshold(prob, labels, parse_rule("accuracy"))
    assert np.float32(threshold) == np.float32(0.3)  # nothing lies between the two
    assert threshold_figures(prob, labels, threshold)["accuracy"]["count"] == 3


def test_the_threshold_of_two_apart_is_in_the_middle_and_of_none_found_at_an_end() -> None:
    apart, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    assert choose_threshold(apart, labels, parse_rule("youden")) == pytest.approx(0.5)
    turned = threshold_figures(
        apart[::-1], labels, choose_threshold(apart[::-1], labels, parse_rule("false_alarms=0.1"))
    )
    assert turned["false_alarms"]["count"] == turned["recall_fake"]["count"] == 0
    with pytest.raises(ValueError, match="of both classes, got 0 FAKE and 4 REAL"):
        choose_threshold(apart, np.ones(4), parse_rule("youden"))


@pytest.mark.parametrize(
    "text", ["", "best", "false_alarms", "false_alarms=1", "recall=0", "recall=x", "1.5", "nan", "-1"]
)
def test_what_is_no_rule_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="expected accuracy, youden, false_alarms=RATE, recall=RATE, or a number"):
        parse_rule(text)


def test_a_rule_is_said_as_it_was_given() -> None:
    for text in ("accuracy", "youden", "false_alarms=0.01", "recall=0.95", "0.5"):
        assert str(parse_rule(text)) == text


def test_the_interval_is_clopper_and_pearsons_by_its_textbook_form() -> None:
    assert exact_interval(2, 30) == pytest.approx((beta.ppf(0.025, 2, 29), beta.ppf(0.975, 3, 28)))
    low, high = exact_interval(0, 30)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert threshold_figures(REAL, np.ones(10), 0.5)["recall_fake"] == {
        "count": 0, "images": 0, "rate": None, "interval": None,
    }  # fmt: skip


def test_the_interval_of_a_threshold_chosen_by_its_rate_holds_the_true_rate_on_the_same_images() -> None:
    """Two normal classes 2 apart, 60 + 60 images: 95 % at least, whose share among 200 tries is rarely below 91 %."""
    rng = np.random.default_rng(0)
    rule, labels, held = parse_rule("false_alarms=0.05"), np.repeat([0, 1], 60), 0
    for _ in range(200):
        prob = expit(rng.normal(labels * 2 - 1, 1))
        threshold = choose_threshold(prob, labels, rule)
        low, high = threshold_figures(prob, labels, threshold)["false_alarms"]["interval"]
        held += low <= norm.cdf(np.log(threshold / (1 - threshold)) - 1) <= high
    assert held / 200 >= 0.91


def test_too_few_images_for_a_rate_and_a_choice_on_the_same_images_are_said() -> None:
    few, many = np.repeat([0, 1], 30), np.repeat([0, 1], 100)
    assert (
        "30 REAL images are too few for false_alarms=0.01: below 100" in doubts(parse_rule("false_alarms=0.01"), few)[0]
    )
    assert "30 FAKE images are too few for recall=0.99: below 100" in doubts(parse_rule("recall=0.99"), few)[0]
    assert not doubts(parse_rule("false_alarms=0.01"), many) and not doubts(parse_rule("0.5"), few)
    assert "chosen on the same images" in doubts(parse_rule("accuracy"), many)[0]
