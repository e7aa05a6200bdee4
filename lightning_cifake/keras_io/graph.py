"""A Keras model's layers and how they are joined, from its configuration alone, of which nothing is executed."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.text import reason_of

KERAS_MODULES = re.compile(r"(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras|keras_core)(\..*)?")
MODELS = ("Functional", "Sequential", "Model")
OPERATIONS = ("TFOpLambda", "SlicingOpLambda")  # of Keras 2: an operation by its name, no code
MOST_LAYERS = 2000  # ResNet50 has 175


@dataclass(eq=False)
class Node:
    """A layer as the model uses it, models inside models laid open.

    ``path`` is where Keras 3 keeps its variables in its file of weights, ``group`` the outermost layer it lies in,
    which the older format sorts by.
    """

    name: str
    kind: str
    config: dict[str, Any]
    inputs: list["Node"]
    path: str
    group: str
    called_for_inference: bool = False
    call: Any = None
    """How it is called, as the file has it: an operation's constants stand there."""

    @property
    def trainable(self) -> bool:
        return bool(self.config.get("trainable", True))


@dataclass(eq=False)
class Graph:
    """A model as a list of layers, in the order in which Keras lists its variables."""

    nodes: list[Node]
    input: Node
    output: Node

    def after(self, *inputs: Node) -> list[Node]:
        wanted = sorted(map(id, inputs))
        return [node for node in self.nodes if sorted(map(id, node.inputs)) == wanted]

    def users(self, of: Node) -> list[Node]:
        return [node for node in self.nodes if any(node_in is of for node_in in node.inputs)]


def read_graph(model: dict[str, Any], source: str) -> Graph:
    """Lays a model's configuration (``class_name``, ``config``) open.

    Raises:
        UserError: code or custom objects in it, or a model that is no Sequential or Functional one.
    """
    try:
        # a loss or metric of the author's is no part of what the model computes
        refuse_code({name: value for name, value in model.items() if name != "compile_config"}, source)
        opened = GraphBuilder(source)
        output = opened.open(model, None, "", None)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: the model's configuration is not as Keras writes it ({type(error).__name__}: "
            f"{reason_of(error)})"
        ) from error
    if opened.input is None:
        raise UserError(f"{source}: expected a model with one input of images, got one that has none")
    return Graph(opened.listed(), opened.input, output)


def refuse_code(value: Any, source: str, layer: str = "the model") -> None:
    """Refuses a Lambda, pickled code and whatever is not Keras's own, by the name of its layer."""
    if isinstance(value, list):
        for entry in value:
            refuse_code(entry, source, layer)
    if not isinstance(value, dict):
        return
    kind, config = value.get("class_name"), value.get("config")
    if isinstance(kind, str):
        if isinstance(config, dict) and isinstance(config.get("name"), str) and "layers" not in config:
            layer = config["name"]
        if "lambda" in kind.lower() and kind not in OPERATIONS:
            raise UserError(f"{source}: layer {layer} holds code of its own ({kind}), which is never run: refused")
        module, registered = value.get("module"), value.get("registered_name")
        foreign = module is not None and not KERAS_MODULES.fullmatch(str(module))
        if foreign or (isinstance(registered, str) and ">" in registered):
            called = registered or config if kind == "function" else registered or kind
            raise UserError(
                f"{source}: layer {layer} needs {called} of {module or 'its author'}, which is not Keras's own: refused"
            )
    for entry in value.values():
        refuse_code(entry, source, layer)


class GraphBuilder:
    """Collects the layers of models inside models."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.input: Node | None = None
        self._placed: list[tuple[tuple[int, ...], Node]] = []  # with the numbers at which Keras lists them

    def listed(self) -> list[Node]:
        return [node for _, node in sorted(self._placed, key=lambda placed: placed[0])]

    def open(
        self,
        model: dict[str, Any],
        given: Node | None,
        prefix: str,
        group: str | None,
        place: tuple[int, ...] = (),
        inference: bool = False,
    ) -> Node:
        """The node that the model gives for the node it is given; None for the model's own input."""
        if model["class_name"] not in MODELS:
            raise UserError(
                f"{self.source}: cannot take a model of class {model['class_name']}: expected a Sequential or a "
                "Functional one, whose layers its file tells"
            )
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]  # Keras before 2.2.3 writes a list
        paths = dict(enumerate(_paths(layers, prefix)))
        if model["class_name"] == "Sequential":
            node = given
            for at, layer in enumerate(layers):
                node = self._layer(layer, node, paths[at], group, (*place, at), inference)
            if node is None:
                raise ValueError("no layers")
            return node
        return self._functional(config, given, paths, group, place, inference)

    def _functional(
        self,
        config: dict[str, Any],
        given: Node | None,
        paths: dict[int, str],
        group: str | None,
        place: tuple[int, ...],
        inference: bool,
    ) -> Node:
        numbers = {_name(layer): at for at, layer in enumerate(config["layers"])}
        done: dict[str, Node] = {}
        (start,), (end,) = _ends(config["input_layers"], self.source), _ends(config["output_layers"], self.source)
        # Keras lists a layer behind those it takes from
        for name, at in numbers.items():
            layer = config["layers"][at]
            calls = layer.get("inbound_nodes") or []
            if len(calls) > 1:
                raise UserError(f"{self.source}: cannot take layer {name}: it is used {len(calls)} times")
            if name != start and not calls:
                raise UserError(f"{self.source}: cannot take layer {name}: expected one input of images, got another")
            names, training = _call(calls[0]) if calls else ([], None)
            inputs = [done[source] for source in names]
            quiet = inference or training is False
            if len(inputs) > 1:
                done[name] = self._place(layer, inputs, paths[at], group, (*place, at), quiet)
            else:
                node = inputs[0] if inputs else given
                done[name] = self._layer(layer, node, paths[at], group, (*place, at), quiet)
        return done[end]

    def _layer(
        self,
        layer: dict[str, Any],
        node: Node | None,
        path: str,
        group: str | None,
        place: tuple[int, ...],
        inference: bool,
    ) -> Node:
        kind = layer["class_name"]
        if kind in MODELS:
            return self.open(layer, node, f"{path}/", group or _name(layer), place, inference)
        if kind == "InputLayer" and node is not None:
            return node  # of a model inside a model, or written out in a Sequential
        if node is None and kind != "InputLayer":  # a Sequential of Keras 2 has its input's shape in its first layer
            shape = layer["config"].get("batch_input_shape")
            node = self.input = Node("input", "InputLayer", {"batch_shape": shape}, [], "", "input")
        placed = self._place(layer, [node] if node is not None else [], path, group, place, inference)
        if kind == "InputLayer":
            self.input = placed
        return placed

    def _place(
        self,
        layer: dict[str, Any],
        inputs: list[Node],
        path: str,
        group: str | None,
        place: tuple[int, ...],
        inference: bool,
    ) -> Node:
        name = _name(layer)
        call = (layer.get("inbound_nodes") or [None])[0]
        node = Node(name, layer["class_name"], layer["config"], inputs, path, group or name, inference, call)
        if len(self._placed) >= MOST_LAYERS:
            raise UserError(f"{self.source}: expected at most {MOST_LAYERS} layers, got more")
        self._placed.append((place, node))
        return node


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _paths(layers: list[dict[str, Any]], prefix: str) -> Iterator[str]:
    """Keras 3 names a layer's variables by its class and a number, not by its name: layers/dense_1."""
    used: Counter[str] = Counter()
    for layer in layers:
        kind = snake_case(layer["class_name"])
        yield f"{prefix}layers/{kind}" + (f"_{used[kind]}" if used[kind] else "")
        used[kind] += 1


def snake_case(name: str) -> str:
    """BatchNormalization -> batch_normalization, Conv2D -> conv2d. Source: keras/src/utils/naming.py."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _ends(entries: Any, source: str) -> list[str]:
    """Names of a model's inputs or outputs: ["name", 0, 0], or a list or dictionary of such."""
    if isinstance(entries, dict):
        entries = list(entries.values())
    if entries and isinstance(entries[0], str):
        entries = [entries]
    if len(entries) != 1:
        raise UserError(f"{source}: expected a model with one input and one output, got {len(entries)} of one kind")
    return [entry[0] for entry in entries]


def _call(call: Any) -> tuple[list[str], Any]:
    """The layers that a call takes its tensors from, and its ``training`` argument.

    Keras 3 writes {"args": [tensor or list], "kwargs": {...}}, Keras 2 [["name", 0, 0, {...}], ...].
    """
    if isinstance(call, dict):
        keywords = call.get("kwargs") or {}
        return list(_histories([call.get("args", []), keywords])), keywords.get("training")
    if call and isinstance(call[0], str):
        call = [call]
    keywords = [entry[3] for entry in call if len(entry) > 3 and isinstance(entry[3], dict)]
    return [entry[0] for entry in call], next((words["training"] for words in keywords if "training" in words), None)


def _histories(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"][0]
        else:
            for entry in value.values():
                yield from _histories(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _histories(entry)
