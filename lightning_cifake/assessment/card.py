"""A model card in the form of the Hugging Face Hub, made of the metrics.json of an evaluation."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from lightning_cifake.assessment.page_values import FORMS, Values, is_defined, percent
from lightning_cifake.assessment.page_words import FIGURES, Words, perturbation
from lightning_cifake.assessment.rendering import environment
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.text import code_span, markdown, printable

EVALUATION = "evaluation"
HUB_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("roc_auc", "auroc", "AUROC"),
    ("precision", "precision_real", "Precision of REAL"),
    ("recall", "recall_real", "Recall of REAL"),
    ("precision", "precision_fake", "Precision of AI"),
    ("recall", "recall_fake", "Recall of AI"),
)
"""The Hub's name of a metric, ours, and what it is called: the Hub's do not say which class they are about."""


def card_of(metrics: Mapping[str, Any], model: str | None = None) -> str:
    """The card as Markdown behind YAML front matter, whose ``model-index`` the Hub reads.

    What nobody but its maker knows (licence, intended use, training data) is left to be written, and says so.

    Args:
        metrics: of ``evaluate``.
        model: the name of one of its models; needed where there are several.

    Raises:
        UserError: not an evaluation's; no such model; jinja2 is not installed.
    """
    if metrics.get("kind") != EVALUATION:
        raise UserError("a model card is made of an evaluation: expected the metrics.json of evaluate, got a run's")
    at = _place_of(metrics, model)
    require("train", "jinja2", what="a model card")
    templates = environment(escaped=False)
    values = Values(metrics)
    words = Words(values)
    return templates.get_template("card.md.j2").render(
        front=yaml.safe_dump(front_matter(metrics, at), sort_keys=False, allow_unicode=True, width=120),
        m=metrics["models"][at],
        data=metrics["data"],
        at=at,
        rows=_figure_rows(metrics["models"][at]),
        robustness=[(perturbation(row), row) for row in values.get("models", at, "robustness", "rows") or []],
        weaknesses=[markdown(each.striptags()) for each in words.weaknesses(at)],
        limits=[markdown(each.striptags()) for each in words.limits()],
        percent=lambda share: percent(share) if is_defined(share) else "undefined",
        count=FORMS["count"],
        text=markdown,
        code=code_span,
        command=printable(shlex.join(map(str, metrics.get("command") or []))),
    )


def front_matter(metrics: Mapping[str, Any], at: int) -> dict[str, Any]:
    """What the Hub reads of a card, of the model at a place."""
    model, data = metrics["models"][at], metrics["data"]
    figures = model["all"]["figures"]
    found = [
        {"type": kind, "value": figures[key]["value"], "name": name}
        for kind, key, name in HUB_METRICS
        if is_defined(figures[key]["value"])
    ]
    is_onnx = str(model.get("file", "")).endswith(".onnx")
    return {
        "library_name": "onnx" if is_onnx else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["ai-generated-image-detection", *([str(model["precision"])] if model.get("precision") else [])],
        "metrics": list(dict.fromkeys(metric["type"] for metric in found)),
        "model-index": [
            {
                "name": printable(model["name"]),
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "AI-generated or photograph"},
                        "dataset": {
                            "type": "imagefolder",
                            "name": printable(data["name"]),
                            **({"split": printable(data["part"])} if data.get("part") else {}),
                        },
                        "metrics": found,
                    }
                ],
            }
        ],
    }


def _place_of(metrics: Mapping[str, Any], model: str | None) -> int:
    names = [each["name"] for each in metrics["models"]]
    if model is None and len(names) == 1:
        return 0
    if model not in names:
        listed = printable(", ".join(names))
        got = "none named" if model is None else f"got {printable(model)}"
        raise UserError(f"a model card is of one model: expected one of {listed}, {got}")
    return names.index(model)


def _figure_rows(model: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Each figure's name, and its text for all images and, where that is known, for those without a duplicate."""
    parts = [model["all"], *([model["unseen"]] if model.get("unseen") else [])]
    return [(title, [_cell(part["figures"].get(key), form) for part in parts]) for key, title, _, form in FIGURES]


def _cell(figure: Mapping[str, Any] | None, form: str) -> str:
    if figure is None or not is_defined(figure["value"]):
        return "undefined"
    text = FORMS[form](figure["value"])
    if not figure.get("interval"):
        return text
    low, high = (FORMS[form](bound) for bound in figure["interval"])
    return f"{text} ({low} to {high})"
