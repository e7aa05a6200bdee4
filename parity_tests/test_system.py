"""A model that ``tf_reference`` trained, on its way through ours and back, is still that model."""

import csv
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cifake import load_classifier
from parity_tests import tolerances
from parity_tests.twins import array, to_ours

RUNG = "8 round trip"
ROOT = Path(__file__).resolve().parents[1]


def lightning_cifake(*arguments: object) -> str:
    """``python -m lightning_cifake`` in a process of its own; what it printed."""
    finished = subprocess.run(
        [sys.executable, "-m", "lightning_cifake", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def converted(reference_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "last.ckpt"
    lightning_cifake("convert", reference_run.model, path)
    return path


def test_a_model_trained_in_tensorflow_is_tested_here_with_the_same_confusion_matrix(
    reference_run, converted, tmp_path, claim
):
    lightning_cifake(
        "test", "--ckpt_path", converted, "--data.root", reference_run.data,
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


def read_predictions(folder: Path) -> dict[str, float]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {"/".join(Path(row["path"]).parts[-2:]): float(row["prob_real"]) for row in csv.DictReader(file)}


def test_keras_to_lightning_to_keras_to_onnx_gives_the_first_models_outputs(
    keras, reference_run, converted, real_images, tmp_path, claim
):
    onnxruntime = pytest.importorskip("onnxruntime")
    first = keras.models.load_model(reference_run.model)
    images = real_images[0][:64].astype(np.float32) / 255
    expected = np.asarray(first(images, training=False))[:, 0]
    lightning_cifake("convert", converted, tmp_path / "back.keras")
    back = keras.models.load_model(tmp_path / "back.keras")
    claim(
        "probability after Keras -> Lightning -> Keras, float32",
        np.abs(np.asarray(back(images, training=False))[:, 0] - expected).max(),
        tolerances.STAGE_FLOAT32_EVAL,
    )
    lightning_cifake("convert", tmp_path / "back.keras", tmp_path / "again.ckpt")
    network = load_classifier(tmp_path / "again.ckpt").network.eval()
    path = tmp_path / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # torch's exporter warns of itself
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (to_ours(images).contiguous(),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: array(to_ours(images).contiguous())})
    claim(
        "probability after Keras -> Lightning -> Keras -> ONNX, float32",
        np.abs(1 / (1 + np.exp(-logits)) - expected).max(),
        tolerances.STAGE_FLOAT32_EVAL,
    )
