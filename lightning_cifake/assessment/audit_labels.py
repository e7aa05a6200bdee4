"""Likely label errors: images that a classifier which has not seen them is sure belong to the other class.

The classifier is cheap, a regression on descriptors of texture, noise and colour, or a given model. cleanlab says which
of its answers speak against a label (confident learning; Northcutt, Jiang and Chuang, JAIR 70, 2021). How much that
says depends on the classifier: where those images do not stand apart from the ones that it is merely unsure of, most of
them are hard, not wrong.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.assessment.audit_near import Tick
from lightning_cifake.assessment.audit_shortcuts import CHANCE, FEWEST, TOLD, folds_of, sample_of
from lightning_cifake.evaluation.intervals import auroc_interval

CLASSIFIER = "a logistic regression on descriptors of wavelets, spectrum, colour and noise, out of fold"
DESCRIPTORS = ("wavelet", "spectrum", "colour", "noise")
SURE, UNSURE = 0.25, 0.5  # of the probability of the label an image has
APART = 2.0  # times as many below SURE as between SURE and UNSURE: they are a group of their own
_CHUNK = 1024  # images whose descriptors are held at once

Ask = Callable[[np.ndarray], np.ndarray]
"""(n, S, S, 3) uint8 -> (n,) P(REAL)."""


class LabelFindings(NamedTuple):
    """What speaks against labels.

    Attributes:
        suspects: (n,) int64 places, the most suspicious first.
        prob_real: (N,) float64, of every image.
        classifier: what gave it, in words.
        out_of_fold: whether no image was answered by what was fitted on it.
        auroc: of the probabilities and the labels, and its interval.
        apart: whether the suspects stand apart from what the classifier is merely unsure of.
    """

    suspects: np.ndarray
    prob_real: np.ndarray
    classifier: str
    out_of_fold: bool
    auroc: float
    interval: tuple[float, float]
    apart: bool


def label_errors(prob_real: np.ndarray, labels: np.ndarray, classifier: str, out_of_fold: bool) -> LabelFindings:
    """What cleanlab finds in a classifier's answers; nothing where the classifier knows next to nothing.

    Args:
        prob_real: (N,) in [0, 1].
        labels: (N,) FAKE = 0, REAL = 1, each at least :data:`~.audit_shortcuts.FEWEST` times.
        classifier, out_of_fold: as in :class:`LabelFindings`.
    """
    from cleanlab.filter import find_label_issues

    auroc, interval = auroc_interval(prob_real, labels)
    suspects = np.empty(0, np.int64)
    if interval[0] >= TOLD:
        answers = np.stack([1 - prob_real, prob_real], 1)
        suspects = np.asarray(
            find_label_issues(
                labels.astype(np.int64), answers, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
            ),
            np.int64,
        )
    of_label = np.where(labels == 1, prob_real, 1 - prob_real)
    sure, unsure = int((of_label < SURE).sum()), int(((of_label >= SURE) & (of_label < UNSURE)).sum())
    # by more than chance makes of so few: a count is off by its root
    apart = bool(len(suspects)) and sure - APART * unsure > 2 * sure**0.5
    return LabelFindings(suspects, prob_real, classifier, out_of_fold, auroc, interval, apart)


def enough(labels: np.ndarray) -> bool:
    """Whether there are images enough of each class to say anything."""
    return min(int((labels == 0).sum()), int((labels == 1).sum())) >= FEWEST


def out_of_fold_probabilities(
    images: np.ndarray, labels: np.ndarray, groups: np.ndarray, tick: Tick = lambda done: None
) -> np.ndarray:
    """(N,) P(REAL) of every image, from a regression that was fitted without it and without its group.

    Fitted on some :data:`~.audit_shortcuts.MOST_IMAGES`; the memory it takes does not grow with the number of images.

    Args:
        images: (N, S, S, 3) uint8, S from 16 on, or a memory map.
        labels: (N,) FAKE = 0, REAL = 1.
        groups: (N,) int64, the same for equal images.
        tick: called with the number of images whose descriptors were computed.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = folds_of(labels, groups)
    chosen = sample_of(labels)
    learnt = np.concatenate([values for _, values in _described(images, chosen, tick)])
    models = {}
    for number in np.unique(fold):
        others = fold[chosen] != number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        models[number] = model.fit(learnt[others], labels[chosen][others])
    del learnt
    found = np.empty(len(labels))
    for places, values in _described(images, np.arange(len(labels)), tick):
        for number, model in models.items():
            own = fold[places] == number
            if own.any():
                found[places[own]] = model.predict_proba(values[own])[:, 1]
    return found


def _described(images: np.ndarray, places: np.ndarray, tick: Tick) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places and their descriptors, (n, D) float32, a chunk at a time."""
    import torch

    from lightning_cifake.networks import descriptors

    modules = [descriptors.DESCRIPTORS[name](images.shape[1]) for name in DESCRIPTORS]
    for at in range(0, len(places), _CHUNK):
        here = places[at : at + _CHUNK]
        levels = torch.from_numpy(images[here]).permute(0, 3, 1, 2).double()
        with torch.inference_mode():
            yield here, torch.cat([module(levels) for module in modules], 1).float().numpy()
        tick(len(here))


def describe(found: LabelFindings, paths: list[str], labels: np.ndarray, listed: int) -> dict[str, Any]:
    """For audit.json: the suspects, the most suspicious ``listed`` by name."""
    from lightning_cifake.classes import CLASS_NAMES

    of_label = np.where(labels == 1, found.prob_real, 1 - found.prob_real)
    right = int(((found.prob_real > 0.5) == labels).sum())
    return {
        "classifier": found.classifier,
        "out_of_fold": found.out_of_fold,
        "auroc": {"value": round(found.auroc, 4), "interval": [round(each, 4) for each in found.interval]},
        "accuracy": round(right / len(labels), 4),
        "verdict": CHANCE if found.interval[0] < TOLD else "stand apart" if found.apart else "hard images",
        "count": len(found.suspects),
        "images": [
            {
                "name": paths[place],
                "label": CLASS_NAMES[int(labels[place])],
                "prob_of_label": round(float(of_label[place]), 4),
            }
            for place in found.suspects[:listed]
        ],
    }
