"""Models of one line that answer by an image's brightness, in the form that export gives; and files to ask about."""

import functools
import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import SmallNetwork

from lightning_cifake.deploy.digest import sealed

METADATA = {
    "class_names": json.dumps(["AI", "REAL"]),
    "decision_threshold": "0.5",
    "temperature": "1.0",
    "image_size": "32",
    "precision": "float32",
}


def brightness_model(gain: float = 8.0, image: str = "images", kind: int = TensorProto.UINT8) -> onnx.ModelProto:
    """logit = gain (mean / 255 - 1/2): white is REAL, black is AI, and every shade in between has its probability."""
    scale = 1 if kind == TensorProto.FLOAT else 255
    names = ("gain", "half", "axes")
    values = (np.float32(gain / scale), np.float32(gain / 2), np.array([1, 2, 3]))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "gain"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "half"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["prob_real"]),
        ],
        "brightness",
        [helper.make_tensor_value_info(image, kind, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("prob_real", "logit")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, values, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model: ``make_model("model.onnx", {"temperature": None}, gain=8)``; None leaves a fact out."""

    def make(
        name: str = "model.onnx", metadata: dict[str, Any] | None = None, seal: bool = True, **options: Any
    ) -> Path:
        model = brightness_model(**options)
        facts = {**METADATA, **(metadata or {})}
        helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})
        content = model.SerializeToString()
        (tmp_path / name).write_bytes(sealed(content) if seal else content)
        return tmp_path / name

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
def small_checkpoint(workplace: Path, small_network: type, torchlib_read_once: None) -> Path:
    """best.ckpt in the current folder, of a random small network, alone."""
    from lightning_cifake.training.checkpoints import SafeCheckpointIO
    from lightning_cifake.training.classifier import FakeImageClassifier

    torch.manual_seed(0)
    model = FakeImageClassifier(small_network())
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, workplace / "best.ckpt")
    return Path("best.ckpt")


@pytest.fixture(scope="session")
def torchlib_read_once() -> Iterator[None]:
    """torch's exporter parses onnxscript's five hundred functions anew in every export: a quarter of its time."""
    registration = importlib.import_module("torch.onnx._internal.exporter._registration")
    apis = getattr(registration, "onnxscript_apis", None)
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(apis, "get_torchlib_ops"):
            patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def exported_once(
    small: type, demo_cache: Path, torchlib_read_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
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
