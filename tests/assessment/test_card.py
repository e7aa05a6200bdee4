"""A model card: the Hub reads its front matter, and every figure is the evaluation's."""

import importlib.util
import re
from typing import Any

import pytest
import yaml

from lightning_cifake.assessment.card import HUB_METRICS, card_of, make_card, subjects_of
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
    tables = dict(
        zip(
            ("all", "unseen"),
            re.findall(r"^\| (?:figure|without them) .*\n(?:\|.*\n)+", card, re.MULTILINE),
            strict=True,
        )
    )
    rows = {part: dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", table, re.MULTILINE)) for part, table in tables.items()}
    for key, title, _, form in FIGURES:
        for part in ("all", "unseen"):
            cell = rows[part][title]
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


def manifest(name: str, digest: str, **real: Any) -> dict[str, Any]:
    matrix = [[90, 10], [20, 80]]
    real = {"images": 200, "data_digest": "d", "flipped_decisions": 3, **real}
    real["onnxruntime"] = {"accuracy": 0.85, "auroc": 0.97, "confusion_matrix": matrix}
    return {"real": real, "model": {"file": f"{name}.onnx", "sha256": digest, "bytes": 2_000_000, "precision": "int8"}}


def test_several_models_stand_side_by_side_with_what_a_person_wrote() -> None:
    metrics = made_metrics()
    data = {**metrics["data"], "digest": "d", "images": 200}
    one, two = ({**metrics, "data": data, "models": [model]} for model in metrics["models"])
    manifests = [manifest("mine", "m"), manifest("other", "s", images=7)]
    text = "---\nlicense: mit\ntags: [mine]\ndatasets: [me/set]\n---\n\n# Mine<!-- a note -->\n\n"
    text += "<!-- evaluation -->\n\n## Licence\n"
    card = make_card(subjects_of([one, two], manifests), text)
    front = front_matter(card)
    assert front["license"] == "mit" and front["tags"][0] == "mine"
    assert [entry["name"] for entry in front["model-index"]] == ["mine", "other", "compact", SECOND]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "me/set"
    assert card.index("# Mine\n") < card.index("## Evaluation") < card.index("## The files") < card.index("## Licence")
    assert "| figure | `mine` | `compact` | `resnet<50>` |" in card  # the other's are of other images
    accuracy = next(line for line in card.splitlines() if line.startswith("| Accuracy |"))
    assert (
        accuracy.split(" | ")[1].replace("\N{NO-BREAK SPACE}", " ") == "85.00 % (79.39 to 89.29 %)"
    )  # Wilson, 170 of 200
    assert (
        "| AI images called AI / REAL | 90 / 10 |" in card
        and "| `other` | `other.onnx` | 2.0 MB | int8 | 3 | `s` |" in card
    )


def test_a_limit_of_some_of_the_models_names_them() -> None:
    first = made_metrics()
    changed = next(model for model in first["models"] if model.get("robustness"))
    second = {**first, "models": [{**changed, "name": "other", "sha256": "b" * 64, "robustness": None}]}
    card = make_card(subjects_of([first], model=changed["name"]) + subjects_of([second]))
    (line,) = (line for line in card.splitlines() if "was not measured" in line)
    assert line.startswith("- `other`: How answers change when images are saved again")


def test_a_card_s_figures_are_of_the_same_images() -> None:
    metrics = made_metrics()
    other = {**metrics, "data": {**metrics["data"], "images": 7}}
    with pytest.raises(UserError, match="expected evaluations on the same images"):
        subjects_of([metrics, other], model="compact")
    with pytest.raises(UserError, match=r"expected the manifest of an exported model, X\.json beside X\.onnx"):
        subjects_of([metrics], [{"model": {}}], "compact")
    with pytest.raises(UserError, match=r"made of an evaluation: expected the metrics\.json of evaluate, got none"):
        make_card(subjects_of([], [manifest("mine", "m")]))
    with pytest.raises(UserError, match="expected names and values between its first lines"):
        make_card(subjects_of([metrics], model="compact"), "---\n- a\n---\n")
