"""Keras models as people write them, what they answer, and the network that the converter makes of their files."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.keras_io.importer import Imported, import_keras
from lightning_cifake.networks.resnet50 import ResNet50Detector


def backbone_of(keras: Any, **arguments: Any) -> Any:
    """keras.applications' ResNet50 without its top, of random weights."""
    return keras.applications.ResNet50(weights=None, include_top=False, **{"input_shape": (32, 32, 3), **arguments})


def perturb(model: Any) -> Any:
    """Every variable moved, so that no two layers are alike and batch norm is far from the identity."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        value, name = np.array(variable), variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
        elif name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.uniform(-0.2, 0.2, value.shape))
    return model


def published_head(keras: Any, rate: float = 0.5) -> list[Any]:
    """The layers of the paper's head."""
    layers = keras.layers
    return [
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(rate),
        layers.Dense(128, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ]


def save_h5(model: Any, path: Path) -> None:
    """In the older format, without Keras's warning that it is one."""
    with patch("absl.logging.warning", lambda *_: None):
        model.save(path)


def outputs(model: Any, images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) images -> (N, 1 or 2), as the model gives them."""
    return np.array(model(images, training=False))


def prob_real(output: np.ndarray, logits: bool = False) -> np.ndarray:
    """A model's outputs -> (N,) P(REAL), of one output or of one for each class, REAL the second."""
    if logits:
        return 1 / (1 + np.exp(-(output[:, -1] - (output[:, 0] if output.shape[1] == 2 else 0))))
    return output[:, -1]


def theirs(model: Any, images: np.ndarray) -> np.ndarray:
    """(N,) P(REAL) of a model that gives probabilities."""
    return prob_real(outputs(model, images))


def ours(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """(N,) P(REAL) of (N, S, S, 3) images in [0, 1]."""
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).sigmoid().numpy()


def imported(path: Path, **arguments: Any) -> tuple[ResNet50Detector, Imported]:
    """The network of a Keras file in the file's precision, without a checkpoint between."""
    found = import_keras(path, **arguments)
    with made_in(found.state["backbone.conv1.weight"].dtype):
        network = ResNet50Detector(
            head=found.head, dropout=found.dropout, image_size=found.image_size, pixels=found.pixels
        )
    network.load_state_dict(found.state, strict=True)
    return network, found


def network_of(checkpoint: Path) -> nn.Module:
    """Of a checkpoint in float64, none of whose values is rounded on the way."""
    with made_in(torch.float64):
        return load_classifier(checkpoint).network


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Networks in a precision from their first moment: what scales their images would be rounded to float32 else.

    Their weights are not drawn: each is about to be loaded.
    """
    before = torch.get_default_dtype()
    draws = ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")
    with ExitStack() as stack:
        for name in draws:
            stack.enter_context(patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        torch.set_default_dtype(dtype)
        stack.callback(torch.set_default_dtype, before)
        yield


def apart(found, expected):
    """The largest difference of any two values."""
    return np.abs(found - expected).max()
