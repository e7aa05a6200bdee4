"""Is a Keras model keras.applications' ResNet50 with a head that this network can have? If not, what differs first.

Source: keras/src/applications/resnet.py, Keras 3.15; the same layers since Keras 2.2.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.front import Variables, no_variables, read_front
from lightning_cifake.keras_io.graph import Graph, Node
from lightning_cifake.keras_io.head import (
    KERAS_MOMENTUM,
    POOLINGS,
    activation_of,
    axis_of,
    chain_behind,
    is_imagenet_top,
    read_head,
)
from lightning_cifake.keras_io.weights import STAGES
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.networks.head import Head
from lightning_cifake.networks.pixels import Affine


class Expected(NamedTuple):
    """A layer of keras.applications' ResNet50: its name and kind, the values that matter, the layers it takes from."""

    name: str
    kind: str
    values: dict[str, Any]
    inputs: tuple[str, ...]


class Model(NamedTuple):
    """What a Keras model is for this network.

    ``layers`` gives each layer with weights its name in :mod:`keras_weights`; ``head`` is None for a backbone alone;
    ``image_size`` None where the model takes any; ``order`` the nodes in the order in which Keras lists its variables;
    ``inside`` is what its layers ``front`` do to the images first; ``outputs`` is 1, or 2 where each class has one.
    """

    layers: dict[Node, str]
    head: Head | None
    image_size: int | None
    order: list[Node]
    dropped: list[Node]
    notes: list[str]
    inside: Affine
    front: list[str]
    outputs: int


def expected_layers() -> Iterator[Expected]:
    def convolution(name: str, source: str, filters: int, kernel: int, stride: int, padding: str) -> Expected:
        values = {
            "filters": filters,
            "kernel_size": [kernel, kernel],
            "strides": [stride, stride],
            "padding": padding,
            "dilation_rate": [1, 1],
            "groups": 1,
            "activation": "linear",
            "use_bias": True,
        }
        return Expected(f"{name}_conv", "Conv2D", values, (source,))

    def norm(name: str) -> Expected:
        values = {"axis": 3, "epsilon": 1.001e-5, "momentum": KERAS_MOMENTUM, "center": True, "scale": True}
        return Expected(f"{name}_bn", "BatchNormalization", values, (f"{name}_conv",))

    def relu(name: str, source: str) -> Expected:
        return Expected(name, "Activation", {"activation": "relu"}, (source,))

    yield Expected("conv1_pad", "ZeroPadding2D", {"padding": [[3, 3], [3, 3]]}, ("input",))
    yield convolution("conv1", "conv1_pad", 64, 7, 2, "valid")
    yield norm("conv1")
    yield relu("conv1_relu", "conv1_bn")
    yield Expected("pool1_pad", "ZeroPadding2D", {"padding": [[1, 1], [1, 1]]}, ("conv1_relu",))
    pool = {"pool_size": [3, 3], "strides": [2, 2], "padding": "valid"}
    yield Expected("pool1_pool", "MaxPooling2D", pool, ("pool1_pad",))
    source = "pool1_pool"
    for stage, (filters, (_, blocks)) in enumerate(zip((64, 128, 256, 512), STAGES.values(), strict=True)):
        for block in range(1, blocks + 1):
            name = f"conv{stage + 2}_block{block}"
            stride = 2 if block == 1 and stage > 0 else 1
            yield convolution(f"{name}_1", source, filters, 1, stride, "valid")
            yield norm(f"{name}_1")
            yield relu(f"{name}_1_relu", f"{name}_1_bn")
            yield convolution(f"{name}_2", f"{name}_1_relu", filters, 3, 1, "same")
            yield norm(f"{name}_2")
            yield relu(f"{name}_2_relu", f"{name}_2_bn")
            if block == 1:
                yield convolution(f"{name}_0", source, 4 * filters, 1, stride, "valid")
                yield norm(f"{name}_0")
            yield convolution(f"{name}_3", f"{name}_2_relu", 4 * filters, 1, 1, "valid")
            yield norm(f"{name}_3")
            shortcut = f"{name}_0_bn" if block == 1 else source
            yield Expected(f"{name}_add", "Add", {}, (shortcut, f"{name}_3_bn"))
            yield relu(f"{name}_out", f"{name}_add")
            source = f"{name}_out"


def recognise(graph: Graph, source: str, variables: Variables = no_variables, backbone: bool = False) -> Model:
    """Finds ResNet50 in a model, layer by layer, and reads what stands before it and the head behind it.

    Args:
        graph: of :func:`keras_architecture.read_graph`.
        source: what the errors call the model.
        variables: gives those of a layer before ResNet50, which may be where its means are.
        backbone: a backbone is wanted: a classifier of ImageNet's 1,000 classes is left out.

    Raises:
        UserError: the first layer of the backbone that differs, or the first of the others that cannot be taken.
    """
    notes: list[str] = []
    front = read_front(graph, source, variables, notes)
    found = {"input": front.start}
    for expected in expected_layers():
        found[expected.name] = _find(graph, expected, found, source)
    layers = {node: name for name, node in found.items() if name.endswith(("_conv", "_bn"))}
    chain = chain_behind(graph, found[expected.name], source)
    head, dropped, outputs = None, list(front.dropped), 1
    if backbone and is_imagenet_top(chain):
        dropped.append(chain[1])
        notes.append(f"its layer {chain[1].name}, a classifier of ImageNet, is left out")
        chain = []
    if chain and not (len(chain) == 1 and chain[0].kind in POOLINGS):
        head, named, outputs = read_head(chain, source, notes)
        layers.update(named)
    _note_trainable(layers, notes)
    if any(node.called_for_inference and node.trainable for node in layers):
        notes.append(
            "it calls its backbone with training=False; here batch norm trains unless model.network.freeze_backbone"
        )
    if any(_is_mixed(node) for node in layers):
        notes.append(
            "its layers compute in 16 bits (mixed precision); here in float32, unless trainer.precision says so"
        )
    size = _image_size(graph.input, source, front.resized)
    return Model(layers, head, size, graph.nodes, dropped, notes, front.inside, front.layers, outputs)


def _is_mixed(node: Node) -> bool:
    policy = node.config.get("dtype")
    policy = policy.get("config") if isinstance(policy, dict) else policy
    return str(policy.get("name") if isinstance(policy, dict) else policy).startswith("mixed_")


def frozen_backbone(model: Model) -> bool:
    return not any(node.trainable for node, name in model.layers.items() if name.endswith(("_conv", "_bn")))


def _note_trainable(layers: dict[Node, str], notes: list[str]) -> None:
    parts: dict[bool, set[bool]] = {True: set(), False: set()}  # of the backbone, of the head
    for node, name in layers.items():
        parts[name.endswith(("_conv", "_bn"))].add(node.trainable)
    if len(parts[True]) > 1 or False in parts[False]:
        count = sum(not node.trainable for node in layers)
        notes.append(f"{count} of its layers were frozen (trainable=False), which only a whole backbone can be here")


def _image_size(node: Node, source: str, resized: Any) -> int | None:
    shape = node.config.get("batch_shape") or node.config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise UserError(f"{source}: expected an input of (height = width, 3 channels), got {shape} ({node.name})")
    if resized is not None and shape[1] not in (None, resized):
        raise UserError(
            f"{source}: expected images of any size before a Resizing to {resized}, got {shape} ({node.name})"
        )
    size = resized if resized is not None else shape[1]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_IMAGE):
        raise UserError(f"{source}: expected images of 1 to {LARGEST_IMAGE} pixels a side, got {size} ({node.name})")
    return size


def _find(graph: Graph, expected: Expected, found: dict[str, Node], source: str) -> Node:
    inputs = [found[name] for name in expected.inputs]
    candidates = [node for node in graph.after(*inputs) if not any(node is known for known in found.values())]
    candidates.sort(key=lambda node: (node.name != expected.name, _difference(node, expected) is not None))
    if candidates:
        difference = _difference(candidates[0], expected)
        if difference is None:
            return candidates[0]
        name, got = candidates[0].name, difference
    else:
        behind = graph.users(inputs[0])
        name = behind[0].name if behind else inputs[0].name
        got = f"expected {expected.kind} ({expected.name}) from {' and '.join(node.name for node in inputs)}, got "
        got += (
            f"{behind[0].kind} from {' and '.join(n.name for n in behind[0].inputs)}" if behind else "the model's end"
        )
    raise UserError(f"{source} is not keras.applications' ResNet50 (v1): the first layer that differs is {name}: {got}")


def _difference(node: Node, expected: Expected) -> str | None:
    """The first value of a layer that is not ResNet50's, in words."""
    if node.kind != expected.kind:
        return f"expected {expected.kind} ({expected.name}), got {node.kind}"
    if node.config.get("data_format", "channels_last") != "channels_last":
        return f"expected data_format channels_last ({expected.name}), got {node.config['data_format']}"
    for name, value in expected.values.items():
        got = node.config.get(name, 1 if name == "groups" else None)  # Keras before 2.3 has no groups
        if name == "axis":
            got = axis_of(got)
            got = 3 if got == -1 else got
        elif name == "activation":
            got = activation_of(got)
        elif name in ("strides", "kernel_size", "pool_size", "dilation_rate") and isinstance(got, int):
            got = [got, got]
        if got != value:
            return f"expected {name} {value} ({expected.name}), got {got}"
    if node.config.get("renorm"):
        return f"expected {expected.name} without renorm, got one with it"
    return None
