"""Writes a network as Keras's own files, through Keras itself: the only module here that needs TensorFlow."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch  # noqa: F401 - before TensorFlow: the other order ends in an LLVM error
from torch import Tensor

from lightning_cifake.errors import UserError
from lightning_cifake.files import replacing
from lightning_cifake.keras_io.head import KERAS_HEAD_EPSILON, KERAS_MOMENTUM
from lightning_cifake.keras_io.weights import moments_to_keras, to_keras_weights
from lightning_cifake.networks.head import HeadLayer, parse_head
from lightning_cifake.networks.pixels import DEFAULT, Affine, parse_pixels
from lightning_cifake.text import printable, reason_of


class Exported(NamedTuple):
    """A network for Keras: its state_dict, what describes it, and Adam's moments by parameter or None.

    ``learning_rate`` is what the optimizer is left with behind ``epoch`` epochs: Keras's schedule decays it as the
    next begins. ``pixels`` is what the network is fed, and what it does with it first: that part goes into the model.
    """

    state: dict[str, Tensor]
    head: str
    dropout: float
    image_size: int
    freeze_backbone: bool
    learning_rate: float
    moments: dict[str, tuple[Tensor, Tensor]] | None
    iterations: int | None
    epoch: int | None
    pixels: str = DEFAULT

    @property
    def dtype(self) -> str:
        return str(self.state["backbone.conv1.weight"].dtype).removeprefix("torch.")


class Written(NamedTuple):
    weights: int
    values: int


def write_keras(exported: Exported, target: Path) -> Written:
    """Writes ``.keras``, ``.h5`` or ``.weights.h5``, by the name's end, whole or not at all.

    Raises:
        UserError: TensorFlow is missing, or the file cannot be written.
    """
    keras = _import_keras()
    with _precision(keras, exported.dtype):
        model = build_model(keras, exported)
        _save(model, target)
        return Written(len(model.weights), model.count_params())


def _import_keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets otherwise
    try:
        import keras
    except ImportError as error:
        raise UserError(
            f"writing a Keras file needs TensorFlow, which is missing ({reason_of(error)}): "
            "pip install 'lightning_cifake[tf]'"
        ) from error
    return keras


@contextmanager
def _precision(keras: Any, dtype: str) -> Iterator[None]:
    """Keras in a precision, which takes two settings, and back."""
    before = keras.backend.floatx(), keras.config.dtype_policy()
    keras.backend.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.backend.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def build_model(keras: Any, exported: Exported) -> Any:
    """The Sequential of the paper, with this network's head, weights and, where there is one, optimizer.

    A scaling that the model had stands in front as a Rescaling; channels that it turned round make the model a
    functional one.
    """
    size = exported.image_size
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3))
    backbone.trainable = not exported.freeze_backbone
    head = parse_head(exported.head)
    pooling = {"flatten": keras.layers.Flatten, "avgpool": keras.layers.GlobalAveragePooling2D}[head.pooling]
    layers = [_layer(keras, layer, exported.dropout) for layer in head.layers]
    layers[-1].activation = keras.activations.sigmoid
    inside = parse_pixels(exported.pixels).inside
    scaling = [] if inside._replace(order=(0, 1, 2)) == Affine() else [_rescaling(keras, inside, exported.dtype)]
    entry, stack = keras.Input((size, size, 3)), [*scaling, backbone, pooling(), *layers]
    if inside.order == (0, 1, 2):
        model = keras.Sequential([entry, *stack])
    else:
        values = entry[..., ::-1]
        for each in stack:
            values = each(values)
        model = keras.Model(entry, values)
    named = {layer.name: layer for layer in [*backbone.layers, *layers]}
    variables = {f"{name}/{variable.name}": variable for name, layer in named.items() for variable in layer.weights}
    _assign_all(variables, to_keras_weights(exported.state))
    if exported.moments is not None:  # an Adam without state is one that Keras warns of as it loads the file
        optimizer = keras.optimizers.Adam(learning_rate=exported.learning_rate)
        model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"])
        _set_optimizer(optimizer, model, variables, exported)
    return model


def _rescaling(keras: Any, inside: Affine, dtype: str) -> Any:
    def given(values: tuple[float, ...]) -> Any:
        if dtype == "float64":  # Keras rounds plain numbers to float32 all the same, and arrays not
            return np.array(values)
        return values[0] if len(set(values)) == 1 else list(values)

    return keras.layers.Rescaling(given(inside.scale), given(inside.offset))


def _layer(keras: Any, layer: HeadLayer, dropout: float) -> Any:
    layers = keras.layers
    if layer.kind == "dense":
        return layers.Dense(layer.units, use_bias=layer.bias, name=layer.name)
    if layer.kind == "batchnorm":
        momentum = KERAS_MOMENTUM if layer.momentum is None else round(1 - layer.momentum, 15)
        return layers.BatchNormalization(epsilon=layer.eps or KERAS_HEAD_EPSILON, momentum=momentum, name=layer.name)
    if layer.kind == "dropout":
        return layers.Dropout(dropout if layer.rate is None else layer.rate, name=layer.name)
    return layers.Activation(layer.kind, name=layer.name)


def _assign_all(variables: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    variables = {name: variable for name, variable in variables.items() if "seed_generator" not in name}
    assert set(variables) == set(values), sorted(set(variables) ^ set(values))
    for name, variable in variables.items():
        assert tuple(variable.shape) == values[name].shape, name
        variable.assign(values[name])


def _set_optimizer(optimizer: Any, model: Any, variables: dict[str, Any], exported: Exported) -> None:
    assert exported.moments is not None
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(exported.iterations)
    both = [{name: pair[at] for name, pair in exported.moments.items()} for at in (0, 1)]
    first, second = (moments_to_keras(moments, exported.state) for moments in both)
    names = {id(variable): name for name, variable in variables.items()}
    used = set()
    for at, variable in enumerate(model.trainable_variables):
        name = names[id(variable)]
        if name.endswith("_conv/bias"):  # ours have none; Keras's is without effect under batch norm
            continue
        optimizer._momentums[at].assign(first[name])
        optimizer._velocities[at].assign(second[name])
        used.add(name)
    assert used == set(first)


def _save(model: Any, target: Path) -> None:
    try:
        with replacing(target) as temporary, warnings.catch_warnings():  # Keras tells the format by the name's end
            warnings.simplefilter("ignore")  # that .h5 is a legacy format
            if target.name.endswith(".weights.h5"):
                model.save_weights(temporary)
            else:
                model.save(temporary)
    except OSError as error:
        raise UserError(f"cannot write {printable(target)}: {reason_of(error)}") from error
