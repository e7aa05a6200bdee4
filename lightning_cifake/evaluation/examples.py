"""Images to look at: what a model is right about, what it is wrong about, and what it cannot decide."""

from typing import Any

import numpy as np

from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.evaluation.predictions import Predictions

KINDS = ("hits", "misses", "uncertain")


def examples_of(predictions: Predictions, each: int = 8) -> dict[str, list[dict[str, Any]]]:
    """The most confident right and wrong answers, half of each class where there are enough, and the least decided.

    Args:
        predictions: of one model.
        each: at most so many of a kind.

    Returns:
        By kind (KINDS), the most telling first: ``name``, ``label`` (FAKE or REAL), ``prob_real``, and ``at``, the
        image's place in the predictions.
    """
    prob, right = predictions.prob_real, predictions.called_real == (predictions.labels == REAL)
    with np.errstate(divide="ignore"):
        border = float(np.log(predictions.threshold) - np.log1p(-predictions.threshold))
    # logits: probabilities of confident answers are all 1
    margin = np.abs(np.asarray(predictions.logits, np.float64) - border)
    margin[~np.isfinite(margin)] = np.finfo(np.float64).max
    sure = np.argsort(-margin, kind="stable")
    found = {
        "hits": _of_both(sure[right[sure]], predictions.labels, each),
        "misses": _of_both(sure[~right[sure]], predictions.labels, each),
        "uncertain": sure[::-1][:each].tolist(),
    }
    return {
        kind: [
            {
                "name": str(predictions.names[at]),
                "label": CLASS_NAMES[int(predictions.labels[at])],
                "prob_real": float(prob[at]),
                "at": int(at),
            }
            for at in places
        ]
        for kind, places in found.items()
    }


def _of_both(places: np.ndarray, labels: np.ndarray, each: int) -> list[int]:
    """Half of each class, and more of the one where the other has too few; in the order given."""
    real, fake = (np.flatnonzero(labels[places] == label) for label in (REAL, FAKE))
    half = each // 2
    takes = min(len(real), max(each - half, each - len(fake)))
    kept = np.sort(np.concatenate([real[:takes], fake[: each - takes]]))
    return places[kept].tolist()
