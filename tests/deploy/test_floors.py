"""Continuous evaluation: a released model that has become worse fails the build where CIFAKE is at hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.data.sources import Source, open_source
from lightning_cifake.files import read_json, sha256_of
from lightning_cifake.shipped import MODELS, released_model
from tests.deploy import floors

RECORDED, _ = read_json(floors.FLOORS)


LARGE = (
    "best",
    "robust",
)  # seconds for a hundred images: here `verify` alone asks them, their floors are `make evaluate`'s


@pytest.fixture(scope="module")
def cifake(cifake_root: Path) -> Source:
    return open_source(cifake_root)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LARGE)) for name in MODELS])
def test_a_released_model_holds_its_floor_on_cifakes_own_files(name: str, cifake: Source) -> None:
    model = released_model(name)
    assert floors.violation(model, cifake, RECORDED[model.name]) is None


@pytest.mark.parametrize("name", MODELS)
def test_a_floor_is_of_this_very_file_and_not_far_below_its_manifest(name: str) -> None:
    model = released_model(name)
    floor, manifest = RECORDED[model.name], json.loads(model.with_suffix(".json").read_text())
    assert floor["model_sha256"] == sha256_of(model) and floor["floor"] == round(floor["accuracy"] - floors.MARGIN, 6)
    accuracy = manifest["real"]["onnxruntime"]["accuracy"]
    error = (accuracy * (1 - accuracy) / floor["images"]) ** 0.5
    assert abs(floor["accuracy"] - accuracy) < 3 * error and floor["images"] >= floors.LEAST


def test_there_is_no_floor_without_a_model() -> None:
    assert set(RECORDED) == {model.file for model in MODELS.values()}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Twenty test images a class: bright ones REAL, dark ones FAKE."""
    rng = np.random.default_rng(0)
    for label, low in (("REAL", 150), ("FAKE", 0)):
        folder = tmp_path / "made" / "test" / label
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(low, low + 100, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04}.png")
    return open_source(tmp_path / "made")


def test_a_model_that_has_become_worse_is_found_out(source: Source, make_model: Callable[..., Path]) -> None:
    good, bad = make_model("good.onnx"), make_model("bad.onnx", gain=-8.0)
    floor = floors.measure(good, source, 30)
    assert (floor["accuracy"], floor["images"]) == (1.0, 30)
    assert floors.violation(good, source, floor) is None
    assert floors.violation(bad, source, floor) == "bad.onnx: 0.00% of 30 images, floor 99.70%"
    assert "bad" in str(floors.violation(make_model("bad.onnx", {"decision_threshold": "0.9999"}), source, floor))


def test_other_images_than_those_of_the_floor_are_said_to_be_others(
    source: Source, make_model: Callable[..., Path]
) -> None:
    floor = floors.measure(make_model(), source, 30)
    chosen = floors.sample(source, 30).entries[0]
    Image.new("RGB", (32, 32), "black").save(source.root / chosen.path)
    assert floors.violation(make_model(), source, floor) == "made has not the 30 images that the floor was measured on"


def test_a_smaller_sample_is_a_part_of_a_larger_one_with_as_many_of_each_class(source: Source) -> None:
    small, large = (floors.sample(source, count).entries for count in (10, 30))
    assert set(small) < set(large)
    assert [sum(entry.label for entry in entries) for entries in (small, large)] == [5, 15]
