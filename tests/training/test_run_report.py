"""What a test prints under the classification report."""

from typing import Any

import pytest

from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.training.run_report import _summary

FIGURES = {
    **binary_metrics([0.9, 0.8, 0.6, 0.2], [1, 1, 0, 1]),
    "positive_class": "REAL",
    "class_counts": {"AI": 1, "REAL": 3},
}


def test_the_summary_says_which_class_precision_recall_and_f1_are_of() -> None:
    assert _summary(FIGURES, part=4) == [
        "accuracy 50.00%, AUROC 0.6667, 4 images (1 AI, 3 REAL)",
        "REAL, the positive class: precision 66.67%, recall 66.67%, F1 66.67%",
    ]


@pytest.mark.parametrize(
    ("more", "part", "line"),
    [
        ({}, 10, "measured on 4 of the 10 images of this part"),
        (
            {"seen_in_training": {"images": 3, "accuracy_without": 1.0}},
            4,
            "3 of them were trained on, themselves or as a twin; accuracy without these: 100.00%",
        ),
        (
            {"seen_in_training": {"images": 4, "accuracy_without": None}},
            4,
            "4 of them were trained on, themselves or as a twin; accuracy without these: undefined, none is left",
        ),
        (
            {"seen_in_training": {"images": 0, "unknown_sources": ["a.keras"]}},
            4,
            "what a.keras was trained on is not known, and not counted",
        ),
    ],
)
def test_the_summary_says_what_lessens_its_figures(more: dict[str, Any], part: int, line: str) -> None:
    assert _summary({**FIGURES, **more}, part)[2:] == [line]
