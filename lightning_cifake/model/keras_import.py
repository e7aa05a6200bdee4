"""A Keras file as a state_dict of this network, with what the file tells of its head, its images and its optimizer."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_cifake.errors import UserError
from lightning_cifake.model.head import PUBLISHED_HEAD, Head, make_head, parse_head
from lightning_cifake.model.keras_architecture import Node, read_graph
from lightning_cifake.model.keras_files import KerasFile, open_keras
from lightning_cifake.model.keras_guess import guess
from lightning_cifake.model.keras_resnet import Model, frozen_backbone, recognise
from lightning_cifake.model.keras_weights import MOVING, pairs_of, to_state_dict
from lightning_cifake.model.network import DROPOUT, FEATURES, FakeImageNetwork

VARIABLES = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", *MOVING),
}
# what KerasAdam computes; another value of these is another optimizer
ADAM: dict[str, tuple[Any, ...]] = {
    "beta_1": (0.9,),
    "beta_2": (0.999,),
    "epsilon": (1e-7,),
    "amsgrad": (False,),
    "weight_decay": (None, False, 0),
    "clipnorm": (None,),
    "global_clipnorm": (None,),
    "clipvalue": (None,),
    "use_ema": (False, None),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
}


class Adam(NamedTuple):
    """``iterations`` updates were made; the moments by the names of our parameters."""

    iterations: int
    learning_rate: float
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]


class Imported(NamedTuple):
    """``head`` is None where the file holds a backbone alone, and ``state`` then has no other entries.

    ``weights`` and ``values`` count what Keras counts: arrays, and numbers in them.
    """

    state: dict[str, Tensor]
    head: str | None
    dropout: float
    image_size: int
    freeze_backbone: bool
    adam: Adam | None
    weights: int
    values: int
    notes: list[str]


def import_keras(path: Path, head: str | None = None, image_size: int | None = None) -> Imported:
    """Reads a Keras file.

    Args:
        path: ``.keras``, ``.h5`` or ``.weights.h5``.
        head: the head's line, for a file of weights alone.
        image_size: height and width of the images, where the file does not tell.

    Raises:
        UserError: not a file of Keras, code in it, another architecture (the first layer that differs), or weights that
            do not fit (all of them).
    """
    with open_keras(path) as file:
        if file.model is None:
            return _import_weights_file(file, head, image_size)
        if head is not None:
            raise UserError(f"--head is for files of weights alone: {file.name} tells its head itself")
        model = recognise(read_graph(file.model, file.name), file.name)
        if image_size is not None and model.image_size not in (None, image_size):
            raise UserError(f"--image_size: {file.name} takes images of {model.image_size}, came {image_size}")
        notes = list(model.notes)
        size = model.image_size or image_size
        if size is None:
            size = 32
            notes.append("it takes images of any size: taken as 32 (--image_size says otherwise)")
        weights, names = _weights_of(file, model)
        like = _like(str(model.head) if model.head else None, size)
        state = to_state_dict(weights, like, file.name, _labels(names))
        frozen = frozen_backbone(model)
        adam = _adam(file, model, weights, like, frozen, notes)
        line, dropout = _line_and_dropout(model.head)
        return Imported(state, line, dropout, size, frozen, adam, len(weights), _count(weights), notes)


def _import_weights_file(file: KerasFile, head: str | None, image_size: int | None) -> Imported:
    guessed = guess(file, parse_head(head) if head is not None else None)
    notes = list(guessed.notes)
    if file.optimizer_variables:
        notes.append("the optimizer state is left out: a file of weights does not tell which optimizer it is of")
    side = math.isqrt(guessed.features // FEATURES) if guessed.features else 1
    size = image_size or 32 * (side if guessed.head and guessed.head.pooling == "flatten" else 1)
    like = _like(str(guessed.head) if guessed.head else None, size)
    state = to_state_dict(guessed.weights, like, file.name, _labels(guessed.names))
    line, dropout = _line_and_dropout(guessed.head)
    return Imported(state, line, dropout, size, False, None, len(guessed.weights), _count(guessed.weights), notes)


def _count(weights: dict[str, Any]) -> int:
    return sum(math.prod(value.shape) for value in weights.values())


def _like(head: str | None, image_size: int) -> dict[str, Tensor]:
    """Names and shapes of the network's state_dict, without its memory; of the backbone alone without a head."""
    with torch.device("meta"):
        network = FakeImageNetwork(image_size=image_size, head=head or PUBLISHED_HEAD)
    return {name: value for name, value in network.state_dict().items() if head or name.startswith("backbone.")}


def _line_and_dropout(head: Head | None) -> tuple[str | None, float]:
    """A head with one dropout leaves its rate to ``model.dropout``, as the published one does."""
    if head is None:
        return None, DROPOUT
    rates = [layer.rate for layer in head.layers if layer.kind == "dropout"]
    if len(rates) != 1 or rates[0] is None:
        return str(head), DROPOUT
    bare = [layer._replace(rate=None) if layer.kind == "dropout" else layer for layer in head.layers]
    return str(make_head(head.pooling, bare)), rates[0]


def _labels(names: dict[str, str]) -> Callable[[str], str]:
    """What an error calls a weight: by its layer's name in the file."""

    def label(weight: str) -> str:
        layer, _, variable = weight.rpartition("/")
        return f"{names.get(layer, layer)}/{variable}"

    return label


def _weights_of(file: KerasFile, model: Model) -> tuple[dict[str, Any], dict[str, str]]:
    """Every variable in the file by its name in keras_weights, and the layers' names in the file."""
    left = dict(file.layers)
    weights: dict[str, Any] = {}
    names: dict[str, str] = {}
    for node in model.dropped:
        left.pop(_place(file, node, left), None)
    for node, layer in model.layers.items():
        names[layer] = node.name
        variables = left.pop(_place(file, node, left), {})
        for at, value in variables.items():
            known = VARIABLES[node.kind]
            named = at if file.legacy else known[int(at)] if at.isdecimal() and int(at) < len(known) else at
            weights[f"{layer}/{named}"] = value
    for (group, inner), variables in left.items():
        weights.update({f"{inner or group}/{at}": value for at, value in variables.items()})
    return weights, names


def _place(file: KerasFile, node: Node, left: Iterable[tuple[str, str]]) -> tuple[str, str]:
    if not file.legacy:
        return node.path, ""
    return (node.group, node.name) if (node.group, node.name) in left else (node.group, node.group)


def _adam(
    file: KerasFile,
    model: Model,
    weights: dict[str, Any],
    like: dict[str, Tensor],
    frozen: bool,
    notes: list[str],
) -> Adam | None:
    """The optimizer's state, or None and, where there was one, a note that says why it is left out."""
    if not file.optimizer_variables or file.optimizer is None:
        return None
    iterations, *rest = file.optimizer_variables
    if iterations.shape != () or int(iterations[()]) == 0:
        return None  # compiled, and not yet trained
    reason = _not_our_adam(file.optimizer)
    if model.head is None:
        reason = "its head is left out"
    # in the order of Keras's trainable_variables
    trained = [
        f"{layer}/{variable}"
        for node in model.order
        if (layer := model.layers.get(node)) is not None and node.trainable
        for variable in VARIABLES[node.kind]
        if variable not in MOVING and f"{layer}/{variable}" in weights
    ]
    moments = rest[1:]
    if reason is None and [value.shape for value in moments] != [weights[n].shape for n in trained for _ in range(2)]:
        reason = "it is not of the layers that can be trained now"
    pairs = [pair for pair in pairs_of(like) if pair.trained and not (frozen and pair.ours.startswith("backbone."))]
    if reason is None and {name for name in trained if not name.endswith("_conv/bias")} != {p.keras for p in pairs}:
        reason = "some of its layers were frozen"
    if reason is not None:
        notes.append(f"the optimizer state is left out: {reason}")
        return None
    first = {name: np.asarray(value) for name, value in zip(trained, moments[::2], strict=True)}
    second = {name: np.asarray(value) for name, value in zip(trained, moments[1::2], strict=True)}
    if not all(np.isfinite(value).all() for value in [*first.values(), *second.values()]):
        raise UserError(f"{file.name}: NaN or infinite values in its optimizer's state")
    exp_avg, exp_avg_sq = (
        {pair.ours: pair.to_ours(values[pair.keras]) for pair in pairs} for values in (first, second)
    )
    return Adam(int(iterations[()]), float(rest[0][()]), exp_avg, exp_avg_sq)


def _not_our_adam(optimizer: dict[str, Any]) -> str | None:
    kind, config = optimizer.get("class_name"), optimizer.get("config") or {}
    if kind != "Adam":
        return f"it is of {kind}, and training here goes on with Adam"
    if not isinstance(config.get("learning_rate"), int | float):
        return "its learning rate follows a schedule of steps, and here of epochs"
    for name, values in ADAM.items():
        if name in config and config[name] not in values:
            return f"its {name} is {config[name]}, and here {values[0]}"
    return None
