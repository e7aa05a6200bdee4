"""The head behind a Keras model's ResNet50: layers that this network's head can have, ending in one logit or in two."""

import math
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.front import FLOATS, NOTHING, TRAINING_ONLY, cast_target, training_only
from lightning_cifake.keras_io.graph import Graph, Node
from lightning_cifake.networks.head import ACTIVATIONS, MOST_LAYERS, MOST_UNITS, Head, HeadLayer, make_head

KERAS_HEAD_EPSILON, KERAS_MOMENTUM = 1e-3, 0.99
POOLINGS = {"Flatten": "flatten", "GlobalAveragePooling2D": "avgpool"}
KERAS_ACTIVATIONS = {**{name: name for name in ACTIVATIONS}, "swish": "silu"}
IMAGENET_CLASSES = 1000
LARGEST_EPSILON = 1e6
ENDS = "Dense(1) with sigmoid or linear, or Dense(2) with softmax or linear, at the end"
_WITH_WEIGHTS = ("dense", "batchnorm")


class ReadHead(NamedTuple):
    """``named`` gives the layers with weights their names in the head; ``outputs`` is 1, or 2 where the last dense
    layer has one for each class: its logit is then the difference of the two."""

    head: Head
    named: dict[Node, str]
    outputs: int


def wrong_end(source: str, layer: str, units: Any) -> UserError:
    """For a classifier of something else than two classes."""
    hint = ""
    if units == IMAGENET_CLASSES:
        hint = ": of ImageNet's 1,000 classes; as a start for training take it with fit --model.weights"
    return UserError(f"{source}: cannot take layer {layer} (Dense): expected {ENDS}, got {units} units{hint}")


def is_imagenet_top(chain: list[Node]) -> bool:
    """Pooling and the dense layer of keras.applications' ``include_top``."""
    kinds = [node.kind for node in chain]
    return kinds[:2] == ["GlobalAveragePooling2D", "Dense"] and chain[1].config.get("units") == IMAGENET_CLASSES


def axis_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def activation_of(value: Any) -> Any:
    """Keras writes an activation's name, or a dictionary of a function of its own."""
    if isinstance(value, dict) and isinstance(value.get("config"), str):
        value = value["config"]
    return "linear" if value is None else value


def chain_behind(graph: Graph, node: Node, source: str) -> list[Node]:
    """The layers behind a node, each taking from the last alone, up to the model's output."""
    chain: list[Node] = []
    while node is not graph.output:
        users = graph.users(node)
        if len(users) != 1 or len(users[0].inputs) != 1:
            raise UserError(
                f"{source}: cannot take what follows layer {node.name}: expected one layer, got "
                + (", ".join(f"{user.name} ({user.kind})" for user in users) or "none on the way to the output")
            )
        node = users[0]
        chain.append(node)
    return chain


def read_head(chain: list[Node], source: str, notes: list[str]) -> ReadHead:
    """Reads the layers behind the backbone.

    Raises:
        UserError: the first layer that cannot be taken, or another end than one or two outputs.
    """
    first, *rest = chain
    pooling = POOLINGS.get(first.kind)
    if pooling is None:
        raise _cannot_take(source, first, "expected Flatten or GlobalAveragePooling2D behind the backbone")
    if first.config.get("data_format") not in (None, "channels_last") or first.config.get("keepdims"):
        raise _cannot_take(source, first, "expected channels_last, and no keepdims")
    while rest and _does_nothing(rest[-1]):
        rest.pop()
    if len(rest) > MOST_LAYERS:
        raise UserError(f"{source}: expected at most {MOST_LAYERS} layers in the head, got {len(rest)}")
    layers: list[HeadLayer] = []
    nodes: list[Node] = []
    for node in rest:
        taken = _head_layer(node, source, notes, last=node is rest[-1])
        layers += taken
        nodes += [node] * len(taken)
        if node.config.get("kernel_regularizer") or node.config.get("kernel_constraint"):
            notes.append(f"the regularizer or constraint of its layer {node.name} is left out")
    end = ""
    if layers and layers[-1].kind in ("sigmoid", "softmax"):
        end, layers, nodes = layers[-1].kind, layers[:-1], nodes[:-1]
    if not layers or layers[-1].kind != "dense":
        raise _cannot_take(source, chain[-1], f"expected {ENDS}, got {chain[-1].kind} at the end")
    outputs = layers[-1].units
    if outputs not in (1, 2):
        raise wrong_end(source, nodes[-1].name, outputs)
    if end == ("softmax", "sigmoid")[outputs - 1]:
        raise _cannot_take(source, nodes[-1], f"expected {ENDS}, got Dense({outputs}) with {end}")
    if not end:
        notes.append(f"its layer {nodes[-1].name} has no activation at the end: what comes out is taken for logits")
    head = make_head(pooling, [*layers[:-1], layers[-1]._replace(units=1)])
    pairs = zip(nodes, head.layers, strict=True)
    return ReadHead(head, {node: layer.name for node, layer in pairs if layer.kind in _WITH_WEIGHTS}, outputs)


def _does_nothing(node: Node) -> bool:
    """As a cast of what comes out, which Keras's guide to mixed precision puts behind a softmax, does not.

    Keras 3.5 also writes casts of its own, in front of a layer of another precision than the one before.
    """
    linear = node.kind == "Activation" and activation_of(node.config.get("activation")) == "linear"
    cast = node.kind == "Cast" and cast_target(node).startswith(FLOATS)
    return node.kind in NOTHING or linear or cast


def _cannot_take(source: str, node: Node, why: str) -> UserError:
    return UserError(f"{source}: cannot take layer {node.name} ({node.kind}): {why}")


def _head_layer(node: Node, source: str, notes: list[str], last: bool) -> list[HeadLayer]:
    """What a Keras layer is in a head: one layer, a dense one and its activation, or nothing."""
    config = node.config
    if node.kind == "Flatten" or _does_nothing(node):  # of features that are flat: nothing
        return []
    if node.kind in TRAINING_ONLY:
        notes.append(training_only(node))
        return []
    if node.kind == "Dense":
        units = config["units"]
        if not isinstance(units, int) or isinstance(units, bool) or not 0 < units < MOST_UNITS:
            raise _cannot_take(source, node, f"expected 1 to {MOST_UNITS - 1:,} units, got {units}")
        dense = HeadLayer("dense", units=units, bias=bool(config.get("use_bias", True)))
        return [dense, *_activation_layer(config.get("activation"), node, source, last)]
    if node.kind == "Dropout":
        rate = config["rate"]
        if config.get("noise_shape") is not None:
            raise _cannot_take(source, node, f"expected no noise_shape, got {config['noise_shape']}")
        if not _is_number(rate) or not 0 <= rate < 1:
            raise _cannot_take(source, node, f"expected a rate from 0 up to 1, got {rate}")
        return [HeadLayer("dropout", rate=float(rate))]
    if node.kind == "Softmax":
        if config.get("axis", -1) not in (-1, 1):
            raise _cannot_take(source, node, f"expected axis -1, got {config['axis']}")
        return _activation_layer("softmax", node, source, last)
    if node.kind == "BatchNormalization":
        return [_norm_layer(node, source)]
    if node.kind == "Activation":
        return _activation_layer(config.get("activation"), node, source, last)
    if node.kind == "ReLU":
        values = (config.get("max_value"), config.get("negative_slope") or 0, config.get("threshold") or 0)
        if values != (None, 0, 0):
            raise _cannot_take(
                source, node, f"expected max_value, negative_slope, threshold of None, 0, 0, got {values}"
            )
        return [HeadLayer("relu")]
    raise _cannot_take(source, node, "expected one of Dense, BatchNormalization, Dropout, Activation, ReLU in the head")


def _activation_layer(value: Any, node: Node, source: str, last: bool) -> list[HeadLayer]:
    name = activation_of(value)
    if name == "linear":
        return []
    if name == "softmax" and last:
        return [HeadLayer("softmax")]
    if not isinstance(name, str) or name not in KERAS_ACTIVATIONS:
        raise _cannot_take(source, node, f"expected an activation of {', '.join(KERAS_ACTIVATIONS)}, got {name}")
    return [HeadLayer(KERAS_ACTIVATIONS[name])]


def _norm_layer(node: Node, source: str) -> HeadLayer:
    config = node.config
    wanted = {"axis": (-1, 1), "center": (True,), "scale": (True,), "renorm": (False, None)}
    got = {name: axis_of(config.get(name)) for name in wanted}
    for name, values in wanted.items():
        if got[name] not in values:
            raise _cannot_take(source, node, f"expected {name} {values[0]}, got {got[name]}")
    eps, momentum = config["epsilon"], config["momentum"]
    if not _is_number(eps) or not 0 < eps < LARGEST_EPSILON or not _is_number(momentum) or not 0 <= momentum < 1:
        raise _cannot_take(
            source, node, f"expected an epsilon above 0 and a momentum from 0 up to 1, got {eps}, {momentum}"
        )
    return HeadLayer(
        "batchnorm",
        eps=None if eps == KERAS_HEAD_EPSILON else float(eps),
        # torch counts the share of the new; the rounding of 1 - 0.95 would stand in the configuration
        momentum=None if momentum == KERAS_MOMENTUM else round(1 - momentum, 15),
    )
