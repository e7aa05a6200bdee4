"""Logits and labels of validation images -> a strictly increasing map of logits whose probabilities are true.

Being increasing, it changes no ranking: AUROC and average precision stay, and each image's decision at a threshold that
is moved with it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lightning_cifake.errors import UserError
from lightning_cifake.text import reason_of

Method = Literal["keep", "temperature", "isotonic"]  # simplest first
METHODS: tuple[Method, ...] = get_args(Method)
COLDEST, HOTTEST = 0.05, 20.0
FOLDS = 5
KEY = "calibrated"  # of a model's metadata; `calibration` there is how int8's ranges were found
MIN_ISOTONIC = 1_000  # images; with fewer its steps follow the noise: Niculescu-Mizil & Caruana, ICML 2005, section 5


@dataclass(frozen=True)
class Calibration:
    """(N,) logits of P(REAL) -> (N,) float32 calibrated ones, strictly increasing.

    Attributes:
        temperature: what logits are divided by, above 0.
        knots: (from, to) of some divided logits, both increasing. Straight between two, of slope 1 outside; none: they
            stay as they are.
    """

    temperature: float = 1.0
    knots: tuple[tuple[float, float], ...] = ()

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        divided = np.asarray(logits, np.float32) / np.float32(self.temperature)
        if not self.knots:
            return divided
        at, to = np.array(self.knots).T
        return (divided + np.interp(divided, at, to - at)).astype(np.float32)  # np.interp stays constant outside

    def inverse(self, logits: np.ndarray) -> np.ndarray:
        """What the map makes these of; to float32's precision."""
        divided = np.asarray(logits, np.float64)
        if self.knots:
            at, to = np.array(self.knots).T
            divided = divided - np.interp(divided, to, to - at)
        return (divided * self.temperature).astype(np.float32)

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> "Calibration":
        """The map in an exported model: from the network's own logits to the ``logit`` that comes out.

        Raises:
            UserError: what the model says of it makes no sense.
        """
        try:
            temperature = float(metadata["temperature"])
            listed = json.loads(metadata[KEY])["knots"] if KEY in metadata else []
            knots = tuple((float(at), float(to)) for at, to in listed)
            steps = np.diff(np.array(knots).reshape(-1, 2), axis=0)
            if not 0 < temperature < np.inf or len(knots) == 1 or not ((steps > 0) & (steps < np.inf)).all():
                raise ValueError("expected a temperature above 0, and knots that increase")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"what the model says of its calibration makes no sense ({reason_of(error)})") from error
        return cls(temperature, knots)


def fit(
    logits: np.ndarray,
    labels: np.ndarray,
    method: Method,
    current: Calibration = Calibration(),
) -> Calibration:
    """Fits a map.

    Args:
        logits: (N,) of P(REAL), not divided by any temperature.
        labels: (N,) FAKE = 0, REAL = 1; both classes.
        method: ``temperature``, one number; ``isotonic``, which bends too: any increasing curve, and so needs more
            images; ``keep``, the current one.
        current: the map that the model has.

    Raises:
        ValueError: one class only; or no temperature is best: the logits tell the classes apart without a mistake,
            or are no better than chance.
    """
    if method == "keep":
        return current
    _require_both(labels)
    temperature = fit_temperature(logits, labels)
    if not 1.001 * COLDEST < temperature < 0.999 * HOTTEST:
        why = "not one image is on the wrong side" if temperature < 1 else "the answers are no better than chance"
        raise ValueError(f"no temperature from {COLDEST:g} to {HOTTEST:g} is best: {why}")
    if method == "temperature":
        return Calibration(temperature)
    return Calibration(temperature, _isotonic_knots(np.asarray(logits, np.float64) / temperature, labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that makes mean BCE of sigmoid(logits / T) least; within 0.05 and 20.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    signed = np.where(labels == 1, logits, -logits).astype(np.float64)
    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(lambda t: np.logaddexp(0, -signed / np.exp(t)).mean(), bounds=bounds).x))


def _isotonic_knots(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The steps of isotonic regression, each by its middle: (mean logit, log-odds of its share of REAL).

    Steps alone would make ties of what was ranked; straight lines between their middles keep each pair's order.
    A step without one of the classes has no log-odds: its share is taken to be half an image away from none.
    Source: Oron & Flournoy, Centered Isotonic Regression, Statistics in Biopharmaceutical Research 9, 2017.
    """
    from sklearn.isotonic import IsotonicRegression

    shares = IsotonicRegression().fit_transform(logits, labels.astype(np.float64))
    heights, step = np.unique(shares, return_inverse=True)
    if len(heights) < 2:
        raise ValueError("isotonic regression finds one step alone: the answers are no better than chance")
    sizes = np.bincount(step)
    middles = np.bincount(step, logits) / sizes
    least = 1 / (2 * len(logits))
    odds = np.log((bounded := heights.clip(least, 1 - least)) / (1 - bounded))
    return tuple((float(at), float(to)) for at, to in zip(middles, odds, strict=True))


def out_of_fold(
    logits: np.ndarray,
    labels: np.ndarray,
    method: Method,
    current: Calibration = Calibration(),
) -> np.ndarray:
    """(N,) float32: each fifth of the images calibrated by a map fitted on the other four.

    What calibration is worth on new images: on those that it was fitted on it looks better than it is.

    Raises:
        ValueError: as :func:`fit`, or fewer than five images of a class.
    """
    if method == "keep":
        return current(logits)
    _require_both(labels, FOLDS)
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(len(logits), np.float32)
    for others, own in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(logits, labels):
        found[own] = fit(logits[others], labels[others], method)(logits[own])
    return found


def losses_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) float64 binary cross-entropy, in nats, of (N,) logits of P(REAL)."""
    return np.logaddexp(0, np.where(labels == 1, -1.0, 1.0) * np.asarray(logits, np.float64))


def best_method(
    logits: np.ndarray,
    labels: np.ndarray,
    current: Calibration = Calibration(),
) -> tuple[Method, dict[str, float]]:
    """The simplest method that is as good as any on new images, and the log loss of each, by cross-validation.

    A method takes the place of a simpler one where it lowers the log loss by more than one standard error of the
    difference (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). ``isotonic`` is tried from
    :data:`MIN_ISOTONIC` images on; what cannot be fitted is left out.
    """
    best, found = METHODS[0], {METHODS[0]: losses_of(current(logits), labels)}
    for method in METHODS[1:]:
        if method == "isotonic" and len(logits) < MIN_ISOTONIC:
            continue
        with suppress(ValueError):
            found[method] = losses_of(out_of_fold(logits, labels, method), labels)
            gain = found[best] - found[method]
            if gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5:
                best = method
    return best, {str(method): float(losses.mean()) for method, losses in found.items()}


def _require_both(labels: np.ndarray, each: int = 1) -> None:
    fake, real = int((labels == 0).sum()), int((labels == 1).sum())
    if min(fake, real) < each:
        raise ValueError(f"expected at least {each} image(s) of each class, got {fake} FAKE and {real} REAL")
