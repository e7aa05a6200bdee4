"""The paper's figures on the same predictions: Keras, torchmetrics, scikit-learn and lightning_cifake say the same."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_cifake.evaluation.metrics import binary_metrics, classification_report_text
from parity_tests import tolerances

RUNG = "7 metrics"
TEST_SET = 2016  # the paper's 63 batches
RATIOS = ("accuracy", "precision", "recall", "f1")


def keras_figures(keras, prob_real, labels):
    """As the paper's section 10.8: three metrics, updated batch by batch."""
    metrics = {
        "precision": keras.metrics.Precision(),
        "recall": keras.metrics.Recall(),
        "accuracy": keras.metrics.BinaryAccuracy(),
    }
    for first in range(0, len(labels), 32):
        batch = slice(first, first + 32)
        for metric in metrics.values():
            metric.update_state(labels[batch, None], prob_real[batch, None])
    return {name: float(metric.result()) for name, metric in metrics.items()}


def torchmetrics_figures(prob_real, labels):
    prob, target = torch.from_numpy(prob_real), torch.from_numpy(labels)
    figure = torchmetrics.functional.classification
    return {
        "accuracy": figure.binary_accuracy(prob, target).item(),
        "precision": figure.binary_precision(prob, target).item(),
        "recall": figure.binary_recall(prob, target).item(),
        "f1": figure.binary_f1_score(prob, target).item(),
        "confusion_matrix": figure.binary_confusion_matrix(prob, target).tolist(),
    }


def sklearn_figures(prob_real, labels):
    """As the paper's section 10.10: what is above one half is REAL."""
    called = prob_real > 0.5
    return {
        "accuracy": sklearn.metrics.accuracy_score(labels, called),
        "precision": sklearn.metrics.precision_score(labels, called, zero_division=0),
        "recall": sklearn.metrics.recall_score(labels, called, zero_division=0),
        "f1": sklearn.metrics.f1_score(labels, called, zero_division=0),
        "confusion_matrix": sklearn.metrics.confusion_matrix(labels, called, labels=[0, 1]).tolist(),
    }


def area_by_keras(keras, prob_real, labels):
    """Keras sums trapezoids between thresholds: with one at every score it sums the exact curve."""
    metric = keras.metrics.AUC(thresholds=np.unique(prob_real).tolist())  # it adds one below 0 and one above 1
    metric.update_state(labels, prob_real)
    return float(metric.result())


def made(name):
    """(prob_real, labels) of one of the cases that go wrong in metrics."""
    rng = np.random.default_rng(len(name))
    labels = rng.integers(0, 2, TEST_SET)
    # multiples of 1/8: a good many lie on the threshold exactly
    prob_real = (rng.integers(0, 9, TEST_SET) / 8).astype(np.float32)
    if name == "able":
        noise = rng.normal(scale=0.8, size=TEST_SET)
        prob_real = (1 / (1 + np.exp(-(4 * labels - 2 + 2 * noise)))).astype(np.float32)
    elif name == "only FAKE":
        labels[:] = 0
    elif name == "only REAL":
        labels[:] = 1
    elif name == "all called FAKE":
        prob_real = prob_real / 2
    elif name == "all called REAL":
        prob_real = 0.5 + (1 + prob_real) / 4
    elif name == "a last batch of one":
        labels, prob_real = labels[:33], prob_real[:33]
    elif name == "beside the threshold":  # the two neighbours of one half in float32, and one half
        sides = np.float32([np.nextafter(np.float32(0.5), np.float32(0)), 0.5, np.nextafter(np.float32(0.5), 1)])
        prob_real = sides[rng.integers(0, 3, TEST_SET)]
    return prob_real, labels


CASES = [
    "ties at the threshold",
    "able",
    "only FAKE",
    "only REAL",
    "all called FAKE",
    "all called REAL",
    "a last batch of one",
    "beside the threshold",
]


@pytest.mark.parametrize("case", CASES)
def test_accuracy_precision_and_recall_are_kerass(claim, keras, case):
    prob_real, labels = made(case)
    ours = binary_metrics(prob_real, labels)
    for name, theirs in keras_figures(keras, prob_real, labels).items():
        claim(f"{name} is Keras's, updated batch by batch", abs(ours[name] - theirs), tolerances.METRIC_FLOAT32)
    if case == "ties at the threshold":
        assert (prob_real == 0.5).sum() > 100


@pytest.mark.parametrize("case", CASES)
def test_every_ratio_is_torchmetrics_and_scikit_learns(claim, case):
    compare_with_both(claim, *made(case))


def compare_with_both(claim, prob_real, labels):
    ours = binary_metrics(prob_real, labels)
    torch_side, sklearn_side = torchmetrics_figures(prob_real, labels), sklearn_figures(prob_real, labels)
    for name in RATIOS:
        claim(f"{name} is torchmetrics'", abs(ours[name] - torch_side[name]), tolerances.METRIC_FLOAT32)
        claim(f"{name} is scikit-learn's", abs(ours[name] - sklearn_side[name]), tolerances.METRIC_FLOAT64)
    claim.equal("confusion matrix is torchmetrics'", ours["confusion_matrix"], torch_side["confusion_matrix"])
    claim.equal("confusion matrix is scikit-learn's", ours["confusion_matrix"], sklearn_side["confusion_matrix"])


# few probabilities, the threshold among them, so that ties are common; and any other
PROBABILITIES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1, width=32)
PREDICTIONS = st.lists(st.tuples(PROBABILITIES, st.integers(0, 1)), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(PREDICTIONS)
def test_any_predictions_give_torchmetrics_and_scikit_learns_figures(claim, predictions):
    prob_real = np.array([prob for prob, _ in predictions], np.float32)
    labels = np.array([label for _, label in predictions])
    compare_with_both(claim, prob_real, labels)
    compare_areas(claim, prob_real, labels)


def compare_areas(claim, prob_real, labels):
    ours = binary_metrics(prob_real, labels)
    if len(np.unique(labels)) < 2:
        claim.equal("AUROC of one class is undefined: ours is None", ours["auroc"], None)
        return
    area = sklearn.metrics.roc_auc_score(labels, prob_real)
    average = sklearn.metrics.average_precision_score(labels, prob_real)
    claim("AUROC is scikit-learn's", abs(ours["auroc"] - area), tolerances.AREA_FLOAT32)
    claim("average precision is scikit-learn's", abs(ours["average_precision"] - average), tolerances.AREA_FLOAT32)


@pytest.mark.parametrize("case", CASES)
def test_auroc_is_kerass_with_a_threshold_at_every_score(claim, keras, case):
    prob_real, labels = made(case)
    compare_areas(claim, prob_real, labels)
    if len(np.unique(labels)) == 2:
        ours, theirs = binary_metrics(prob_real, labels)["auroc"], area_by_keras(keras, prob_real, labels)
        text = "AUROC is Keras's AUC with a threshold at every score"
        claim(text, abs(ours - theirs), tolerances.AREA_FLOAT32)


def test_kerass_auc_with_its_own_200_thresholds_is_an_approximation(claim, keras):
    """Why the project does not take Keras's default: reported, with its size."""
    prob_real, labels = made("able")
    metric = keras.metrics.AUC()
    metric.update_state(labels, prob_real)
    exact = binary_metrics(prob_real, labels)["auroc"]
    claim.figure("AUROC of Keras's AUC with its default 200 thresholds, off by", abs(float(metric.result()) - exact))


@pytest.mark.parametrize("case", CASES)
def test_the_printed_report_is_scikit_learns_with_ai_and_real(claim, case):
    prob_real, labels = made(case)
    called = prob_real > 0.5  # the paper's own two lines, and the labels named where a class is absent
    theirs = sklearn.metrics.classification_report(
        labels, called, labels=[0, 1], target_names=["AI", "REAL"], zero_division=0
    )
    claim.equal("printed classification report", classification_report_text(prob_real, labels), theirs)
    if case == "ties at the threshold":
        as_printed = sklearn.metrics.classification_report(labels, called, target_names=["AI", "REAL"])
        claim.equal("printed classification report, by the paper's own line", theirs, as_printed)


def test_the_loss_on_logits_is_keras_binary_crossentropy_of_the_same_logits(claim, keras):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=20, size=(64, 1)).astype(np.float32)  # far into what a clipped probability would lose
    labels = rng.integers(0, 2, (64, 1)).astype(np.float32)
    theirs = float(keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits))
    ours = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    text = "loss of logits of +-60 is Keras's BinaryCrossentropy(from_logits=True), relative"
    claim(text, abs(ours - theirs) / theirs, tolerances.METRIC_FLOAT32)
    # scikit-learn clips at float64's eps: hand it logits that stay away from there
    mild = logits / 20
    probability = 1 / (1 + np.exp(-mild.astype(np.float64)))
    of_sklearn = sklearn.metrics.log_loss(labels[:, 0], probability[:, 0])
    ours = F.binary_cross_entropy_with_logits(torch.from_numpy(mild), torch.from_numpy(labels)).item()
    claim("loss is scikit-learn's log_loss, relative", abs(ours - of_sklearn) / of_sklearn, tolerances.METRIC_FLOAT32)


def test_kerass_metric_of_the_loss_is_the_mean_over_images(claim, keras):
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=3, size=(TEST_SET - 10, 1)).astype(np.float32)  # the last batch is not full
    labels = rng.integers(0, 2, logits.shape).astype(np.float32)
    metric = keras.metrics.BinaryCrossentropy(from_logits=True)
    mean = torchmetrics.MeanMetric()
    for first in range(0, len(labels), 32):
        batch = slice(first, first + 32)
        metric.update_state(labels[batch], logits[batch])
        loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits[batch]), torch.from_numpy(labels[batch]))
        mean.update(loss, weight=len(labels[batch]))
    text = "BCE of an epoch whose last batch is not full is Keras's metric"
    claim(text, abs(mean.compute().item() - float(metric.result())), tolerances.METRIC_FLOAT32)


def test_flipped_labels_are_seen(claim, keras):
    """A network whose output is P(FAKE), or folders numbered the other way."""
    prob_real, labels = made("able")
    theirs, flipped = keras_figures(keras, prob_real, labels), binary_metrics(prob_real, 1 - labels)
    for name, value in theirs.items():
        claim.fault(f"FAKE and REAL flipped: {name}", abs(flipped[name] - value), tolerances.METRIC_FLOAT32)


def test_a_threshold_that_includes_one_half_is_seen(claim, keras):
    prob_real, labels = made("ties at the threshold")
    theirs = keras_figures(keras, prob_real, labels)
    # at least one half is above the next smaller float32
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    including = binary_metrics(prob_real, labels, threshold=below)
    for name, value in theirs.items():
        claim.fault(
            f">= instead of > at the threshold: {name}", abs(including[name] - value), tolerances.METRIC_FLOAT32
        )
