"""A Keras file as a state_dict of this network, with what the file tells of its head, its images and its optimizer."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.files import KerasFile, open_keras
from lightning_cifake.keras_io.graph import Node, read_graph
from lightning_cifake.keras_io.match_resnet import Model, frozen_backbone, recognise
from lightning_cifake.keras_io.optimizer import Adam, read_moments
from lightning_cifake.keras_io.weights import MOVING, pairs_of, to_state_dict
from lightning_cifake.keras_io.weights_only import Guess, infer_head
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.networks.head import PUBLISHED_HEAD, Head, make_head, parse_head
from lightning_cifake.networks.pixels import BASES, DEFAULT, Affine, Pixels
from lightning_cifake.networks.resnet50 import DROPOUT, FEATURES, ResNet50Detector
from lightning_cifake.text import printable

VARIABLES = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", *MOVING),
}


class Imported(NamedTuple):
    """``head`` is None where the file holds a backbone alone, and ``state`` then has no other entries.

    ``weights`` and ``values`` count what Keras counts: arrays, and numbers in them. ``pixels`` is a line of
    :mod:`pixels`.
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
    pixels: str = DEFAULT


class Hints(NamedTuple):
    """What a Keras file does not tell, and a user may: None is taken for granted, with a note.

    ``head`` is the head's line, for a file of weights alone; ``image_size`` the images' height and width; ``pixels``
    what the model was fed, of :data:`pixels.BASES`; ``real_class`` which of its two classes, 0 or 1, is REAL.
    """

    head: str | None = None
    image_size: int | None = None
    pixels: str | None = None
    real_class: int | None = None


def import_keras(
    path: Path,
    head: str | None = None,
    image_size: int | None = None,
    pixels: str | None = None,
    real_class: int | None = None,
    backbone: bool = False,
) -> Imported:
    """Reads a Keras file.

    Args:
        path: ``.keras``, ``.h5``, ``.weights.h5``, or the folder of a SavedModel.
        head, image_size, pixels, real_class: as in :class:`Hints`.
        backbone: a backbone to start from is wanted: a classifier of ImageNet's 1,000 classes is left out with a note.

    Raises:
        UserError: not a file of Keras, code in it, another architecture (the first layer that differs), or weights that
            do not fit (all of them). One line.
    """
    hints = Hints(head, image_size, pixels, real_class)
    _check_hints(hints)
    with open_keras(path) as file:
        imported = (
            _import_weights_file(file, hints, backbone) if file.model is None else _import_model(file, hints, backbone)
        )
        return imported._replace(notes=[printable(note) for note in imported.notes])


def _check_hints(hints: Hints) -> None:
    if hints.pixels is not None and hints.pixels not in BASES:
        raise UserError(f"--pixels: expected one of {', '.join(BASES)}, got {hints.pixels}")
    if hints.real_class not in (None, 0, 1):
        raise UserError(f"--real_class: expected 0 or 1, got {hints.real_class}")
    if hints.image_size is not None and not 1 <= hints.image_size <= LARGEST_IMAGE:
        raise UserError(f"--image_size: expected 1 to {LARGEST_IMAGE}, got {hints.image_size}")


def _import_model(file: KerasFile, hints: Hints, backbone: bool) -> Imported:
    assert file.model is not None
    if hints.head is not None:
        raise UserError(f"--head is for files of weights alone: {file.name} tells its head itself")

    def variables(node: Node) -> Mapping[str, Any]:
        return file.layers.get(_place(file, node, file.layers), {})

    model = recognise(read_graph(file.model, file.name), file.name, variables, backbone)
    if hints.image_size is not None and model.image_size not in (None, hints.image_size):
        raise UserError(f"--image_size: {file.name} takes images of {model.image_size}, got {hints.image_size}")
    notes = list(model.notes)
    size = model.image_size or hints.image_size
    if size is None:
        size = 32
        notes.append("it takes images of any size: taken as 32 (--image_size says otherwise)")
    weights, names = _weights_of(file, model)
    like = _like(str(model.head) if model.head else None, size)
    count, values = len(weights), _count(weights)
    frozen = frozen_backbone(model)
    adam = _adam(file, model, weights, names, like, frozen, notes)
    if model.outputs == 2:
        weights = _one_logit(weights, hints.real_class)
    state = to_state_dict(weights, like, file.name, _labels(names))
    line, dropout = _line_and_dropout(model.head)
    pixels = _pixels(hints.pixels, model.inside, model.front, notes) if line or model.front else hints.pixels or DEFAULT
    imported = Imported(state, line, dropout, size, frozen, adam, count, values, notes, str(pixels))
    return _of_class(imported, hints.real_class, turn=model.outputs == 1)


def _import_weights_file(file: KerasFile, hints: Hints, backbone: bool) -> Imported:
    guessed = infer_head(file, parse_head(hints.head) if hints.head is not None else None, backbone)
    notes = list(guessed.notes)
    if file.optimizer_variables:
        notes.append("the optimizer state is left out: a file of weights does not tell which optimizer it is of")
    size, guessed = _size_and_pooling(file, guessed, hints, notes)
    like = _like(str(guessed.head) if guessed.head else None, size)
    count, values = len(guessed.weights), _count(guessed.weights)
    weights = _one_logit(guessed.weights, hints.real_class) if guessed.outputs == 2 else guessed.weights
    state = to_state_dict(weights, like, file.name, _labels(guessed.names))
    line, dropout = _line_and_dropout(guessed.head)
    pixels = _pixels(hints.pixels, Affine(), [], notes) if line else hints.pixels or DEFAULT
    imported = Imported(state, line, dropout, size, False, None, count, values, notes, str(pixels))
    return _of_class(imported, hints.real_class, turn=guessed.outputs == 1)


def _size_and_pooling(file: KerasFile, guessed: Guess, hints: Hints, notes: list[str]) -> tuple[int, Guess]:
    """The images' size, as given or by what reaches the head; and a head that pools where only that fits the size."""
    size = hints.image_size or file.image_size
    if size is not None and size > LARGEST_IMAGE:
        raise UserError(f"{file.name}: expected images of 1 to {LARGEST_IMAGE} pixels a side, got {size}")
    if guessed.head is None:
        return size or 32, guessed
    pools = guessed.features == FEATURES and hints.head is None
    if pools and size is not None and math.ceil(size / 32) > 1:
        return size, guessed._replace(head=guessed.head._replace(pooling="avgpool"))
    if size is None:
        side = math.isqrt(guessed.features // FEATURES) if guessed.features else 1
        size = 32 * (side if guessed.head.pooling == "flatten" else 1)
        notes.append(f"taken for granted: its images are {size} pixels wide and high (--image_size says otherwise)")
    return size, guessed


def _pixels(given: str | None, inside: Affine, front: list[str], notes: list[str]) -> Pixels:
    """What the model was fed: as the user says, else what its own scaling is made for, with a note."""
    if given is not None:
        return Pixels(given, inside)
    if not front:
        others = ", ".join(name for name in BASES if name != DEFAULT)
        notes.append(
            f"taken for granted: it was fed RGB in [0, 1], which a Keras file does not tell (--pixels {others})"
        )
        return Pixels()
    base = "0-255" if _made_for_bytes(inside) else "0-1"
    notes.append(
        f"its own scaling ({', '.join(front)}) is kept; taken for granted: it was fed RGB from "
        f"{base.replace('-', ' to ')} (--pixels says otherwise)"
    )
    return Pixels(base, inside)


def _made_for_bytes(inside: Affine) -> bool:
    """Whether a scaling is one of bytes: what it makes 0 of lies beyond 1, or it makes values much smaller."""
    zero = max(abs(offset / scale) if scale else 0.0 for scale, offset in zip(inside.scale, inside.offset, strict=True))
    return zero > 1.5 or (zero == 0 and max(map(abs, inside.scale)) < 1 / 50)


def _one_logit(weights: dict[str, Any], real_class: int | None) -> dict[str, Any]:
    """The last dense layer of two outputs as one: softmax of two is the sigmoid of their difference."""
    real = 1 if real_class is None else real_class
    folded = dict(weights)
    for name in ("logit/kernel", "logit/bias"):
        value = weights.get(name)
        if value is not None and value.shape[-1:] == (2,) and value.dtype.kind == "f":
            numbers = np.asarray(value)
            folded[name] = numbers[..., real : real + 1] - numbers[..., 1 - real : 2 - real]
    return folded


def _of_class(imported: Imported, real_class: int | None, turn: bool) -> Imported:
    """P(REAL) comes out: turned round where the model's class 1 is FAKE. ``turn``: it has one output."""
    if imported.head is None:
        return imported
    if real_class is None:
        imported.notes.append(
            "taken for granted: its class 1 is REAL, as Keras sorts the folders FAKE and REAL (--real_class 0 turns it)"
        )
    if real_class != 0 or not turn:
        return imported
    names = ("head.logit.weight", "head.logit.bias")

    def turned(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: -value if name in names else value for name, value in values.items()}

    adam = imported.adam
    return imported._replace(state=turned(imported.state), adam=adam and adam._replace(exp_avg=turned(adam.exp_avg)))


def _count(weights: dict[str, Any]) -> int:
    return sum(math.prod(value.shape) for value in weights.values())


def _like(head: str | None, image_size: int) -> dict[str, Tensor]:
    """Names and shapes of the network's state_dict, without its memory; of the backbone alone without a head."""
    with torch.device("meta"):
        network = ResNet50Detector(image_size=image_size, head=head or PUBLISHED_HEAD)
    return {name: value for name, value in network.state_dict().items() if head or name.startswith("backbone.")}


def _line_and_dropout(head: Head | None) -> tuple[str | None, float]:
    """A head with one dropout leaves its rate to ``model.network.dropout``, as the published one does."""
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
    names: dict[str, str],
    like: dict[str, Tensor],
    frozen: bool,
    notes: list[str],
) -> Adam | None:
    """The optimizer's state, or None and, where there could have been one, a note that says why it is left out."""
    # in the order of Keras's trainable_variables
    trained = {
        f"{layer}/{variable}": f"{names[layer]}/{variable}"
        for node in model.order
        if (layer := model.layers.get(node)) is not None and node.trainable
        for variable in VARIABLES[node.kind]
        if variable not in MOVING and f"{layer}/{variable}" in weights
    }
    found = read_moments(file, trained, weights)
    if found is None:
        return None
    pairs = [pair for pair in pairs_of(like) if pair.trained and not (frozen and pair.ours.startswith("backbone."))]
    if isinstance(found, str):
        reason = found
    elif model.head is None:
        reason = "its head is left out"
    elif model.outputs == 2:
        reason = "its last layer's two outputs became one"
    elif {name for name in trained if not name.endswith("_conv/bias")} != {pair.keras for pair in pairs}:
        reason = "some of its layers were frozen"
    else:
        exp_avg, exp_avg_sq = (
            {pair.ours: pair.to_ours(values[pair.keras]) for pair in pairs} for values in (found.first, found.second)
        )
        return Adam(found.iterations, found.learning_rate, exp_avg, exp_avg_sq)
    notes.append(f"the optimizer state is left out: {reason}")
    return None
