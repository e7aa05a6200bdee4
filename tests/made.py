"""Made images, and models: one of a line that answers by brightness, in the form that export gives; checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

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


def write_model(path: Path, metadata: dict[str, Any] | None = None, seal: bool = True, **options: Any) -> Path:
    """An exported :func:`brightness_model`; None in the metadata leaves a fact out."""
    model = brightness_model(**options)
    facts = {**METADATA, **(metadata or {})}
    helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})
    content = model.SerializeToString()
    path.write_bytes(sealed(content) if seal else content)
    return path


def write_checkpoint(path: Path, network: Any, test_flips: bool = False, **content: Any) -> Path:
    """A checkpoint of a network, alone; ``content`` goes beside its weights."""
    from lightning_cifake.training.checkpoints import SafeCheckpointIO  # torch
    from lightning_cifake.training.classifier import FakeImageClassifier

    model = FakeImageClassifier(network, test_flips=test_flips)
    whole = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **content}
    SafeCheckpointIO().save_checkpoint({**whole, "pytorch-lightning_version": "2.6.6"}, path)
    return path


def write_images(root: Path, *paths: str, size: int = 32) -> Path:
    """An image at each path below a folder, another one for each path; lossless where its suffix is.

    Those below FAKE/ are darker than those below REAL/, mostly: :func:`brightness_model` tells them apart, mostly.
    """
    for path in paths:
        generator = np.random.default_rng(list(path.encode()))
        level = generator.integers(60, 140) + (50 if "REAL" in path else 0)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 256, (size, size, 3)) // 4 + level
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(root / path)
    return root
