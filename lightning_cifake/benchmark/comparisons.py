"""Which engines are held against which, and on what terms: like with like, or a recipe against what was published."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lightning_cifake.benchmark.engines import ENGINES


class Comparison(NamedTuple):
    """``kind`` is the record's table of ratios."""

    ours: str
    theirs: str
    kind: Literal["training", "answering_32"] = "training"

    @property
    def doing(self) -> str:
        return "training" if self.kind == "training" else "inference, 32 images at once"


COMPARISONS = (
    Comparison("lightning", "tf"),
    Comparison("lightning", "tf-tuned-small"),
    Comparison("lightning-large", "tf-tuned"),
    Comparison("lightning-tuned", "tf-tuned"),
    Comparison("lightning", "torch"),
    Comparison("lightning", "tf-tuned"),
    Comparison("lightning-tuned", "tf"),
    Comparison("lightning", "tf", "answering_32"),
    Comparison("lightning", "tf-tuned", "answering_32"),
    Comparison("onnxruntime", "tf", "answering_32"),
    Comparison("onnxruntime", "tf-tuned", "answering_32"),
    Comparison("onnxruntime-int8", "tf", "answering_32"),
    Comparison("onnxruntime-int8", "tf-tuned", "answering_32"),
)


def ratio_of(record: Mapping[str, Any], comparison: Comparison) -> dict[str, Any] | None:
    """:func:`figures.spread` of a record's ratios; None where one of the two was not measured."""
    return record["ratios"][comparison.kind].get(comparison.ours, {}).get(comparison.theirs)


def terms(record: Mapping[str, Any], comparison: Comparison) -> str:
    """``yes`` where both engines have the same batch size and precision; else what differs, ours first."""
    settings = record["settings"]
    names = (comparison.ours, comparison.theirs)
    differences = []
    if comparison.kind == "training":
        ours, theirs = (settings["batch_sizes"][name] for name in names)
        if ours != theirs:
            differences.append(f"batches of {ours} against {theirs}")
    else:
        first, second = (_called(ENGINES[name].answers_in(settings["precision"])) for name in names)
        if first != second:
            differences.append(f"{first} against {second}")
    return f"no: {', '.join(differences)}" if differences else "yes"


def _called(precision: str) -> str:
    return "float32" if precision == "32-true" else precision
