"""A model that ``tf_reference`` trained, on its way through ours and back, is still that model."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cifake import Detector
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.training.convert import Options, convert
from parity_tests import tolerances
from parity_tests.real_images import cifake
from parity_tests.reference_run import run_here, run_module, unpack

RUNG = "8 round trip"
IMAGES = "2 images"


@pytest.fixture(scope="module")
def converted(reference_run, module_folder) -> Path:
    path = module_folder("converted") / "last.ckpt"
    run_here("lightning_cifake", "convert", reference_run.model, path)
    return path


def test_a_model_trained_in_tensorflow_is_tested_here_with_the_same_confusion_matrix(
    reference_run, converted, tmp_path, claim
):
    run_here(
        "lightning_cifake", "test", "--ckpt_path", converted, "--data.root", reference_run.data,
        "--data.split_file", reference_run.folder / "split.json", "--output_dir", tmp_path,
    )  # fmt: skip
    ours = json.loads((tmp_path / "metrics.json").read_text())
    theirs = reference_run.results["test"]
    claim.equal(
        "confusion matrix of tf_reference's model, tested by it and, converted, by lightning_cifake",
        ours["confusion_matrix"],
        theirs["confusion_matrix"],
    )
    probabilities = [read_predictions(folder) for folder in (tmp_path, reference_run.folder)]
    assert probabilities[0].keys() == probabilities[1].keys()
    apart = max(abs(value - probabilities[1][name]) for name, value in probabilities[0].items())
    claim("probability of each test image, both commands, float32", apart, tolerances.STAGE_FLOAT32_EVAL)


def test_its_saved_model_becomes_the_same_checkpoint(reference_run, converted, real_images, tmp_path):
    exported = reference_run.folder / "ai_imageclassifier"
    report = convert(exported, tmp_path / "model.ckpt", Options(pixels="0-1"))
    assert any("tells no activations" in note for note in report.notes)
    found, expected = (load_classifier(path) for path in (tmp_path / "model.ckpt", converted))
    before, after = expected.state_dict(), found.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    images = torch.from_numpy(real_images[0][:8]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        assert torch.equal(found.eval()(images), expected.eval()(images))  # the activations taken for granted too
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "variables" / "variables.index").write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged, or no SavedModel of Keras"):
        convert(damaged, tmp_path / "other.ckpt", Options())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_well_trained_model_decides_the_same_on_all_of_cifakes_test_part(tf, cifake_root, tmp_path, claim):
    """The model that $PARITY_MODEL names; and what TensorFlow's own JPEG decoder makes of its accuracy."""
    model = os.environ.get("PARITY_MODEL") or pytest.skip("needs a model that tf_reference trained: set PARITY_MODEL")
    entries = [entry for entry in cifake(cifake_root).entries if entry.part == "test"]
    unpack(cifake_root, {entry.path for entry in entries}, tmp_path)
    folders = {name: tmp_path / name for name in ("accurate", "default", "ours")}
    for decoder in ("accurate", "default"):
        run_module(
            "tf_reference", "evaluate", "--model", model, "--data.root", tmp_path / "test", "--all",
            "--decoder", decoder, "--output", folders[decoder],
        )  # fmt: skip
    run_module("lightning_cifake", "convert", model, tmp_path / "last.ckpt")
    run_module(
        "lightning_cifake", "test", "--ckpt_path", tmp_path / "last.ckpt", "--data.root", cifake_root,
        "--data.protocol", "official", "--data.sample", "null", "--output_dir", folders["ours"],
    )  # fmt: skip
    theirs = {
        name: json.loads((folders[name] / "results.json").read_text())["test"] for name in ("accurate", "default")
    }
    ours = json.loads((folders["ours"] / "metrics.json").read_text())
    images = f"{len(entries):,} test images of CIFAKE"
    assert theirs["accurate"]["keras_accuracy"] > 0.75, "a model that learned little proves little"
    claim.equal(
        f"confusion matrix of a well-trained model of tf_reference, tested by both commands on {images}",
        ours["confusion_matrix"],
        theirs["accurate"]["confusion_matrix"],
    )
    found, exact, fast = (read_predictions(folders[name]) for name in ("ours", "accurate", "default"))
    assert found.keys() == exact.keys() == fast.keys() and len(found) == len(entries)
    apart = max(abs(value - exact[name]) for name, value in found.items())
    claim(f"probability of each of {images}, both commands, float32", apart, tolerances.STAGE_FLOAT32_EVAL)
    accuracy = {name: 100 * result["keras_accuracy"] for name, result in theirs.items()}
    decoded = f"a trained model on {images}, TensorFlow's default JPEG decoder against the accurate one"
    gain = accuracy["default"] - accuracy["accurate"]
    changed = sum((value > 0.5) != (exact[name] > 0.5) for name, value in fast.items())
    claim.figure("accuracy of a trained model, the accurate decoder", accuracy["accurate"], "%", rung=IMAGES)
    claim.figure(f"{decoded}: change of accuracy", gain, "points", rung=IMAGES)
    claim.figure(f"{decoded}: decisions changed", changed, f"of {len(entries):,}", rung=IMAGES)


def read_predictions(folder: Path) -> dict[str, float]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {"/".join(Path(row["path"]).parts[-2:]): float(row["prob_real"]) for row in csv.DictReader(file)}


def test_keras_to_lightning_to_keras_to_onnx_gives_the_first_models_outputs(
    keras, reference_run, converted, real_images, tmp_path, claim, demo_cache, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    first = keras.models.load_model(reference_run.model)
    images = real_images[0][:64].astype(np.float32) / 255
    expected = np.asarray(first(images, training=False))[:, 0]
    run_here("lightning_cifake", "convert", converted, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    claim(
        "probability after Keras -> Lightning -> Keras, float32",
        np.abs(np.asarray(back(images, training=False))[:, 0] - expected).max(),
        tolerances.STAGE_FLOAT32_EVAL,
    )
    # export compares onnxruntime with our own model itself; here the end is held against the beginning
    run_here(
        "lightning_cifake", "export", "--ckpt_path", tmp_path / "back.keras", "--output", tmp_path / "model.onnx",
        "--data.root", "demo", "--sample", "100",
    )  # fmt: skip
    prob, _ = Detector(tmp_path / "model.onnx").run(real_images[0][:64])
    claim(
        "probability after Keras -> Lightning -> Keras -> ONNX, float32",
        np.abs(prob - expected).max(),
        tolerances.STAGE_FLOAT32_EVAL,
    )
