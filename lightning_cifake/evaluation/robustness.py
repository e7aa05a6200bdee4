"""How well a model tells images apart after each of the things that happen to images (:mod:`perturbations`).

``docs/results/robustness.py`` measures an exported model with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL.Image import Resampling

from lightning_cifake.evaluation.figures import figures_of
from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.evaluation.metrics import THRESHOLD, binary_metrics
from lightning_cifake.evaluation.perturbations import Change, Perturbation, blur, noise, nothing, rescale, saved
from lightning_cifake.evaluation.predictions import Predictions

FIGURES = ("accuracy", "auroc", "recall_fake", "recall_real")
DRAWS = 1000  # half of what the figures without a change have: there are sixty rows
MOST_FLIPPED = 20  # images that a record names

Answer = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) uint8 -> (N,) P(REAL) in [0, 1]."""


CONDITIONS: dict[str, Change] = {
    "clean": nothing,
    "jpeg 70": saved("JPEG", quality=70),
    "jpeg 50": saved("JPEG", quality=50),
    "blur 1": blur(1),
    "rescale 3/4 bilinear": rescale(0.75, Resampling.BILINEAR),
    "rescale 3/4 bicubic": rescale(0.75, Resampling.BICUBIC),
    "noise 4": noise(4),
}
"""By what they are called in the record; 3/4 is 32 to 24 and back."""


def measure(
    answer: Answer,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    threshold: float = THRESHOLD,
    conditions: Mapping[str, Change] = CONDITIONS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each condition's name and :func:`figures`, as soon as they are known.

    Args:
        answer: the model.
        images: (N, H, W, 3) uint8.
        labels: (N,) FAKE = 0, REAL = 1.
        seed: of the noise, which is the same whatever other conditions are asked for.
        threshold: of P(REAL), strictly above is REAL.
    """
    for name, condition in conditions.items():
        generator = np.random.default_rng(seed)
        yield name, figures(answer(np.stack([condition(image, generator) for image in images])), labels, threshold)


def figures(prob_real: np.ndarray, labels: np.ndarray, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Accuracy, the share found of each class, and AUROC; shares with their 95 % interval (Wilson's).

    Arguments and errors as :func:`~lightning_cifake.evaluation.metrics.binary_metrics`. ``recall_fake`` is the share of
    FAKE that is called FAKE, ``recall_real`` that of REAL called REAL; None where there is no image of the class.
    """
    metrics = binary_metrics(prob_real, labels, threshold)
    (fake, false_real), (missed_real, real) = metrics["confusion_matrix"]
    shares = {
        "accuracy": (fake + real, metrics["images"]),
        "recall_fake": (fake, fake + false_real),
        "recall_real": (real, missed_real + real),
    }
    found: dict[str, Any] = {"images": metrics["images"]}
    for name, (right, images) in shares.items():
        found[name] = right / images if images else None
        found[f"{name}_interval"] = list(wilson_interval(right, images)) if images else None
    return found | {"auroc": metrics["auroc"]}


def other_fakes(prob_fake: np.ndarray, prob_real: np.ndarray, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Of another generator's images: the share found, and the AUROC against photographs.

    Args:
        prob_fake: (N,) P(REAL) of generated images.
        prob_real: (M,) P(REAL) of photographs; the AUROC is None where there are none.
    """
    labels = np.repeat([0, 1], [len(prob_fake), len(prob_real)])
    both = figures(np.concatenate([prob_fake, prob_real]), labels, threshold)
    kept = ("recall_fake", "recall_fake_interval", "auroc")
    return {"images": len(prob_fake), "photographs": len(prob_real), **{name: both[name] for name in kept}}


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
