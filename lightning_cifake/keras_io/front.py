"""What a Keras model does to its images before ResNet50: scaling, means, the channels' order, augmentation, resizing.

Layers (Rescaling, Normalization) and operations (x / 127.5 - 1, keras.ops, preprocess_input), as Keras 3.15 and
Keras 2 write them, become one affine map of each channel. Source: keras/src/layers/preprocessing/ and
keras/src/applications/imagenet_utils.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.graph import Graph, Node
from lightning_cifake.networks.pixels import LARGEST_VALUE, Affine

Variables = Callable[[Node], Mapping[str, Any]]
"""The variables of a layer by their names, as read from the file."""

# what a layer of these does, it does in training alone
TRAINING_ONLY = {
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear", "RandomPerspective",
    "RandomBrightness", "RandomContrast", "RandomSaturation", "RandomHue", "RandomColorJitter",
    "RandomColorDegeneration", "RandomGrayscale", "RandomSharpness", "RandomPosterization", "RandomInvert",
    "RandomErasing", "RandomGaussianBlur", "RandomElasticTransform", "RandomHeight", "RandomWidth", "AugMix", "CutMix",
    "MixUp", "RandAugment", "GaussianNoise", "GaussianDropout", "AlphaDropout", "SpatialDropout2D",
    "SpatialDropout1D", "ActivityRegularization",
}  # fmt: skip
NOTHING = {"Identity"}
# Keras 2's names of operations -> Keras 3's classes
KERAS2_OPERATIONS = {
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
    "truediv": "TrueDivide",
    "math.multiply": "Multiply",
    "math.subtract": "Subtract",
    "math.add": "Add",
    "__operators__.add": "Add",
    "nn.bias_add": "Add",
    "cast": "Cast",
    "__operators__.getitem": "GetItem",
}
FLOATS = ("float", "bfloat")  # how the names of those types begin
NORMALIZATION_EPSILON = 1e-7  # keras.layers.Normalization divides by no less


class Plane(NamedTuple):
    """One channel of the images, scaled."""

    channel: int
    scale: float = 1.0
    offset: float = 0.0


class Front(NamedTuple):
    """``start`` is the last layer before ResNet50, ``inside`` what was done up to it, ``resized`` the height and width
    that a Resizing makes, ``layers`` those that were folded in, ``dropped`` the ones with variables among them."""

    start: Node
    inside: Affine
    resized: int | None
    layers: list[str]
    dropped: list[Node]


def no_variables(node: Node) -> Mapping[str, Any]:
    """For a configuration without a file: as Keras begins."""
    return {"mean": np.float32(0), "variance": np.float32(1)}


def read_front(graph: Graph, source: str, variables: Variables, notes: list[str]) -> Front:
    """Follows the images up to the first layer that is of the backbone, or of none that is known here.

    Raises:
        UserError: a layer whose work cannot be written as scale, offset and order of channels.
    """
    reader = _Reader(source, variables, notes)
    values: dict[Node, Affine | Plane] = {graph.input: Affine()}
    waiting = [node for node in graph.nodes if node is not graph.input]
    for node in waiting:  # in Keras's order, in which a layer stands behind those it takes from
        if node.inputs and all(each in values for each in node.inputs):
            value = reader.value(node, [values[each] for each in node.inputs])
            if value is not None:
                values[node] = value
    ends = [node for node in values if not graph.users(node) or any(user not in values for user in graph.users(node))]
    if len(ends) != 1 or not isinstance(values[ends[0]], Affine):
        names = ", ".join(node.name for node in ends)
        raise UserError(f"{source}: expected one way from the images to ResNet50, got several ({names})")
    inside = values[ends[0]]
    assert isinstance(inside, Affine)
    if not all(math.isfinite(v) and abs(v) <= LARGEST_VALUE for v in (*inside.scale, *inside.offset)):
        raise UserError(f"{source}: cannot take {', '.join(reader.layers)}: expected finite scales, got {inside}")
    return Front(ends[0], inside, reader.resized, reader.layers, reader.dropped)


class _Reader:
    def __init__(self, source: str, variables: Variables, notes: list[str]) -> None:
        self.source, self.variables, self.notes = source, variables, notes
        self.resized: int | None = None
        self.layers: list[str] = []
        self.dropped: list[Node] = []

    def value(self, node: Node, given: list[Affine | Plane]) -> Affine | Plane | None:
        """What comes out of a layer; None where it is none that is read here."""
        kind = node.kind
        if kind in TRAINING_ONLY:
            self.notes.append(training_only(node))
            return given[0]
        if kind in NOTHING or (kind == "Activation" and node.config.get("activation") in ("linear", None)):
            return given[0]
        if kind == "Resizing":
            return self._resizing(node, given[0])
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            kind = KERAS2_OPERATIONS.get(str(node.config.get("function")), "")
        method = {
            "Rescaling": self._rescaling,
            "Normalization": self._normalization,
            "TrueDivide": self._arithmetic,
            "Divide": self._arithmetic,
            "Multiply": self._arithmetic,
            "Subtract": self._arithmetic,
            "Add": self._arithmetic,
            "Negative": self._arithmetic,
            "Cast": self._cast,
            "GetItem": self._get_item,
            "Flip": self._flip,
            "Stack": self._stack,
        }.get(kind)
        if method is None and node.kind in ("TFOpLambda", "SlicingOpLambda"):
            raise self._cannot(
                node, f"expected one of {', '.join(KERAS2_OPERATIONS)}, got {node.config.get('function')}"
            )
        if method is None or (kind == "Add" and len(given) > 1):
            return None
        value = method(node, kind, given)
        self.layers.append(node.name)
        return value

    def _cannot(self, node: Node, why: str) -> UserError:
        return UserError(f"{self.source}: cannot take layer {node.name} ({node.kind}): {why}")

    def _rescaling(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        scale = self._three(node, node.config.get("scale"))
        return self._then(node, given, scale, self._three(node, node.config.get("offset", 0.0)))

    def _normalization(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        axis = node.config.get("axis", -1)
        axis = [] if axis is None else axis if isinstance(axis, list) else [axis]
        if axis not in ([], [-1], [3]):
            raise self._cannot(node, f"expected one mean a channel (axis -1), or one for all (None), got axis {axis}")
        mean, variance = node.config.get("mean"), node.config.get("variance")
        if mean is None:
            found = self.variables(node)
            names = ("mean", "variance") if "mean" in found else ("0", "1")
            if not set(names) <= set(found):
                raise self._cannot(node, "its mean and variance are missing")
            if any(found[name].shape not in ((), (3,), (1,)) for name in names):
                raise self._cannot(node, f"expected 3 means, got shape {found[names[0]].shape}")
            mean, variance = (np.asarray(found[name]).tolist() for name in names)
            self.dropped.append(node)
        means, variances = self._three(node, mean), self._three(node, variance)
        if any(value < 0 for value in variances):
            raise self._cannot(node, f"expected a variance of at least 0, got {min(variances)}")
        deviations = [max(math.sqrt(value), NORMALIZATION_EPSILON) for value in variances]
        if node.config.get("invert"):
            return self._then(node, given, deviations, means)
        scale = [1 / value for value in deviations]
        return self._then(node, given, scale, [-m * s for m, s in zip(means, scale, strict=True)])

    def _arithmetic(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        if len(given) != 1:
            raise self._cannot(node, "expected the images and a constant, got two tensors")
        if kind == "Negative":
            return self._then(node, given, [-1.0] * 3, [0.0] * 3)
        first, constant = self._operands(node)
        ones, zeros = [1.0] * 3, [0.0] * 3
        if kind == "Add":
            return self._then(node, given, ones, constant)
        if kind == "Multiply":
            return self._then(node, given, constant, zeros)
        if kind == "Subtract":
            minus = [-value for value in constant]
            return self._then(node, given, ones, minus) if first else self._then(node, given, [-1.0] * 3, constant)
        if not first or any(value == 0 for value in constant):
            raise self._cannot(node, "expected the images divided by a number that is not 0")
        return self._then(node, given, [1 / value for value in constant], zeros)

    def _operands(self, node: Node) -> tuple[bool, list[float]]:
        """Whether the images stand first, and the constant that they are taken with."""
        values = _arguments(node)
        tensors = [_is_tensor(value) for value in values]
        if len(values) != 2 or sum(tensors) != 1:
            raise self._cannot(node, "expected the images and a constant")
        return tensors[0], self._three(node, values[tensors.index(False)])

    def _cast(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        target = cast_target(node)
        if not target.startswith(FLOATS):
            raise self._cannot(node, f"expected a cast to a floating-point number, got {target}")
        return given[0]

    def _get_item(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        index = (_arguments(node)[1:] or [None])[0] if node.kind == "GetItem" else _keywords(node).get("slice_spec")
        index = index if isinstance(index, list) else [index]
        *before, last = index
        (value,) = given
        whole = all(_slice(each) in ("...", (None, None, None)) for each in before) and len(index) > 1
        if whole and isinstance(value, Affine) and (len(index) == 4 or _slice(index[0]) == "..."):
            if _slice(last) == (None, None, -1):
                return value.then(Affine(order=(2, 1, 0)))
            if isinstance(last, int) and -3 <= last < 3:
                return Plane(value.order[last], value.scale[last], value.offset[last])
        raise self._cannot(node, "expected one channel, or all in reverse (x[..., ::-1])")

    def _flip(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        axis = node.config.get("axis", _keywords(node).get("axis"))
        if axis in (-1, 3, [-1], [3]) and isinstance(given[0], Affine):
            return given[0].then(Affine(order=(2, 1, 0)))
        raise self._cannot(node, f"expected the channels turned round (axis -1), got axis {axis}")

    def _stack(self, node: Node, kind: str, given: list[Affine | Plane]) -> Affine | Plane:
        planes = [value for value in given if isinstance(value, Plane)]
        order = tuple(plane.channel for plane in planes)
        if node.config.get("axis") not in (-1, 3) or len(planes) != len(given) or sorted(order) != [0, 1, 2]:
            raise self._cannot(node, "expected the three channels behind each other")
        if order not in ((0, 1, 2), (2, 1, 0)):
            raise self._cannot(node, f"expected the channels in the order RGB or BGR, got {order}")
        return Affine(order, tuple(plane.scale for plane in planes), tuple(plane.offset for plane in planes))

    def _resizing(self, node: Node, given: Affine | Plane) -> Affine | Plane:
        height, width = node.config.get("height"), node.config.get("width")
        plain = not node.config.get("crop_to_aspect_ratio") and not node.config.get("pad_to_aspect_ratio")
        if height != width or node.config.get("interpolation", "bilinear") != "bilinear" or not plain:
            raise self._cannot(node, "expected bilinear, to one height and width, without cropping or padding")
        if node.config.get("antialias") or self.resized not in (None, height):
            raise self._cannot(node, "expected one resize, without antialiasing")
        self.resized = height
        return given

    def _then(self, node: Node, given: list[Affine | Plane], scale: list[float], offset: list[float]) -> Affine | Plane:
        (value,) = given
        if isinstance(value, Affine):
            return value.then(Affine(scale=tuple(scale), offset=tuple(offset)))
        if len(set(scale)) != 1 or len(set(offset)) != 1:
            raise self._cannot(node, "expected one number for one channel")
        return Plane(value.channel, value.scale * scale[0], value.offset * scale[0] + offset[0])

    def _three(self, node: Node, value: Any) -> list[float]:
        """A number for each channel, of a constant that is one number or three."""
        if isinstance(value, dict) and value.get("class_name") in ("__tensor__", "__numpy__"):
            value = value["config"]["value"]
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        values = value if isinstance(value, list) else [value] * 3
        if len(values) != 3 or not all(_is_number(each) for each in values):
            raise self._cannot(node, "expected one finite number, or one for each channel")
        return [float(each) for each in values]


def training_only(node: Node) -> str:
    """The note on a layer that is left out."""
    return f"its layer {node.name} ({node.kind}) works in training alone: left out, see data.augment here"


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and abs(value) <= 1e30


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _arguments(node: Node) -> list[Any]:
    """An operation's tensors and constants, in order."""
    if isinstance(node.call, dict):
        keywords = node.call.get("kwargs") or {}
        return [*node.call.get("args", []), *(keywords[name] for name in ("x", "x1", "x2") if name in keywords)]
    keywords = _keywords(node)  # Keras 2: [["name", 0, 0, {"y": 255.0, "name": null}]]
    constants = [keywords[name] for name in ("y", "bias") if name in keywords]
    return [{"class_name": "__keras_tensor__"}, *constants]


def cast_target(node: Node) -> str:
    """The type that a Cast, of Keras 2 or 3, makes of what it gets."""
    return str(node.config.get("dtype") or _keywords(node).get("dtype") or "float32")


def _keywords(node: Node) -> dict[str, Any]:
    if isinstance(node.call, dict):
        return node.call.get("kwargs") or {}
    call = node.call or []
    entry = call if call and isinstance(call[0], str) else call[0] if call else []
    return entry[3] if len(entry) > 3 and isinstance(entry[3], dict) else {}


def _slice(value: Any) -> Any:
    """An index as "..." or (start, stop, step), of either form; the value itself where it is neither."""
    if isinstance(value, dict):
        if value.get("class_name") == "__ellipsis__":
            return "..."
        inner = value["config"] if value.get("class_name") == "__slice__" else value
        if isinstance(inner, dict) and set(inner) == {"start", "stop", "step"}:
            return inner["start"], inner["stop"], inner["step"]
    return value
