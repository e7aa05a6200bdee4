"""/v1/model: what is true of the model, whichever way its probabilities and its threshold came about."""

import json
import shutil
from pathlib import Path

import pytest
from made import write_model

from lightning_cifake import Detector
from lightning_cifake.data.cifake_pixels import cifake_pixels
from lightning_cifake.evaluation import calibration
from lightning_cifake.serve import description
from lightning_cifake.serve.description import as_html, calibration_of, card_of, describe, trained_on, zone_of
from lightning_cifake.serve.settings import Settings
from lightning_cifake.shipped import CARD, MODELS, models_folder, released_model

RECORD = {"method": "isotonic", "images": 2000, "data": "mine", "rule": "recall=0.95", "after": {"ece": 0.03}}
FITTED = {"method": "temperature", "images": None, "data": None, "rule": None, "error": None}


@pytest.mark.parametrize("name", MODELS)
def test_every_released_model_has_its_card_its_calibration_and_what_it_was_trained_on(name: str) -> None:
    found = describe(Detector(name), Settings(name))
    assert found["card"].startswith("<h1>") and found["sha256"] in found["card"] and "library_name" not in found["card"]
    assert found["calibration"] == FITTED and "Stable Diffusion 1.4" in found["trained_on"] and found["version"]


def test_a_card_of_several_models_is_of_those_that_it_names_alone(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text((models_folder() / CARD).read_text())
    changed = write_model(tmp_path / released_model().name)
    assert card_of(Detector(changed)) is None
    assert describe(Detector(changed), Settings(changed))["card"] is None
    changed.with_suffix(".md").write_text("# Its own")
    assert card_of(Detector(changed)) == "# Its own"
    same = tmp_path / "renamed.onnx"
    shutil.copy(released_model(), same)
    assert "compact" in (card_of(Detector(same)) or "")


def test_a_card_is_text_whatever_it_holds() -> None:
    html = as_html("---\ntitle: x\n---\n# A <script>alert(1)</script>\n\n| a |\n| --- |\n| <img src=x onerror=y> |\n")
    assert "<script" not in html and "<img" not in html and "title" not in html
    assert "<h1>A &lt;script&gt;" in html and "<td>&lt;img" in html


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, None),
        ({"temperature": "2.0"}, None),  # perhaps typed
        ({"temperature": "2.0", "temperature_fitted": "true"}, FITTED),
        ({"temperature": "2.0", "temperature_fitted": "false"}, None),
        ({"calibrated": json.dumps({**RECORD, "knots": []})},
         {"method": "isotonic", "images": 2000, "data": "mine", "rule": "recall=0.95", "error": 0.03}),
        ({"calibrated": json.dumps({**RECORD, "method": "keep"})},
         {"method": "keep", "images": 2000, "data": "mine", "rule": "recall=0.95", "error": 0.03}),
        ({"calibrated": json.dumps({**RECORD, "method": "magic"})}, None),
        ({"calibrated": json.dumps({**RECORD, "after": {"ece": float("nan")}})}, None),
        ({"calibrated": json.dumps({**RECORD, "data": "a\x1b[2J" * 1000})},
         {"method": "isotonic", "images": 2000, "rule": "recall=0.95", "error": 0.03}),
        ({"calibrated": "[[["}, None),
        ({"calibrated": "[]"}, None),
    ],
)  # fmt: skip
def test_what_is_said_of_its_probabilities_is_what_the_model_says(metadata, expected, tmp_path: Path) -> None:
    found = calibration_of(Detector(write_model(tmp_path / "a.onnx", metadata)))
    if expected is None:
        assert found is None
    else:
        assert {name: found[name] for name in expected} == expected
        assert "\x1b" not in str(found["data"]) and len(str(found["data"])) < 200


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.02, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_the_zone_of_doubt_is_around_the_threshold_and_leaves_both_verdicts_room(threshold: float) -> None:
    low, high = zone_of(threshold)
    assert low <= threshold <= high
    assert (low > 0 and high < 1) or threshold in (0, 1)
    if threshold in (0, 1):
        assert low == high == threshold
    else:  # the odds, by definition
        assert [p / (1 - p) / (threshold / (1 - threshold)) for p in (low, high)] == pytest.approx([1 / 4, 4], rel=1e-3)
    assert zone_of(0.5) == (0.2, 0.8)


def test_what_it_was_trained_on_is_said_as_far_as_its_manifest_does() -> None:
    assert (
        trained_on({}) is None and trained_on({"model": 3}) is None and trained_on({"model": {"training": {}}}) is None
    )
    assert trained_on({"model": {"training": {"data": "mine.zip", "data_digest": "0"}}}) == "the pictures of mine.zip"


def test_the_names_that_it_repeats_are_those_of_the_modules_that_torch_and_scipy_belong_to() -> None:
    assert (description.CALIBRATED, set(description.METHODS)) == (calibration.KEY, set(calibration.METHODS))
    assert cifake_pixels().data_digest == description.CIFAKE
