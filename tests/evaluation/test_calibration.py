"""Maps of logits: a miscalibration that was put in is found and mended, and no ranking changes."""

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import from_numpy
from torchmetrics.functional.classification import binary_calibration_error

from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import (
    METHODS,
    Calibration,
    Method,
    best_method,
    fit,
    fit_temperature,
    losses_of,
    out_of_fold,
)

BENT = Calibration(2.0, ((-2.0, -3.0), (0.0, 0.5), (3.0, 1.0)))


def true_logits(images: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true: labels are drawn by them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, images)
    return logits.astype(np.float32), (rng.random(images) < expit(logits)).astype(np.int64)


def ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """torchmetrics', of P(REAL) in 15 bins."""
    return float(binary_calibration_error(from_numpy(expit(logits)), from_numpy(labels), n_bins=15))


def test_the_fit_finds_a_temperature_that_was_put_in() -> None:
    logits, labels = true_logits(200_000)
    for temperature in (0.4, 1.0, 3.0):
        assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.02)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_model_that_is_three_times_too_sure_is_mended(method: Method) -> None:
    logits, labels = true_logits()
    sure = 3 * logits
    mended = out_of_fold(sure, labels, method)
    assert ece(sure, labels) > 0.1 and ece(mended, labels) < 0.015
    assert losses_of(mended, labels).mean() == pytest.approx(losses_of(logits, labels).mean(), abs=0.003)


def test_a_bent_curve_is_mended_by_isotonic_alone_and_so_it_is_chosen() -> None:
    logits, labels = true_logits()
    bent = np.where(logits > 0, 4 * logits, 0.5 * logits) + 1
    chosen, losses = best_method(bent, labels)
    assert chosen == "isotonic" and losses["isotonic"] < losses["temperature"] < losses["keep"]
    assert best_method(bent[:900], labels[:900])[0] == "temperature"
    errors = {method: ece(out_of_fold(bent, labels, method), labels) for method in METHODS}
    assert errors["isotonic"] < 0.02 < errors["temperature"] < errors["keep"]


def test_a_scaled_logit_needs_no_more_than_a_temperature_and_a_true_one_not_even_that() -> None:
    logits, labels = true_logits(3_000)
    assert best_method(2.5 * logits, labels)[0] == "temperature"
    assert best_method(BENT.inverse(logits), labels, BENT)[0] == "keep"
    apart = np.repeat([-3.0, 3.0], 5)
    assert best_method(apart, np.repeat([0, 1], 5)) == ("keep", {"keep": pytest.approx(np.log1p(np.exp(-3)))})


@pytest.mark.parametrize("method", METHODS)
def test_no_pair_of_images_changes_its_order(method: Method) -> None:
    logits, labels = true_logits(2_000)
    calibrated = fit(3 * logits, labels, method)(3 * logits)
    order = np.argsort(logits, kind="stable")
    assert (np.diff(calibrated[order]) >= 0).all()
    assert roc_auc_score(labels, calibrated) == pytest.approx(roc_auc_score(labels, logits), abs=1e-9)


def test_isotonic_of_a_textbook_sequence_goes_through_the_middles_of_its_steps() -> None:
    """Pool adjacent violators by hand: REAL FAKE FAKE are a step of 1/3, REAL REAL are one of 1."""
    logits, labels = np.array([1.0, 2, 3, 4, 5]), np.array([1, 0, 0, 1, 1])
    found = fit(logits - 3, labels, "isotonic")
    at, to = np.array(found.knots).T * [[found.temperature], [1]]
    assert at + 3 == pytest.approx([2, 4.5])
    assert to == pytest.approx([np.log((1 / 3) / (2 / 3)), np.log(0.9 / 0.1)])  # 1 of 3; 2 of 2, less half of an image


def test_a_map_and_its_inverse_undo_each_other() -> None:
    logits = np.linspace(-12, 12, 49, dtype=np.float32)
    assert BENT.inverse(BENT(logits)) == pytest.approx(logits, abs=1e-5)
    assert BENT(np.array([-4.0, 0, 6, 8])) == pytest.approx([-3, 0.5, 1, 2])


def test_a_map_is_read_from_a_models_metadata_and_one_that_is_none_is_refused() -> None:
    knots = json.dumps({"knots": BENT.knots})
    assert Calibration.of_metadata({"temperature": "2", "calibrated": knots}) == BENT
    assert Calibration.of_metadata({"temperature": "2"}) == Calibration(2.0)
    for temperature, listed in (("0", []), ("nan", []), ("1", [[0, 1], [1, 1]]), ("1", [[0, 1]]), ("1", 5), ("x", [])):
        with pytest.raises(UserError, match="its calibration makes no sense"):
            Calibration.of_metadata({"temperature": temperature, "calibrated": json.dumps({"knots": listed})})


def test_what_no_temperature_can_be_fitted_on_says_why() -> None:
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="not one image is on the wrong side"):
        fit(np.array([-3.0, -1, 2, 5]), labels, "temperature")
    with pytest.raises(ValueError, match="no better than chance"):
        fit(np.array([3.0, 1, -2, -5]), labels, "temperature")
    with pytest.raises(ValueError, match="0 FAKE and 4 REAL"):
        fit(np.array([3.0, 1, -2, -5]), np.ones(4), "temperature")
    with pytest.raises(ValueError, match="at least 5 image"):
        out_of_fold(np.array([-3.0, -1, 2, 5]), labels, "temperature")
