"""Probabilities and labels -> the figures of an evaluation, as numbers and as the paper's classification report."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_confusion_matrix

from lightning_cifake.classes import DISPLAY_NAMES

THRESHOLD = 0.5
TORCHMETRICS_DECIMALS = 7  # it computes areas in float32, which carries no more


def binary_metrics(
    prob_real: Tensor | ArrayLike, labels: Tensor | ArrayLike, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """The figures of one evaluation; REAL is the positive class, as in the paper's Precision and Recall of Keras.

    So ``precision`` is the share of REAL among what is called REAL, ``recall`` the share of REAL that is found, ``f1``
    their harmonic mean; the classification report has AI's too.

    An image is called REAL where its float32 probability is strictly above the threshold, as Keras' BinaryAccuracy and
    torchmetrics decide: exactly 0.5 is FAKE.

    Args:
        prob_real: (N,) P(REAL) in [0, 1], compared as float32.
        labels: (N,) FAKE = 0, REAL = 1.
        threshold: in [0, 1].

    Returns:
        Plain Python values: ``accuracy``, ``precision``, ``recall``, ``f1`` (0 where their denominator is),
        ``auroc`` and ``average_precision`` of P(REAL) (None where the labels hold one class: undefined),
        ``confusion_matrix`` [[FAKE->FAKE, FAKE->REAL], [REAL->FAKE, REAL->REAL]], ``threshold``, ``images`` (N).

    Raises:
        ValueError: no images, shapes that differ or are not (N,), a probability or threshold that is NaN or outside
            [0, 1], a label other than 0 and 1.
    """
    prob, target = checked(prob_real, labels, threshold)
    matrix = binary_confusion_matrix(prob, target, threshold=float(threshold)).tolist()
    (_, false_real), (missed_real, true_real) = matrix
    images = len(target)
    both_classes = 0 < int(target.sum()) < images
    return {
        # from the counts: torchmetrics' own ratios are float32, 0.93 would be written as 0.9300000071525574
        "accuracy": (images - false_real - missed_real) / images,
        "precision": _ratio(true_real, true_real + false_real),
        "recall": _ratio(true_real, true_real + missed_real),
        "f1": _ratio(2 * true_real, 2 * true_real + false_real + missed_real),
        "auroc": _rounded(binary_auroc(prob, target)) if both_classes else None,
        "average_precision": _rounded(binary_average_precision(prob, target)) if both_classes else None,
        "confusion_matrix": matrix,
        "threshold": float(threshold),
        "images": images,
    }


def classification_report_text(
    prob_real: Tensor | ArrayLike, labels: Tensor | ArrayLike, threshold: float = THRESHOLD
) -> str:
    """scikit-learn's classification report with the rows AI and REAL, as in the paper's section 10.10.

    Arguments and errors as :func:`binary_metrics`.
    """
    from sklearn.metrics import classification_report  # a second to import; training needs only binary_metrics

    prob, target = checked(prob_real, labels, threshold)
    called_real = (prob > threshold).long()
    return classification_report(
        target.numpy(), called_real.numpy(), labels=[0, 1], target_names=list(DISPLAY_NAMES), zero_division=0
    )


def checked(
    prob_real: Tensor | ArrayLike, labels: Tensor | ArrayLike, threshold: float = THRESHOLD
) -> tuple[Tensor, Tensor]:
    """(N,) float32 probabilities and (N,) int64 labels on the CPU; errors as :func:`binary_metrics`.

    Not left to torchmetrics: it takes a batch that leaves [0, 1] for logits.
    """
    prob, target = _on_cpu(prob_real).float(), _on_cpu(labels)
    if prob.ndim != 1 or prob.shape != target.shape:
        raise ValueError(
            f"expected prob_real and labels of shape (N,), got {tuple(prob.shape)} and {tuple(target.shape)}"
        )
    if not len(prob):
        raise ValueError("expected at least one image, got none")
    wrong = ~((prob >= 0) & (prob <= 1))  # NaN fails both comparisons
    if wrong.any():
        raise ValueError(
            f"expected probabilities in [0, 1], got {int(wrong.sum())} that are not, the first {prob[wrong][0].item()}"
        )
    other = (target != 0) & (target != 1)
    if other.any():
        raise ValueError(f"expected labels 0 (FAKE) and 1 (REAL), got {target[other][0].item()}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold}")
    return prob, target.long()


def _on_cpu(values: Tensor | ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    return torch.from_numpy(np.array(values))  # a copy: torch warns about sharing a read-only array


def _ratio(count: int, whole: int) -> float:
    return count / whole if whole else 0.0


def _rounded(value: Tensor) -> float:
    return round(value.item(), TORCHMETRICS_DECIMALS)
