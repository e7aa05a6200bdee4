"""A model card: the Hub reads its front matter, and every figure is the evaluation's."""

import importlib.util
import re
from typing import Any

import pytest
import yaml

from lightning_cifake.assessment.card import HUB_METRICS, card_of
from lightning_cifake.assessment.page_words import FIGURES
from lightning_cifake.errors import UserError
from tests.assessment.made_evaluation import made_metrics

SECOND = "resnet<50>"


@pytest.fixture(scope="module")
def card() -> str:
    return card_of(made_metrics(), SECOND)


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n", 2)[1])


def test_the_front_matter_holds_the_figures_themselves(card: str) -> None:
    (entry,) = front_matter(card)["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == SECOND and result["dataset"]["name"] == "my set.zip"
    figures = made_metrics()["models"][1]["all"]["figures"]
    assert [(each["type"], each["value"]) for each in result["metrics"]] == [
        (kind, figures[key]["value"]) for kind, key, _ in HUB_METRICS
    ]


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub")
def test_the_hubs_own_reader_takes_it(card: str) -> None:
    assert len(importlib.import_module("huggingface_hub").ModelCard(card).data.eval_results) == len(HUB_METRICS)


def test_each_figure_of_the_table_is_the_evaluations(card: str) -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", card, re.MULTILINE))
    for key, title, _, form in FIGURES:
        for part, cell in zip(("all", "unseen"), rows[title].split(" | "), strict=True):
            figure = made_metrics()["models"][1][part]["figures"][key]
            wanted = [value for value in (figure["value"], *(figure["interval"] or [])) if value is not None]
            found = [float(number) for number in re.findall(r"\d+\.\d+", cell)]
            scale = 100 if form == "percent" else 1
            assert found == pytest.approx([scale * value for value in wanted], abs=0.006 if scale == 100 else 6e-5), (
                title
            )
            assert wanted or cell == "undefined"


def test_foreign_names_are_no_markup_and_limits_and_command_are_there(card: str) -> None:
    assert "# resnet\\<50\\>" in card and "<b" not in card and "data-key" not in card
    assert "Nobody should be accused" in card and "evaluate compact 'resnet<50>' --data.root 'my set.zip'" in card


def test_a_card_is_of_one_model_of_an_evaluation() -> None:
    with pytest.raises(UserError, match=r"expected one of compact, resnet<50>, none named"):
        card_of(made_metrics())
    with pytest.raises(UserError, match=r"expected one of compact, resnet<50>, got compcat"):
        card_of(made_metrics(), "compcat")
    with pytest.raises(UserError, match=r"made of an evaluation"):
        card_of({"accuracy": 0.9})
