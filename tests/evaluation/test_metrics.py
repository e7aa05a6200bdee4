"""The figures against scikit-learn's, at ties and at the edges."""

import json

import numpy as np
import pytest
import sklearn.metrics as theirs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cifake.evaluation.metrics import binary_metrics, classification_report_text

# few distinct values, so that ties are common: at the threshold, just beside it, between the classes, at both ends
PROBABILITY = st.one_of(
    st.sampled_from([0.0, 0.25, float(np.nextafter(np.float32(0.5), np.float32(0))), 0.5, 0.50000006, 0.75, 1.0]),
    st.floats(0, 1, width=32),
)
OUTPUTS = st.lists(st.tuples(PROBABILITY, st.integers(0, 1)), min_size=1, max_size=40).map(
    lambda pairs: (np.float32([prob for prob, _ in pairs]), np.array([label for _, label in pairs]))
)


@settings(deadline=None)  # a busy machine takes its time
@given(OUTPUTS, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_the_figures_are_scikit_learns(outputs, threshold):
    prob, labels = outputs
    called_real = prob > np.float32(threshold)
    ours = binary_metrics(prob, labels, threshold)
    precision, recall, f1, _ = theirs.precision_recall_fscore_support(
        labels, called_real, average="binary", zero_division=0
    )
    assert ours["accuracy"] == pytest.approx(theirs.accuracy_score(labels, called_real))
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx((precision, recall, f1))
    assert ours["confusion_matrix"] == theirs.confusion_matrix(labels, called_real, labels=[0, 1]).tolist()
    assert (ours["threshold"], ours["images"]) == (threshold, len(labels))
    if len(set(labels)) == 2:
        float32 = 1e-6
        assert ours["auroc"] == pytest.approx(theirs.roc_auc_score(labels, prob), abs=float32)
        assert ours["average_precision"] == pytest.approx(theirs.average_precision_score(labels, prob), abs=float32)
    else:
        assert ours["auroc"] is None and ours["average_precision"] is None


@settings(deadline=None)  # a busy machine takes its time
@given(OUTPUTS)
def test_the_report_is_scikit_learns_with_rows_ai_and_real(outputs):
    prob, labels = outputs
    text = classification_report_text(prob, labels)
    assert text == theirs.classification_report(
        labels, prob > 0.5, labels=[0, 1], target_names=["AI", "REAL"], zero_division=0
    )
    supports = {row.split()[0]: float(row.split()[-1]) for row in text.splitlines()[2:4]}
    assert supports == {"AI": (labels == 0).sum(), "REAL": (labels == 1).sum()}


def test_a_probability_of_exactly_one_half_is_fake():
    assert binary_metrics([0.5, 0.5], [0, 1])["confusion_matrix"] == [[1, 0], [1, 0]]


def test_the_decision_is_taken_on_the_float32_probability():
    just_above_in_float64_only = np.array([0.5 + 1e-12])
    assert binary_metrics(just_above_in_float64_only, [1])["recall"] == 0


def test_the_papers_printed_report_comes_out_of_its_counts():
    prob = np.repeat([0.1, 0.9, 0.1, 0.9], [1932, 42, 121, 257])
    labels = np.repeat([0, 1], [1974, 378])
    rows = [row.split() for row in classification_report_text(prob, labels).splitlines() if row]
    assert rows[1] == ["AI", "0.94", "0.98", "0.96", "1974"]
    assert rows[2] == ["REAL", "0.86", "0.68", "0.76", "378"]
    assert rows[3] == ["accuracy", "0.93", "2352"]


def test_perfect_data_gives_ones_throughout():
    ours = binary_metrics([0.1, 0.2, 0.8, 1.0], [0, 0, 1, 1])
    names = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")
    assert [ours[name] for name in names] == [1.0] * 6


@pytest.mark.parametrize("label", [0, 1])
def test_of_one_class_the_curves_areas_are_undefined_and_the_rest_is_not(label):
    ours = binary_metrics([0.2, 0.9, 0.9], [label] * 3)
    assert ours["auroc"] is None and ours["average_precision"] is None
    assert ours["accuracy"] == ([1 / 3, 2 / 3][label])


@pytest.mark.parametrize("kind", [np.float64, np.float16, torch.float32, torch.bfloat16, list])
def test_arrays_tensors_and_lists_give_the_same_plain_python_values(kind):
    values, labels = [0.25, 0.75, 0.5, 1.0], [0, 1, 1, 0]
    expected = binary_metrics(np.float32(values), np.array(labels))
    if isinstance(kind, torch.dtype):
        got = binary_metrics(torch.tensor(values, dtype=kind, requires_grad=True), torch.tensor(labels))
    else:
        got = binary_metrics(values if kind is list else kind(values), labels)
    assert got == expected
    assert json.loads(json.dumps(got)) == got


def test_a_read_only_array_is_taken_without_a_warning():
    prob = np.float32([0.1, 0.9])
    prob.flags.writeable = False
    assert binary_metrics(prob, np.array([0, 1]))["accuracy"] == 1


@pytest.mark.parametrize(
    ("prob", "labels", "threshold", "message"),
    [
        ([0.1, float("nan")], [0, 1], 0.5, "got 1 that are not, the first nan"),
        ([0.1, -0.2], [0, 1], 0.5, r"probabilities in \[0, 1\], got 1 that are not, the first -0.2"),
        ([3.5, -2.0], [0, 1], 0.5, "got 2 that are not, the first 3.5"),
        ([0.1, 0.2], [0], 0.5, r"shape \(N,\), got \(2,\) and \(1,\)"),
        ([[0.1], [0.2]], [[0], [1]], 0.5, r"got \(2, 1\) and \(2, 1\)"),
        ([], [], 0.5, "at least one image, got none"),
        ([0.1, 0.2], [0, 2], 0.5, r"labels 0 \(FAKE\) and 1 \(REAL\), got 2"),
        ([0.1, 0.2], [0, 0.5], 0.5, "got 0.5"),
        ([0.1, 0.2], [0, 1], 1.5, r"threshold in \[0, 1\], got 1.5"),
        ([0.1, 0.2], [0, 1], float("nan"), "threshold"),
    ],
)
@pytest.mark.parametrize("function", [binary_metrics, classification_report_text])
def test_what_is_no_evaluation_is_refused(function, prob, labels, threshold, message):
    with pytest.raises(ValueError, match=message):
        function(prob, labels, threshold)
