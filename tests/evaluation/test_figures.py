"""Figures with their intervals: what is undefined is said, and the curves are the libraries'."""

import json

import numpy as np
import pytest
import sklearn.metrics as theirs

from lightning_cifake.evaluation.bootstrap import NAMES
from lightning_cifake.evaluation.figures import LOWER_IS_BETTER, TITLES, curves_of, figures_of
from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.evaluation.predictions import Predictions


def of(labels, logits, threshold: float = 0.5) -> Predictions:
    labels = np.asarray(labels, np.int64)
    return Predictions("m", [str(n) for n in range(len(labels))], labels, np.float32(logits), threshold)


def noisy(fake: int, real: int, apart: float = 1.0) -> Predictions:
    labels = np.repeat([0, 1], [fake, real])
    return of(labels, np.random.default_rng(0).normal(apart * (2 * labels - 1), 1.5))


def test_every_figure_has_a_value_inside_its_interval_and_a_title():
    told = figures_of(noisy(400, 10_000), draws=100)
    assert (told["images"], told["class_counts"]) == (10_400, {"FAKE": 400, "REAL": 10_000})
    assert sum(map(sum, told["confusion_matrix"])) == 10_400
    for name, figure in told["figures"].items():
        low, high = figure["interval"]
        assert low < figure["value"] < high and "note" not in figure, name
    assert TITLES.keys() == set(NAMES) > LOWER_IS_BETTER
    assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize(("label", "name", "other"), [(0, "fake", "REAL"), (1, "real", "FAKE")])
def test_of_one_class_what_needs_both_is_undefined_and_says_so(label, name, other):
    figures = figures_of(of([label] * 30, np.linspace(-1, 2, 30)), draws=50)["figures"]
    defined = {"accuracy", f"recall_{name}", "brier", "ece", "log_loss"}
    assert {each for each in NAMES if figures[each]["value"] is not None} == defined
    assert {each for each in NAMES if figures[each]["interval"] is not None} == defined - {"ece"}
    assert figures["auroc"]["note"] == f"undefined: there are no images of {other}"


def test_of_no_image_nothing_is_defined():
    told = figures_of(of([], []))
    assert told["images"] == 0 and all(figure["value"] is None for figure in told["figures"].values())


def test_precision_of_what_is_never_called_is_undefined():
    figures = figures_of(of([0, 0, 1, 1], [-2, -1, -3, -1]), draws=50)["figures"]
    assert figures["precision_real"] == {
        "value": None,
        "interval": None,
        "note": "undefined: no image is called REAL",
    }
    assert figures["f1_real"]["value"] == 0 and figures["precision_fake"]["value"] == 0.5


@pytest.mark.parametrize(
    ("real", "name", "note"),
    [
        (99, "recall_fake_at_1", "undefined: needs 100 images of REAL, got 99"),
        (100, "recall_fake_at_1", "no interval: needs 1,000 images of REAL, got 100"),
        (1000, "recall_fake_at_1", None),
        (500, "recall_fake_at_01", "undefined: needs 1,000 images of REAL, got 500"),
        (1000, "recall_fake_at_01", "no interval: needs 10,000 images of REAL, got 1,000"),
    ],
)
def test_a_share_of_false_alarms_needs_as_many_images_as_it_says(real, name, note):
    figure = figures_of(noisy(50, real), draws=20)["figures"][name]
    assert figure.get("note") == note
    assert (figure["value"] is None, figure["interval"] is None) == (
        bool(note and "undefined" in note),
        note is not None,
    )


def test_tied_images_are_called_together_so_that_the_false_alarms_stay_below_their_share():
    # two of 100 photographs share the lowest answer with 3 of the 4 generated images: one alone cannot be called FAKE
    labels = [1] * 100 + [0] * 4
    logits = [-3, -3] + [3] * 98 + [-4, -3, -3, -3]
    assert figures_of(of(labels, logits), draws=0)["figures"]["recall_fake_at_1"]["value"] == 0.25
    assert figures_of(of([1] * 100 + labels, [3] * 100 + logits), draws=0)["figures"]["recall_fake_at_1"]["value"] == 1


def test_a_model_without_a_mistake_gets_wilsons_interval_of_its_shares_and_none_of_the_rest():
    figures = figures_of(of([0] * 20 + [1] * 20, [-4.0] * 20 + [4.0] * 20), draws=50)["figures"]
    low, high = figures["accuracy"]["interval"]
    assert low == pytest.approx(0.9124, abs=1e-4) and high == 1 and figures["accuracy"]["note"].startswith("Wilson")
    assert figures["auroc"] == {"value": 1.0, "interval": [pytest.approx(wilson_interval(20, 20)[0]), 1.0]}
    assert figures["eer"] == {
        "value": 0.0,
        "interval": None,
        "note": "no interval: every resample gives the same value",
    }


def test_a_share_of_few_images_gets_wilsons_interval_and_of_more_the_bootstraps():
    figures = figures_of(noisy(99, 100), draws=50)["figures"]
    (fake, _), (_, real) = figures_of(noisy(99, 100), draws=0)["confusion_matrix"]
    assert figures["recall_fake"]["interval"] == list(wilson_interval(fake, 99))
    assert figures["recall_fake"]["note"] == "Wilson's interval: of 99 images"
    assert figures["ece"]["interval"] is None
    assert figures["ece"]["note"] == "no interval: needs 2,000 images, got 199"
    assert "note" not in figures["recall_real"] and figures["recall_real"]["value"] == real / 100


def test_certain_and_wrong_costs_what_its_logit_says():
    figures = figures_of(of([0, 1], [50.0, 50.0]), draws=0)["figures"]
    assert figures["log_loss"]["value"] == pytest.approx(25)


def test_the_calibration_error_of_a_calibrated_model_is_near_nothing_and_of_a_sharper_one_is_not():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-logits))).astype(int)
    right, sharp = (figures_of(of(labels, factor * logits), draws=50)["figures"]["ece"] for factor in (1, 3))
    assert right["value"] < 0.01 and sharp["interval"][0] > 0.08


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([0, 1], [0, float("nan")], "m: expected finite logits, got 1 of 2 that are not"),
        ([0, 2], [0, 0], r"expected labels 0 \(FAKE\) and 1 \(REAL\), got 2"),
    ],
)
@pytest.mark.parametrize("function", [figures_of, curves_of])
def test_what_is_no_answer_is_refused(function, labels, logits, message):
    with pytest.raises(ValueError, match=message):
        function(of(labels, logits))


def test_the_curves_are_scikit_learns_with_few_points():
    p = noisy(3000, 2000)
    curves = curves_of(p)
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    roc, pairs = curves["roc"], curves["precision_recall"]
    assert all(len(points) == 400 for curve in (roc, pairs) for points in curve.values())
    area = theirs.auc(roc["false_positive_rate"], roc["true_positive_rate"])
    assert area == pytest.approx(theirs.roc_auc_score(p.labels, p.prob_real), abs=1e-3)
    for at in (5, 200, 390):
        called = p.prob_real >= roc["threshold"][at]
        assert roc["true_positive_rate"][at] == theirs.recall_score(p.labels, called)
        called = p.prob_real >= pairs["threshold"][at]
        assert pairs["precision"][at] == theirs.precision_score(p.labels, called)
        assert pairs["recall"][at] == theirs.recall_score(p.labels, called)
    ends = roc["false_positive_rate"][0], roc["true_positive_rate"][-1], pairs["recall"][0], pairs["recall"][-1]
    assert ends == (0, 1, 1, 0)


def test_the_bins_of_the_reliability_diagram_hold_each_image_once_and_give_the_calibration_error():
    p = noisy(300, 200, apart=3)
    bins = curves_of(p)["reliability"]["bins"]
    assert sum(each["images"] for each in bins) == 500
    gap = sum(each["images"] * abs(each["mean_prob_real"] - each["share_real"]) for each in bins) / 500
    assert gap == pytest.approx(figures_of(p, draws=0)["figures"]["ece"]["value"], abs=1e-12)
    assert all(each["low"] <= each["mean_prob_real"] <= each["high"] for each in bins)


def test_of_one_class_there_is_a_reliability_diagram_and_no_other_curve():
    curves = curves_of(of([0] * 3, [-1, 0, 90]))
    assert curves["roc"] is None and curves["precision_recall"] is None
    assert [each["images"] for each in curves["reliability"]["bins"]] == [1, 1, 1]
