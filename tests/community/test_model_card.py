"""MODEL_CARD.md: the Hub can read its front matter, and every figure in it is the recorded one."""

import hashlib
import importlib.util
import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_cifake.shipped import released_model

ROOT = Path(__file__).resolve().parents[2]
MODEL = released_model()
CARD = (ROOT / "MODEL_CARD.md").read_text()
_, FRONT, TEXT = CARD.split("---\n", 2)
META: dict[str, Any] = yaml.safe_load(FRONT)
RECORD: dict[str, Any] = json.loads(MODEL.with_suffix(".json").read_text())
RUN: dict[str, Any] = json.loads((ROOT / "docs/results/official-halving/metrics.json").read_text())
# rows: AI, REAL; columns: called AI, called REAL
INT8, FLOAT32 = (RECORD["real"][engine]["confusion_matrix"] for engine in ("onnxruntime", "lightning"))


def rounded(value: Decimal, places: int) -> str:
    return str(value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def percent(part: int, whole: int, places: int = 2) -> str:
    return rounded(Decimal(100 * part) / Decimal(whole), places) + " %"


def shares(matrix: list[list[int]]) -> dict[str, tuple[int, int]]:
    """What a metric of the card is a fraction of."""
    (ai_ai, ai_real), (real_ai, real_real) = matrix
    return {
        "accuracy": (ai_ai + real_real, sum(map(sum, matrix))),
        "precision of REAL": (real_real, ai_real + real_real),
        "recall of REAL": (real_real, real_ai + real_real),
        "precision of AI": (ai_ai, ai_ai + real_ai),
        "recall of AI": (ai_ai, ai_ai + ai_real),
    }


def row(name: str) -> list[str]:
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.+) \| (.+) \|$", TEXT, re.MULTILINE)
    return list(found)


def test_the_front_matter_has_what_the_hub_asks_for() -> None:
    assert META["license"] == "mit" and META["library_name"] == "onnx"
    assert META["pipeline_tag"] == "image-classification"
    assert META["tags"] and all(re.fullmatch(r"[\w./-]+/[\w.-]+", name) for name in META["datasets"])
    (entry,) = META["model-index"]
    assert entry["name"] == MODEL.stem
    (result,) = entry["results"]
    assert set(result) == {"task", "dataset", "metrics"} and result["task"]["type"] == META["pipeline_tag"]
    assert result["dataset"]["type"] in META["datasets"] and result["dataset"]["split"] == "test"
    assert {metric["type"] for metric in result["metrics"]} == set(META["metrics"])


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub")
def test_the_hubs_own_reader_takes_the_front_matter() -> None:
    card = importlib.import_module("huggingface_hub").ModelCard.load(ROOT / "MODEL_CARD.md")
    assert card.data.model_name == MODEL.stem and len(card.data.eval_results) == 6


def test_each_metric_of_the_front_matter_is_the_recorded_one_and_names_its_class() -> None:
    metrics = META["model-index"][0]["results"][0]["metrics"]
    by_name = {metric["name"]: metric["value"] for metric in metrics}
    recorded = RECORD["real"]["onnxruntime"]
    assert by_name.pop("Accuracy at threshold 0.5") == recorded["accuracy"]
    assert RECORD["model"]["decision_threshold"] == 0.5
    assert by_name.pop("AUROC") == recorded["auroc"]
    known = {name.capitalize(): part for name, part in shares(INT8).items()}
    known = {name.replace("real", "REAL").replace("ai", "AI"): part for name, part in known.items()}
    assert set(by_name) == {f"{what} of {name}" for what in ("Precision", "Recall") for name in ("REAL", "AI")}
    for name, value in by_name.items():
        assert str(value) == rounded(Decimal(known[name][0]) / Decimal(known[name][1]), 4), name


def test_the_table_is_the_recorded_one() -> None:
    columns = [(FLOAT32, RECORD["real"]["lightning"]["auroc"]), (INT8, RECORD["real"]["onnxruntime"]["auroc"])]
    both = [shares(matrix) for matrix, _ in columns]
    assert row("accuracy") == [percent(*each["accuracy"]) for each in both]
    assert row("AUROC") == [rounded(Decimal(str(auroc)), 4) for _, auroc in columns]
    assert row("AI images called AI / REAL") == [f"{m[0][0]:,} / {m[0][1]:,}" for m, _ in columns]
    assert row("photographs called AI / REAL") == [f"{m[1][0]:,} / {m[1][1]:,}" for m, _ in columns]
    for name in ("REAL", "AI"):
        assert row(f"precision and recall of {name}") == [
            ", ".join(percent(*each[f"{what} of {name}"], 1) for what in ("precision", "recall")) for each in both
        ]
    assert RUN["confusion_matrix"] == FLOAT32


def test_each_figure_in_the_prose_is_the_recorded_one() -> None:
    prose = " ".join(TEXT.split())
    twins, training = RUN["seen_in_training"], RECORD["model"]["training"]
    without = rounded(Decimal(str(100 * twins["accuracy_without"])), 2)
    said = {
        f"one ONNX file of {rounded(Decimal(RECORD['model']['bytes']) / 10**6, 0)} MB": 1,
        f"calls {percent(INT8[1][0], sum(INT8[1]), 1)} of CIFAKE's photographs AI": 1,
        f"misses {percent(INT8[0][1], sum(INT8[0]), 1)} of its AI images": 1,
        f"took {training['split_sizes']['train']:,} images": 1,
        f"{training['split_sizes']['val']:,} validated": 1,
        f"test part of {training['split_sizes']['test']:,} was": 1,
        f"{twins['images']} of the {RUN['images']:,} test images have a byte-identical twin": 1,
        f"reaches {without} % instead of {percent(*shares(FLOAT32)['accuracy'])}": 1,
        f"halved each epoch, {training['epochs']} epochs, float32, seed {training['split_seed']}": 1,
        f"decides {RECORD['real']['flipped_decisions']} of the {RECORD['real']['images']:,} images otherwise": 1,
        f"{RECORD['model']['calibration_images']} training images calibrated": 1,
        f"SHA-256 `{hashlib.sha256(MODEL.read_bytes()).hexdigest()}`": 1,
    }
    assert {part: prose.count(part) for part in said} == said
    assert RUN["leak_audit"]["test_images_with_twin_in_train"] == twins["images"]
    assert RECORD["model"]["input"].startswith("images: uint8 RGB (N, H, W, 3)")


def test_int8_says_real_more_often_than_its_checkpoint_as_the_card_says() -> None:
    assert sum(row[1] for row in INT8) > sum(row[1] for row in FLOAT32)
    assert sum(row[1] for row in FLOAT32) < sum(map(sum, FLOAT32)) / 2  # "says too seldom"


def test_the_commands_that_made_it_are_those_of_checkpoints_readme() -> None:
    made = [line for line in TEXT.splitlines() if line.startswith("python -m lightning_cifake")]
    elsewhere = (ROOT / "checkpoints" / "README.md").read_text().splitlines()
    assert len(made) == 2 and set(made) <= set(elsewhere)
