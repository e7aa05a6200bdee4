"""The paper's Precision, Recall and BinaryAccuracy, and its loss, on the same predictions."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_cifake.evaluation.metrics import binary_metrics
from parity_tests import tolerances


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_precision_and_recall_are_keras_metrics_ties_included(keras, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 2016)
    # multiples of 1/8: a good many lie on the threshold exactly
    prob_real = (rng.integers(0, 9, 2016) / 8).astype(np.float32)
    ours = binary_metrics(prob_real, labels)
    for name, metric in (
        ("precision", keras.metrics.Precision()),
        ("recall", keras.metrics.Recall()),
        ("accuracy", keras.metrics.BinaryAccuracy()),
    ):
        for first in range(0, 2016, 32):  # in batches, as the paper updates them
            metric.update_state(labels[first : first + 32, None], prob_real[first : first + 32, None])
        assert abs(ours[name] - float(metric.result())) < tolerances.METRIC_FLOAT32, name
    assert (prob_real == 0.5).sum() > 100


def test_the_loss_on_logits_is_keras_binary_crossentropy_of_the_same_logits(keras):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=20, size=(64, 1)).astype(np.float32)  # far into what a clipped probability would lose
    labels = rng.integers(0, 2, (64, 1)).astype(np.float32)
    theirs = float(keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits))
    ours = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert abs(ours - theirs) < tolerances.METRIC_FLOAT32 * theirs
