"""Models to ask, and files to ask about."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import write_checkpoint, write_model
from PIL import Image
from tiny import SmallNetwork


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model: ``make_model("model.onnx", {"temperature": None}, gain=8)``; None leaves a fact out."""

    def make(name: str = "model.onnx", metadata: dict[str, Any] | None = None, **options: Any) -> Path:
        return write_model(tmp_path / name, metadata, **options)

    return make


@pytest.fixture
def images(workplace: Path) -> Path:
    """images/{a.JPG,b.jpg,deep/c.jpg} of 32x32, images/d.png of 50x50, images/notes.txt"""
    folder = workplace / "images"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("b.jpg", 32), ("a.JPG", 32), ("deep/c.jpg", 32), ("d.png", 50)):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def small() -> type:
    return SmallNetwork


@pytest.fixture(scope="session")
def small_network() -> type:
    return SmallNetwork


@pytest.fixture
def small_checkpoint(workplace: Path, small_network: type) -> Path:
    """best.ckpt in the current folder, of a random small network, alone."""
    torch.manual_seed(0)
    write_checkpoint(workplace / "best.ckpt", small_network())
    return Path("best.ckpt")


@pytest.fixture(scope="session")
def exported_once(small: type, demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of best.ckpt, as ``small_checkpoint``, and its export model.onnx and model.json: made once, to copy."""
    from lightning_cifake.commands.main import main
    from lightning_cifake.training.checkpoints import SafeCheckpointIO
    from lightning_cifake.training.classifier import FakeImageClassifier

    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
        torch.manual_seed(0)
        model = FakeImageClassifier(small())
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, folder / "best.ckpt")
        arguments = ["--ckpt_path", str(folder / "best.ckpt"), "--output", str(folder / "model.onnx"), "--sample", "40"]
        assert main(["export", *arguments]) == 0
    return folder


@pytest.fixture
def exported_model(exported_once: Path, workplace: Path, small_network: type) -> Path:
    """model.onnx in the current folder, with model.json and best.ckpt beside it."""
    for path in exported_once.iterdir():
        shutil.copy(path, workplace / path.name)
    return Path("model.onnx")
