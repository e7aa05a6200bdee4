"""MODEL_CARD.md: the Hub can read its front matter, and it is of the released files."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_cifake.shipped import MODELS, released_model

ROOT = Path(__file__).resolve().parents[2]
CARD = (ROOT / "checkpoints" / "MODEL_CARD.md").read_text()
_, FRONT, TEXT = CARD.split("---\n", 2)
META: dict[str, Any] = yaml.safe_load(FRONT)


def test_the_front_matter_has_what_the_hub_asks_for() -> None:
    assert META["license"] == "mit" and META["library_name"] == "onnx"
    assert META["pipeline_tag"] == "image-classification"
    assert META["tags"] and all(re.fullmatch(r"[\w./-]+/[\w.-]+", name) for name in META["datasets"])
    assert [entry["name"] for entry in META["model-index"]] == [Path(model.file).stem for model in MODELS.values()]
    for entry in META["model-index"]:
        (result,) = entry["results"]
        assert set(result) == {"task", "dataset", "metrics"} and result["task"]["type"] == META["pipeline_tag"]
        assert result["dataset"]["type"] in META["datasets"] and result["dataset"]["split"] == "test"
        assert {metric["type"] for metric in result["metrics"]} == set(META["metrics"])


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub")
def test_the_hubs_own_reader_takes_the_front_matter() -> None:
    card = importlib.import_module("huggingface_hub").ModelCard.load(ROOT / "checkpoints" / "MODEL_CARD.md")
    assert len(card.data.eval_results) == 6 * len(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_each_metric_of_the_front_matter_is_that_of_the_file_and_names_its_class(name: str) -> None:
    """Against the manifest's counts, whichever record the card took them of."""
    (entry,) = [each for each in META["model-index"] if each["name"] == released_model(name).stem]
    by_name = {metric["name"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    recorded = json.loads(released_model(name).with_suffix(".json").read_text())["real"]["onnxruntime"]
    # rows: AI, REAL; columns: called AI, called REAL
    (ai_ai, ai_real), (real_ai, real_real) = recorded["confusion_matrix"]
    assert by_name.pop("AUROC") == pytest.approx(recorded["auroc"], abs=1e-5)
    assert by_name == pytest.approx(
        {
            "Accuracy": recorded["accuracy"],
            "Precision of REAL": real_real / (ai_real + real_real),
            "Recall of REAL": real_real / (real_ai + real_real),
            "Precision of AI": ai_ai / (ai_ai + real_ai),
            "Recall of AI": ai_ai / (ai_ai + ai_real),
        },
        abs=1e-4,
    )


@pytest.mark.parametrize("name", MODELS)
def test_it_names_each_model_and_its_file(name: str) -> None:
    digest = hashlib.sha256(released_model(name).read_bytes()).hexdigest()
    for page in (TEXT, (ROOT / "checkpoints" / "README.md").read_text()):
        assert f"| `{name}` | `{MODELS[name].file}` |" in page and f"`{digest}`" in page


def test_the_commands_that_made_them_are_those_of_checkpoints_readme() -> None:
    about = (ROOT / "checkpoints" / "about.md").read_text()
    made = [line for line in about.splitlines() if line.startswith("python -m lightning_cifake")]
    elsewhere = (ROOT / "checkpoints" / "README.md").read_text().splitlines()
    assert len(made) >= 2 and set(made) <= set(elsewhere)
