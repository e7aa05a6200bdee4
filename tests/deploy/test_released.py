"""The model that lies in checkpoints/ is the one its manifest describes, and answers here as it did there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.sources import open_source
from lightning_cifake.deploy.reference_images import reference_images
from lightning_cifake.evaluation.metrics import binary_metrics

MODEL = Path(__file__).parents[2] / "checkpoints" / "cifake-int8.onnx"
MANIFEST = json.loads(MODEL.with_suffix(".json").read_text())
SAMPLE_ERROR = 0.006  # one standard error of an accuracy near .92 on 2,000 images


def test_it_is_verified_on_this_machine(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    assert main(["verify", str(MODEL)]) == 0
    assert "verified: " in capsys.readouterr().out


def test_it_says_where_it_comes_from() -> None:
    facts = Detector(MODEL).facts
    training = json.loads(facts.metadata["training"])
    assert training["protocol"] == "official" and facts.precision == "int8"
    assert training["data_digest"] == MANIFEST["real"]["data_digest"]
    assert MODEL.stat().st_size < 60 * 10**6


def test_it_tells_cifakes_own_files_apart_as_well_as_its_manifest_says() -> None:
    if not os.environ.get("CIFAKE_ROOT"):
        pytest.skip("needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
    source = open_source(Path(os.environ["CIFAKE_ROOT"]))
    entries = [entry for entry in source.entries if entry.part == "test"][::10]
    answers = Detector(MODEL).predict(source.read(entry.path) for entry in entries)
    labels = np.array([entry.label for entry in entries])
    right = np.mean([(answer.verdict == "REAL") == label for answer, label in zip(answers, labels, strict=True)])
    assert abs(right - MANIFEST["real"]["onnxruntime"]["accuracy"]) < 3 * SAMPLE_ERROR
    assert all(answer.error is None and answer.warning is None for answer in answers)


@pytest.mark.long
def test_all_of_cifakes_test_images_give_the_confusion_matrix_of_the_manifest() -> None:
    if not os.environ.get("CIFAKE_ROOT"):
        pytest.skip("needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
    images = load_images(os.environ["CIFAKE_ROOT"])
    test = np.flatnonzero(images.parts == "test")
    detector = Detector(MODEL)
    prob = np.concatenate([detector.run(images.images[part])[0] for part in np.array_split(test, 80)])
    found = binary_metrics(prob, images.labels[test], detector.threshold)["confusion_matrix"]
    recorded = MANIFEST["real"]["onnxruntime"]["confusion_matrix"]
    assert (
        np.abs(np.subtract(found, recorded)).max() <= 20
    )  # another processor may round an activation to another level


def test_the_shipped_reference_images_are_the_demo_s():
    demo = load_images("demo")
    chosen = np.linspace(0, len(demo) - 1, 64).round().astype(int)
    assert np.array_equal(reference_images(), demo.images[chosen])
