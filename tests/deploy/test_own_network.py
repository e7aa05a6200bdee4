"""A network of the user's own, in a file outside the package: trained, exported, verified, asked and benchmarked."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.deploy import quantize

OWN = '''
"""No part of lightning_cifake, and none of its layers."""

import torch
from torch import nn


class Patches(nn.Module):
    """Two convolutions, attention over 16 patches, a head. (N, 3, S, S) float in [0, 1] -> (N,), any S from 8 on."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding="same", bias=False), nn.BatchNorm2d(width), nn.GELU(),
            nn.Conv2d(width, width, 3, padding="same", groups=2), nn.BatchNorm2d(width), nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
        )
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.1), nn.Linear(width, 1))

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        seen, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + seen).mean(1)).squeeze(1)


class LooksAtValues(Patches):
    """What it is made with is computed by tensors, which have no values on torch's meta device."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(int(torch.tensor([width]).sum().item()))
        self.width = width


class Dense(nn.Sequential):
    """No convolution at all."""

    image_size = 32

    def __init__(self) -> None:
        layers = (nn.Linear(3072, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 1))
        super().__init__(nn.Flatten(), *layers, nn.Flatten(0))


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, images):
        return self.head(self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(1)).squeeze(1)


class Column(Patches):
    def forward(self, images):
        return super().forward(images)[:, None]


class TwoLogits(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3072, 2))
'''
NEAR = {"float32": 1e-5, "float16": 5e-3, "int8": 0.05}


@pytest.fixture(scope="module")
def command(warm: Any, demo_cache: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """A process of its own that has met none of these networks; their file lies in the folder, which is on no path."""

    def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "LIGHTNING_CIFAKE_CACHE": str(demo_cache)}
        return warm.run(*arguments, folder=folder, environment=environment)

    return run


FIT = (
    *("fit", "--config", "demo", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"),
    *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2", "--output_dir", "run"),
)


@pytest.fixture(scope="module")
def trained(module_folder: Callable[[str], Path], command: Callable[..., Any]) -> Path:
    """A folder with own.py, image.png and run/best.ckpt, which ``fit --model.network own.Patches`` wrote."""
    folder = module_folder("own")
    (folder / "own.py").write_text(OWN)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    done = command(folder, *FIT, "--model.network", "own.Patches", "--model.network.width", "12")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch, demo_cache: Path) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(str(trained))
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
    return trained


def prob_real(capsys: Any, *arguments: str) -> float:
    capsys.readouterr()
    assert main(["predict", "image.png", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["prob_real"]


@pytest.mark.parametrize("precision", NEAR)
def test_it_is_exported_verified_and_asked_in_every_precision(
    here: Path, precision: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 64)
    model = f"{precision}.onnx"
    arguments = ("--ckpt_path", "run/best.ckpt", "--output", model, "--precision", precision, "--sample", "40")
    assert main(["export", *arguments, "--data.root", "demo", "--max_loss", "10"]) == 0
    expected = prob_real(capsys, "--ckpt_path", "run/best.ckpt")
    assert abs(prob_real(capsys, "--model", model) - expected) < NEAR[precision]
    assert main(["verify", model]) == 0
    detector = Detector(model)
    assert json.loads(detector.facts.metadata["network"]) == {"class_path": "own.Patches", "init_args": {"width": 12}}
    kinds = {node.op_type for node in onnx.load_model(model).graph.node}
    assert "BatchNormalization" not in kinds and ("QuantizeLinear" in kinds) == (precision == "int8")


def test_the_same_file_is_verified_against_its_checkpoint(here: Path, capsys: Any) -> None:
    arguments = ("--ckpt_path", "run/best.ckpt", "--data.root", "demo", "--sample", "40")
    assert main(["export", "--output", "again.onnx", *arguments]) == 0
    assert main(["verify", "again.onnx", *arguments]) == 0
    assert "verified: again.onnx" in capsys.readouterr().out


def test_without_its_file_the_checkpoint_says_which_class_is_missing_and_what_to_do(
    trained: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    done = command(tmp_path, "predict", "--ckpt_path", str(trained / "run" / "best.ckpt"), str(trained / "image.png"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "own.Patches" in line and "there is no module own" in line, line
    assert "current folder" in line


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("Column", "own.Column returned shape (32, 1) for (32, 3, 32, 32): expected one logit of P(REAL) an image, "),
        ("TwoLogits", "own.TwoLogits returned shape (32, 2) for (32, 3, 32, 32)"),
    ],
)
def test_a_network_that_gives_no_single_logit_is_refused_in_one_line(
    trained: Path, network: str, says: str, command: Callable[..., Any]
) -> None:
    done = command(trained, *FIT[:-1], f"run-{network}", "--model.network", f"own.{network}")
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_that_looks_at_values_as_it_is_made_is_read_too(
    here: Path, make_checkpoint: Callable[[Any], Path], capsys: Any
) -> None:
    import own

    assert 0 < prob_real(capsys, "--ckpt_path", str(make_checkpoint(own.LooksAtValues(8)))) < 1


def test_a_network_of_dense_layers_alone_is_quantised_too(
    here: Path, make_checkpoint: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 64)
    import own  # type: ignore[import-not-found]

    path = make_checkpoint(own.Dense())
    arguments = ("--ckpt_path", str(path), "--output", "dense.onnx", "--precision", "int8", "--sample", "40")
    assert main(["export", *arguments, "--data.root", "demo", "--max_loss", "100"]) == 0
    model = onnx.load_model("dense.onnx")
    held = {each.name: each.data_type for each in model.graph.initializer}
    assert onnx.TensorProto.INT8 in held.values()


def test_float16_is_exported_of_a_transformer_too(here: Path, make_checkpoint: Callable[[Any], Path]) -> None:
    """With its arithmetic in float16 too, onnxruntime 1.32 ended its process as it opened this one."""
    import own

    path = make_checkpoint(own.PreNorm())
    arguments = ("--ckpt_path", str(path), "--precision", "float16", "--sample", "40", "--max_loss", "100")
    assert main(["export", "--output", "pre_norm.onnx", *arguments]) == 0


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[[Any], Path]:
    def make(network: Any) -> Path:
        from lightning_cifake.training.checkpoints import SafeCheckpointIO
        from lightning_cifake.training.classifier import FakeImageClassifier

        model = FakeImageClassifier(network=network)
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, tmp_path / "made.ckpt")
        return tmp_path / "made.ckpt"

    return make


@pytest.mark.long
def test_it_is_benchmarked_and_tensorflow_drops_out_in_one_line(here: Path, command: Callable[..., Any]) -> None:
    arguments = ("--quick", "--ckpt_path", "run/best.ckpt", "--data.root", "demo", "--images", "40", "--rounds", "1")
    engines = "tf,torch,lightning,onnxruntime,onnxruntime-int8"
    sizes = ("--train_images", "256", "--batch_size", "64", "--tuned_batch_size", "64")
    done = command(here, "benchmark", *arguments, *sizes, "--engines", engines)
    assert done.returncode == 0, done.stderr
    record = json.loads((here / "benchmark" / "benchmark.json").read_text())
    assert list(record["failed"]) == ["tf"]
    for name in ("torch", "lightning"):
        assert record["engines"][name]["training"]["images_per_second"]["low"] > 0
    for name in ("torch", "lightning", "onnxruntime", "onnxruntime-int8"):
        assert record["engines"][name]["answering"]["one_image_ms"]["p50"] > 0
    assert record["limit"]["steps"]
