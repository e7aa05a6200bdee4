"""Files of the form that Keras 3.15 writes, made without Keras: ResNet50 with small changes, random weights."""

import io
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from shrunk import small

from lightning_cifake.keras_io.match_resnet import expected_layers
from lightning_cifake.keras_io.weights import expected_shapes
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector

PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("Flatten", {"name": "flatten"}),
    ("Dense", {"name": "dense", "units": 256, "activation": "relu", "use_bias": True}),
    (
        "BatchNormalization",
        {"name": "batch_normalization", "axis": -1, "epsilon": 1e-3, "momentum": 0.99, "center": True, "scale": True},
    ),
    ("Dropout", {"name": "dropout", "rate": 0.5}),
    ("Dense", {"name": "dense_1", "units": 128, "activation": "relu", "use_bias": True}),
    ("Dense", {"name": "dense_2", "units": 1, "activation": "sigmoid", "use_bias": True}),
]
HEAD_LAYERS = {"dense1": "dense", "norm": "batch_normalization", "dense2": "dense_1", "logit": "dense_2"}
ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
SNAKE = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}


def layer(kind: str, config: dict[str, Any], inputs: tuple[str, ...] = ()) -> dict[str, Any]:
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"shape": [], "dtype": "float32", "keras_history": [name, 0, 0]}}
        for name in inputs
    ]
    calls = [{"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}}] if tensors else []
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": config,
        "registered_name": None,
        "name": config["name"],
        "inbound_nodes": calls,
    }


def input_layer(name: str, size: int | None = 32) -> dict[str, Any]:
    return layer("InputLayer", {"name": name, "batch_shape": [None, size, size, 3]})


def resnet() -> dict[str, Any]:
    """keras.applications.ResNet50(include_top=False)."""
    layers = [input_layer("input")]
    for each in expected_layers():
        layers.append(layer(each.kind, {"name": each.name, "trainable": True, **each.values}, each.inputs))
    config = {
        "name": "resnet50",
        "layers": layers,
        "input_layers": ["input", 0, 0],
        "output_layers": ["conv5_block3_out", 0, 0],
    }
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def published() -> dict[str, Any]:
    """The paper's model."""
    return sequential(input_layer("input_1"), resnet(), *(layer(kind, dict(config)) for kind, config in PUBLISHED))


def config_of(model: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration of one of a model's layers, to be changed."""
    for each in model["config"]["layers"]:
        if each["config"]["name"] == name:
            return each["config"]
        if "layers" in each["config"]:
            try:
                return config_of(each, name)
            except KeyError:
                continue
    raise KeyError(name)


def random_weights(head: str | None = PUBLISHED_HEAD, dtype: type = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    """Every weight of the network by its name in keras_weights, in the order of its layers; not to be written to."""
    return dict(_drawn(head, dtype, seed))


@lru_cache(maxsize=2)  # 94 MB each
def _drawn(head: str | None, dtype: type, seed: int) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        like = ResNet50Detector(head=head or PUBLISHED_HEAD).state_dict()
    rng = np.random.default_rng(seed)
    shapes = expected_shapes({name: v for name, v in like.items() if head or name.startswith("backbone.")})
    weights = {name: (rng.random(shape, np.float32) - 0.5).astype(dtype) * 0.2 for name, shape in shapes.items()}
    weights = {name: value + 1 if name.endswith(("gamma", "variance")) else value for name, value in weights.items()}
    for value in weights.values():
        value.flags.writeable = False
    return weights


def paths(weights: dict[str, np.ndarray], head: dict[str, str] = HEAD_LAYERS) -> dict[str, np.ndarray]:
    """Where Keras 3 keeps a model's weights: layers/functional/layers/conv2d_7/vars/0."""
    place = {name: f"layers/{own}" for name, own in head.items()}
    counts = {"Conv2D": 0, "BatchNormalization": 0}
    for each in expected_layers():
        if each.kind in counts:
            number = counts[each.kind]
            place[each.name] = f"layers/functional/layers/{SNAKE[each.kind]}" + (f"_{number}" if number else "")
            counts[each.kind] += 1
    found = {}
    for name, value in weights.items():
        owner, _, variable = name.partition("/")
        number = ORDER.index(variable)
        number = number if number < 2 else number - 2
        found[f"{place.get(owner, owner)}/vars/{number}"] = value
    return found


def write_h5(file: Any, datasets: dict[str, np.ndarray]) -> None:
    with h5py.File(file, "w") as h5:
        for name, value in datasets.items():
            h5.create_dataset(name, data=value)


def small_weights(head: str | None, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Every weight with two numbers a side, for the fixture ``shrunk``."""
    weights = random_weights(head).items()
    return {name: v[tuple(map(slice, small(v.shape)))].astype(dtype, order="C") for name, v in weights}


def write_keras(
    path: Path, model: dict[str, Any], datasets: dict[str, np.ndarray], optimizer: dict[str, Any] | None = None
) -> Path:
    content = io.BytesIO()
    write_h5(content, datasets)
    config = {**model, "compile_config": {"optimizer": optimizer}} if optimizer else model
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
    return path


def write_legacy_weights(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """As keras.applications ships its weights: a group for each layer, variables with :0 at their names' end."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, value in weights.items():
        layers.setdefault(name.partition("/")[0], {})[f"{name}:0"] = value
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = [name.encode() for name in layers]
        for name, variables in layers.items():
            group = h5.create_group(name)
            group.attrs["weight_names"] = [variable.encode() for variable in variables]
            for variable, value in variables.items():
                group.create_dataset(variable, data=value)
    return path
