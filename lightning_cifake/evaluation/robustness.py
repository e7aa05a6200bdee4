"""How well a model tells images apart after each of the things that happen to images (:mod:`perturbations`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_cifake.evaluation.figures import figures_of
from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.evaluation.perturbations import Perturbation
from lightning_cifake.evaluation.predictions import Predictions

FIGURES = ("accuracy", "auroc", "recall_fake", "recall_real")
DRAWS = 1000  # half of what the figures without a change have: there are sixty rows
MOST_FLIPPED = 20  # images that a record names


def robustness_of(
    changes: Sequence[Perturbation], clean: Predictions, logits: np.ndarray, *, draws: int = DRAWS
) -> dict[str, Any]:
    """What each change costs: a row a change, the worst of them, and which decisions flip.

    Args:
        changes: C of them; that there is none may be one, a row to compare with.
        clean: the answers about the N images without a change, which flips are counted against.
        logits: (C, N) float32 of P(REAL), of the images after each change.
        draws: resamples for the intervals; 0 for none.

    Returns:
        Plain values. ``rows``: ``name`` and ``strength`` of the change; each of :data:`FIGURES` and, as
        ``accuracy_interval``, its interval, by :func:`~lightning_cifake.evaluation.figures.figures_of`; and ``flips``,
        the share of images that are called otherwise than without a change (``flipped`` of them, ``flipped_to_real`` to
        REAL). ``worst``: the row of the lowest accuracy, by its place. ``right_under_all``: the share of images that
        are called right after every change, with Wilson's interval. ``flips_of_image``: N counts, after how
        many changes an image is called otherwise. ``most_flipped``: the name, label and P(REAL) without a change of the
        :data:`MOST_FLIPPED` images with the highest counts, and after which changes.
    """
    answers = [replace(clean, logits=of_change) for of_change in logits]
    called = np.stack([each.called_real for each in answers])
    flips = called != clean.called_real
    rows = []
    for change, answer, flipped in zip(changes, answers, flips, strict=True):
        row: dict[str, Any] = {"name": change.name, "strength": change.strength}
        known = figures_of(answer, draws=draws)["figures"]
        for name in FIGURES:
            row |= {name: known[name]["value"], f"{name}_interval": known[name]["interval"]}
        to_real = int((flipped & answer.called_real).sum())
        rows.append(row | {"flips": float(flipped.mean()), "flipped": int(flipped.sum()), "flipped_to_real": to_real})
    always = int((called == clean.labels.astype(bool)).all(0).sum())
    counts = flips.sum(0)
    most = np.argsort(-counts, kind="stable")[: min(MOST_FLIPPED, int((counts > 0).sum()))]
    return {
        "rows": rows,
        "worst": min(range(len(rows)), key=lambda at: rows[at]["accuracy"]),
        "right_under_all": always / len(clean),
        "right_under_all_interval": list(wilson_interval(always, len(clean))),
        "flips_of_image": counts.tolist(),
        "most_flipped": [
            {
                "name": clean.names[at],
                "label": int(clean.labels[at]),
                "prob_real": float(clean.prob_real[at]),
                "flips": int(counts[at]),
                "after": [described(change) for change, flipped in zip(changes, flips[:, at], strict=True) if flipped],
            }
            for at in most.tolist()
        ],
    }


def described(change: Perturbation) -> str:
    """``jpeg 50``."""
    return change.name if change.strength is None else f"{change.name} {change.strength}"
