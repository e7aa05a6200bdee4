"""Is a Keras model keras.applications' ResNet50 with a head that this network can have? If not, what differs first.

Source: keras/src/applications/resnet.py, Keras 3.15; the same layers since Keras 2.2.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.model.head import ACTIVATIONS, Head, HeadLayer, make_head
from lightning_cifake.model.keras_architecture import Graph, Node
from lightning_cifake.model.keras_weights import STAGES

PIXEL = 1 / 255  # of keras.layers.Rescaling, where the model takes 0 to 255
KERAS_HEAD_EPSILON, KERAS_MOMENTUM = 1e-3, 0.99
POOLINGS = {"Flatten": "flatten", "GlobalAveragePooling2D": "avgpool"}
KERAS_ACTIVATIONS = {**{name: name for name in ACTIVATIONS}, "swish": "silu"}


class Expected(NamedTuple):
    """A layer of keras.applications' ResNet50: its name and kind, the values that matter, the layers it takes from."""

    name: str
    kind: str
    values: dict[str, Any]
    inputs: tuple[str, ...]


class Model(NamedTuple):
    """What a Keras model is for this network.

    ``layers`` gives each layer with weights its name in :mod:`keras_weights`; ``head`` is None for a backbone alone;
    ``image_size`` None where the model takes any; ``order`` the nodes in the order in which Keras lists its variables.
    """

    layers: dict[Node, str]
    head: Head | None
    image_size: int | None
    order: list[Node]
    dropped: list[Node]
    notes: list[str]


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


def recognise(graph: Graph, source: str) -> Model:
    """Finds ResNet50 in a model, layer by layer, and reads the head behind it.

    Raises:
        UserError: the first layer of the backbone that differs, or the first of the head that cannot be taken.
    """
    notes: list[str] = []
    start = _skip_rescaling(graph, source, notes)
    found = {"input": start}
    for expected in expected_layers():
        found[expected.name] = _find(graph, expected, found, source)
    layers = {node: name for name, node in found.items() if name.endswith(("_conv", "_bn"))}
    chain = _chain(graph, found[expected.name], source)
    head, dropped = None, list[Node]()
    if len(chain) == 2 and chain[1].kind == "Dense" and chain[1].name == "predictions" and chain[1].config["units"] > 1:
        chain, dropped = [], [chain[1]]
        notes.append("its layer predictions, a classifier of ImageNet, is left out")
    if chain and not (len(chain) == 1 and chain[0].kind in POOLINGS):
        head, named = _read_head(chain, source, notes)
        layers.update(named)
    _note_trainable(layers, notes)
    if any(node.called_for_inference and node.trainable for node in layers):
        notes.append("it calls its backbone with training=False; here batch norm trains unless model.freeze_backbone")
    return Model(layers, head, _image_size(graph.input, source), graph.nodes, dropped, notes)


def frozen_backbone(model: Model) -> bool:
    return not any(node.trainable for node, name in model.layers.items() if name.endswith(("_conv", "_bn")))


def _note_trainable(layers: dict[Node, str], notes: list[str]) -> None:
    parts: dict[bool, set[bool]] = {True: set(), False: set()}  # of the backbone, of the head
    for node, name in layers.items():
        parts[name.endswith(("_conv", "_bn"))].add(node.trainable)
    if len(parts[True]) > 1 or False in parts[False]:
        count = sum(not node.trainable for node in layers)
        notes.append(f"{count} of its layers were frozen (trainable=False), which only a whole backbone can be here")


def _image_size(node: Node, source: str) -> int | None:
    shape = node.config.get("batch_shape") or node.config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise UserError(f"{source}: expected an input of (height = width, 3 channels), came {shape} ({node.name})")
    if shape[1] is not None and not (isinstance(shape[1], int) and shape[1] >= 1):
        raise UserError(f"{source}: expected an input of (height = width, 3 channels), came {shape} ({node.name})")
    return shape[1]


def _skip_rescaling(graph: Graph, source: str, notes: list[str]) -> Node:
    node = graph.input
    after = graph.users(node)
    if len(after) != 1 or after[0].kind != "Rescaling":
        return node
    scale, offset = after[0].config.get("scale"), after[0].config.get("offset", 0.0)
    if not isinstance(scale, int | float) or abs(scale / PIXEL - 1) > 1e-9 or offset != 0:
        raise UserError(
            f"{source}: cannot take layer {after[0].name} (Rescaling with scale {scale} and offset {offset}): this "
            "network's images are pixels / 255, so that only Rescaling(1/255) can be left to its data"
        )
    notes.append(f"its layer {after[0].name} (1/255) is left out: images are in [0, 1] here")
    return after[0]


def _find(graph: Graph, expected: Expected, found: dict[str, Node], source: str) -> Node:
    inputs = [found[name] for name in expected.inputs]
    candidates = [node for node in graph.after(*inputs) if not any(node is known for known in found.values())]
    candidates.sort(key=lambda node: (node.name != expected.name, _difference(node, expected) is not None))
    if candidates:
        difference = _difference(candidates[0], expected)
        if difference is None:
            return candidates[0]
        name, came = candidates[0].name, difference
    else:
        behind = graph.users(inputs[0])
        name = behind[0].name if behind else inputs[0].name
        came = f"expected {expected.kind} ({expected.name}) from {' and '.join(node.name for node in inputs)}, came "
        came += (
            f"{behind[0].kind} from {' and '.join(n.name for n in behind[0].inputs)}" if behind else "the model's end"
        )
    raise UserError(
        f"{source} is not keras.applications' ResNet50 (v1): the first layer that differs is {name}: {came}"
    )


def _difference(node: Node, expected: Expected) -> str | None:
    """The first value of a layer that is not ResNet50's, in words."""
    if node.kind != expected.kind:
        return f"expected {expected.kind} ({expected.name}), came {node.kind}"
    if node.config.get("data_format", "channels_last") != "channels_last":
        return f"expected data_format channels_last ({expected.name}), came {node.config['data_format']}"
    for name, value in expected.values.items():
        came = node.config.get(name, 1 if name == "groups" else None)  # Keras before 2.3 has no groups
        if name == "axis":
            came = _axis(came)
            came = 3 if came == -1 else came
        elif name == "activation":
            came = _activation(came)
        elif name in ("strides", "kernel_size", "pool_size", "dilation_rate") and isinstance(came, int):
            came = [came, came]
        if came != value:
            return f"expected {name} {value} ({expected.name}), came {came}"
    if node.config.get("renorm"):
        return f"expected {expected.name} without renorm, came one with it"
    return None


def _axis(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _activation(value: Any) -> Any:
    """Keras writes an activation's name, or a dictionary of a function of its own."""
    if isinstance(value, dict) and isinstance(value.get("config"), str):
        value = value["config"]
    return "linear" if value is None else value


def _chain(graph: Graph, node: Node, source: str) -> list[Node]:
    """The layers behind a node, each taking from the last alone, up to the model's output."""
    chain: list[Node] = []
    while node is not graph.output:
        users = graph.users(node)
        if len(users) != 1 or len(users[0].inputs) != 1:
            raise UserError(
                f"{source}: cannot take what follows layer {node.name}: expected one layer, came "
                + (", ".join(f"{user.name} ({user.kind})" for user in users) or "none on the way to the output")
            )
        node = users[0]
        chain.append(node)
    return chain


def _read_head(chain: list[Node], source: str, notes: list[str]) -> tuple[Head, dict[Node, str]]:
    first, *rest = chain
    pooling = POOLINGS.get(first.kind)
    if pooling is None:
        raise _cannot_take(source, first, "expected Flatten or GlobalAveragePooling2D behind the backbone")
    if first.config.get("data_format") not in (None, "channels_last") or first.config.get("keepdims"):
        raise _cannot_take(source, first, "expected channels_last, and no keepdims")
    layers: list[HeadLayer] = []
    nodes: list[Node] = []
    for node in rest:
        taken = [] if node.kind == "Flatten" else _head_layer(node, source)  # of features that are flat: nothing
        layers += taken
        nodes += [node] * len(taken)
        if node.config.get("kernel_regularizer") or node.config.get("kernel_constraint"):
            notes.append(f"the regularizer or constraint of its layer {node.name} is left out")
    if layers and layers[-1].kind == "sigmoid":
        layers, nodes = layers[:-1], nodes[:-1]
    last = chain[-1]
    if not layers or (layers[-1].kind, layers[-1].units) != ("dense", 1):
        came = f"{layers[-1].units} units" if layers and layers[-1].kind == "dense" else f"{last.kind} at the end"
        raise _cannot_take(source, last, f"expected Dense(1) with sigmoid or linear at the end, came {came}")
    head = make_head(pooling, layers)
    pairs = zip(nodes, head.layers, strict=True)
    return head, {node: layer.name for node, layer in pairs if layer.kind in _WITH_WEIGHTS}


_WITH_WEIGHTS = ("dense", "batchnorm")


def _cannot_take(source: str, node: Node, why: str) -> UserError:
    return UserError(f"{source}: cannot take layer {node.name} ({node.kind}): {why}")


def _head_layer(node: Node, source: str) -> list[HeadLayer]:
    """What a Keras layer is in a head: one layer, a dense one and its activation, or nothing."""
    config = node.config
    if node.kind == "Dense":
        dense = HeadLayer("dense", units=config["units"], bias=bool(config.get("use_bias", True)))
        return [dense, *_activation_layer(config.get("activation"), node, source)]
    if node.kind == "Dropout":
        if config.get("noise_shape") is not None:
            raise _cannot_take(source, node, f"expected no noise_shape, came {config['noise_shape']}")
        if not 0 <= config["rate"] < 1:
            raise _cannot_take(source, node, f"expected a rate from 0 up to 1, came {config['rate']}")
        return [HeadLayer("dropout", rate=float(config["rate"]))]
    if node.kind == "BatchNormalization":
        return [_norm_layer(node, source)]
    if node.kind == "Activation":
        return _activation_layer(config.get("activation"), node, source)
    if node.kind == "ReLU":
        values = (config.get("max_value"), config.get("negative_slope") or 0, config.get("threshold") or 0)
        if values != (None, 0, 0):
            raise _cannot_take(
                source, node, f"expected max_value, negative_slope, threshold of None, 0, 0, came {values}"
            )
        return [HeadLayer("relu")]
    raise _cannot_take(source, node, "expected one of Dense, BatchNormalization, Dropout, Activation, ReLU in the head")


def _activation_layer(value: Any, node: Node, source: str) -> list[HeadLayer]:
    name = _activation(value)
    if name == "linear":
        return []
    if not isinstance(name, str) or name not in KERAS_ACTIVATIONS:
        raise _cannot_take(source, node, f"expected an activation of {', '.join(KERAS_ACTIVATIONS)}, came {name}")
    return [HeadLayer(KERAS_ACTIVATIONS[name])]


def _norm_layer(node: Node, source: str) -> HeadLayer:
    config = node.config
    wanted = {"axis": (-1, 1), "center": (True,), "scale": (True,), "renorm": (False, None)}
    came = {name: _axis(config.get(name)) for name in wanted}
    for name, values in wanted.items():
        if came[name] not in values:
            raise _cannot_take(source, node, f"expected {name} {values[0]}, came {came[name]}")
    eps, momentum = float(config["epsilon"]), float(config["momentum"])
    return HeadLayer(
        "batchnorm",
        eps=None if eps == KERAS_HEAD_EPSILON else eps,
        # torch counts the share of the new; the rounding of 1 - 0.95 would stand in the configuration
        momentum=None if momentum == KERAS_MOMENTUM else round(1 - momentum, 15),
    )
