"""Each released model is the one its manifest describes, and answers here as it did there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data.decode import load_images
from lightning_cifake.deploy.reference_images import reference_images
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.shipped import MODELS, released_model

EACH = pytest.mark.parametrize("name", MODELS)


@EACH
def test_it_is_verified_on_this_machine(name: str, capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    assert main(["verify", name]) == 0
    assert "verified: " in capsys.readouterr().out


@EACH
def test_it_says_where_it_comes_from(name: str) -> None:
    model = released_model(name)
    manifest, facts = json.loads(model.with_suffix(".json").read_text()), Detector(name).facts
    training = json.loads(facts.metadata["training"])
    assert training["protocol"] == "official" and facts.precision == manifest["model"]["precision"]
    assert training["data_digest"] == manifest["real"]["data_digest"]
    assert manifest["real"]["images"] >= 2_000 and manifest["real"]["part"] == "test"
    assert model.stat().st_size < 60 * 10**6


@pytest.mark.long
@EACH
def test_all_of_cifakes_test_images_give_the_confusion_matrix_of_the_manifest(name: str) -> None:
    if not os.environ.get("CIFAKE_ROOT"):
        pytest.skip("needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
    images = load_images(os.environ["CIFAKE_ROOT"])
    test = np.flatnonzero(images.parts == "test")
    detector = Detector(name)
    prob = np.concatenate([detector.run(images.images[part])[0] for part in np.array_split(test, 80)])
    found = binary_metrics(prob, images.labels[test], detector.threshold)["confusion_matrix"]
    recorded = json.loads(released_model(name).with_suffix(".json").read_text())["real"]["onnxruntime"]
    # another processor may round an activation to another level
    assert np.abs(np.subtract(found, recorded["confusion_matrix"])).max() <= 20


def test_the_shipped_reference_images_are_the_demo_s():
    demo = load_images("demo")
    chosen = np.linspace(0, len(demo) - 1, 64).round().astype(int)
    assert np.array_equal(reference_images(), demo.images[chosen])
