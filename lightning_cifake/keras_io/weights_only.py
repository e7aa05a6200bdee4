"""A Keras file of weights alone, which tells neither activations nor, in Keras 3's format, the order of its layers."""

import re
from collections import Counter
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.front import TRAINING_ONLY
from lightning_cifake.keras_io.graph import snake_case
from lightning_cifake.keras_io.head import IMAGENET_CLASSES, wrong_end
from lightning_cifake.keras_io.keras_file import KerasFile
from lightning_cifake.keras_io.weights import MOVING, backbone_layers
from lightning_cifake.networks.head import MOST_UNITS, PUBLISHED_HEAD, Head, HeadLayer, make_head, parse_head

CONV, NORM, DENSE = ("kernel", "bias"), ("gamma", "beta", *MOVING), ("kernel", "bias")
RATE = 0.5  # of a dropout whose file does not tell: the published one


class Guess(NamedTuple):
    """``weights`` by their names in keras_weights, ``names`` of the layers in the file, ``features`` of the first dense
    layer or batch norm of the head; ``head`` is None for a backbone alone; ``outputs`` is 1, or 2 where the last dense
    layer has one for each class."""

    weights: dict[str, Any]
    names: dict[str, str]
    head: Head | None
    features: int
    notes: list[str]
    outputs: int = 1


class Layer(NamedTuple):
    """A layer of the file: its class in snake_case, its name, its variables by name."""

    kind: str
    name: str
    variables: dict[str, Any]


def infer_head(file: KerasFile, head: Head | None, backbone_wanted: bool = False) -> Guess:
    """Finds the backbone and the head among the weights.

    Args:
        file: of weights alone.
        head: what the user says the head is.
        backbone_wanted: a classifier of ImageNet's 1,000 classes is left out.

    Raises:
        UserError: no ResNet50 in it, or a head that its weights alone do not tell.
    """
    backbone, rest, ordered = _legacy_layers(file) if file.legacy else _keras3_layers(file)
    weights = {f"{key}/{name}": value for key, layer in backbone.items() for name, value in layer.variables.items()}
    names = {key: layer.name for key, layer in backbone.items()}
    notes: list[str] = []
    rest = [layer for layer in rest if not _trains_alone(layer) and layer.kind != "softmax"]  # of two outputs: known
    normal = [layer.name for layer in rest if layer.kind == "normalization"]
    if normal:  # with --head it would be passed over, and the images be scaled otherwise
        raise UserError(
            f"{file.name} is a file of weights alone, which does not tell where its layer {normal[0]} "
            "(Normalization) stands: expected the whole model, as .keras or .h5"
        )
    scaling = [layer for layer in rest if layer.kind == "rescaling"]
    if scaling:
        rest = [layer for layer in rest if layer not in scaling]
        notes.append(f"a file of weights does not tell the scale of its layer {scaling[0].name}: see --pixels")
    dense = [layer for layer in rest if layer.kind == "dense"]
    units = [_units(layer, file.name) for layer in dense]
    if backbone_wanted and units == [IMAGENET_CLASSES]:
        rest = [layer for layer in rest if layer is not dense[0]]
        notes.append(f"its layer {dense[0].name}, a classifier of ImageNet, is left out")
        dense, units = [], []
    with_weights = [layer for layer in rest if layer.kind in ("dense", "batch_normalization")]
    if not with_weights and head is None:
        return Guess(weights, names, None, 0, notes)
    if units and units[-1] not in (1, 2):
        raise wrong_end(file.name, dense[-1].name, units[-1])
    if head is None:
        head = _guess_head(rest, ordered, file.name)
        notes.append(
            f"a file of weights tells no activations and rates: its head is taken as '{head}' (or give --head)"
        )
    found = {kind: [layer for layer in with_weights if layer.kind == kind] for kind in ("dense", "batch_normalization")}
    for layer in head.layers:
        kind = {"dense": "dense", "batchnorm": "batch_normalization"}.get(layer.kind)
        if kind is not None and found[kind]:
            got = found[kind].pop(0)
            names[layer.name] = got.name
            weights.update({f"{layer.name}/{name}": value for name, value in got.variables.items()})
    for left in [*found["dense"], *found["batch_normalization"]]:
        weights.update({f"{left.name}/{name}": value for name, value in left.variables.items()})
    return Guess(weights, names, head, _features(dense), notes, units[-1] if units else 1)


def _trains_alone(layer: Layer) -> bool:
    """An augmentation: its class in snake_case."""
    return layer.kind in _TRAINING_ONLY and not layer.variables


_TRAINING_ONLY = {snake_case(kind) for kind in TRAINING_ONLY}


def _units(layer: Layer, source: str) -> int:
    shape: tuple[int, ...] = layer.variables["kernel"].shape if "kernel" in layer.variables else ()
    if len(shape) != 2 or not 0 < shape[1] < MOST_UNITS:
        raise UserError(f"{source}: expected a kernel of 1 to {MOST_UNITS - 1:,} units in {layer.name}, got {shape}")
    return int(shape[1])


def _features(dense: list[Layer]) -> int:
    return int(dense[0].variables["kernel"].shape[0]) if dense and "kernel" in dense[0].variables else 0


def _kind_of(variables: dict[str, Any], name: str) -> str:
    """By what a layer holds, or, where it holds nothing, by the name that Keras gives."""
    if "gamma" in variables or "moving_mean" in variables:
        return "batch_normalization"
    if "kernel" in variables:
        return "dense" if len(variables["kernel"].shape) == 2 else "conv2d"
    return re.sub(r"_\d+$", "", name)


def _legacy_layers(file: KerasFile) -> tuple[dict[str, Layer], list[Layer], bool]:
    backbone: dict[str, Layer] = {}
    rest: list[Layer] = []
    wanted = {f"{name}_{kind}" for name in backbone_layers() for kind in ("conv", "bn")}
    for (_, name), variables in file.layers.items():
        layer = Layer(_kind_of(variables, name), name, variables)
        if name in wanted and name not in backbone:
            backbone[name] = layer
        elif variables or not _belongs_to_the_backbone(name):
            rest.append(layer)
    if not backbone:
        raise _no_backbone(file.name, "none of its layers' names (conv1_conv, ..., conv5_block3_3_bn)")
    return backbone, rest, True


def _belongs_to_the_backbone(name: str) -> bool:
    """Layers of ResNet50 that hold no weights."""
    return bool(re.fullmatch(r"(conv\d.*_(relu|add|out|pad)|pool1_(pad|pool)|input.*)", name))


def _keras3_layers(file: KerasFile) -> tuple[dict[str, Layer], list[Layer], bool]:
    inside: dict[str, list[tuple[str, int, str]]] = {}  # of each model: class, number, path
    for path in file.names:
        model, _, leaf = path.rpartition("/")
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", leaf).groups()  # type: ignore[union-attr]
        inside.setdefault(model, []).append((kind, int(number or 0), path))
    for layers in inside.values():
        layers.sort(key=lambda layer: layer[1])
    resnets = [model for model, layers in inside.items() if any(kind == "conv2d" for kind, _, _ in layers)]
    if len(resnets) != 1:
        raise _no_backbone(file.name, f"convolutions in {len(resnets)} of its models")
    layers = inside[resnets[0]]
    convolutions = [_layer(file, kind, path) for kind, _, path in layers if kind == "conv2d"]
    norms = [_layer(file, kind, path) for kind, _, path in layers if kind == "batch_normalization"]
    wanted = list(backbone_layers())
    if len(convolutions) != len(wanted) or len(norms) < len(wanted):
        raise _no_backbone(file.name, f"{len(convolutions)} convolutions and {len(norms)} batch norms")
    backbone = {
        **_by_name_or_order(convolutions, [f"{name}_conv" for name in wanted]),
        **_by_name_or_order(norms[: len(wanted)], [f"{name}_bn" for name in wanted]),
    }
    rest = norms[len(wanted) :]  # of a head in the same model
    skipped = ("conv2d", "batch_normalization", "add", "zero_padding2d", "max_pooling2d", "input_layer")
    of_the_backbone = re.compile(r"conv\d.*_(relu|out)|")  # "": without names, all of them are taken for ResNet50's
    for model, others in inside.items():
        for kind, _, path in others:
            if model == resnets[0]:
                if kind in skipped or (kind == "activation" and of_the_backbone.fullmatch(file.names[path])):
                    continue
            elif resnets[0].startswith(f"{path}/") or kind == "input_layer":
                continue  # the model that ResNet50 lies in
            rest.append(_layer(file, kind, path))
    return backbone, rest, False


def _layer(file: KerasFile, kind: str, path: str) -> Layer:
    known = {"conv2d": CONV, "batch_normalization": NORM, "dense": DENSE}.get(kind, ())
    variables = {
        known[int(at)] if at.isdecimal() and int(at) < len(known) else at: value
        for at, value in file.layers.get((path, ""), {}).items()
    }
    return Layer(kind, file.names[path] or path, variables)


def _by_name_or_order(layers: list[Layer], wanted: list[str]) -> dict[str, Layer]:
    named = {layer.name: layer for layer in layers}
    return (
        {name: named[name] for name in wanted} if set(named) == set(wanted) else dict(zip(wanted, layers, strict=True))
    )


def _no_backbone(source: str, got: str) -> UserError:
    return UserError(f"{source}: expected keras.applications' ResNet50, its 53 convolutions and batch norms; got {got}")


def _guess_head(layers: list[Layer], ordered: bool, source: str) -> Head:
    """The published head where the weights are its, else what their shapes leave in no doubt, with relu between."""
    kinds = Counter(layer.kind for layer in layers)
    pooled = [layer for layer in layers if layer.kind == "global_average_pooling2d" or layer.name == "avg_pool"]
    pooling = "avgpool" if pooled else "flatten"
    known = ("dense", "batch_normalization", "dropout", "flatten", "global_average_pooling2d", "avg_pool")
    unknown = set(kinds) - set(known)
    dense = [layer.variables["kernel"].shape[-1] for layer in layers if layer.kind == "dense"]
    norms = [layer.variables["gamma"].shape[0] for layer in layers if layer.kind == "batch_normalization"]
    dense = dense[:-1] + [1] * len(dense[-1:])  # two outputs become one
    if not unknown and (dense, norms, kinds["dropout"]) == ([256, 128, 1], [256], 1) and not ordered:
        published = parse_head(PUBLISHED_HEAD)
        return make_head(pooling, list(published.layers))
    if unknown or not dense:
        raise _undecided(source, layers, f"what {', '.join(sorted(unknown)) or 'its last layer'} is")
    found = _in_order(layers, dense) if ordered else _by_shapes(dense, norms, kinds["dropout"])
    if found is None:
        raise _undecided(source, layers, "behind which dense layer its batch norms stand")
    return make_head(pooling, found)


def _undecided(source: str, layers: list[Layer], what: str) -> UserError:
    return UserError(
        f"{source} is a file of weights alone, which does not tell {what} (its head has "
        f"{', '.join(layer.name for layer in layers)}): give --head, as in --head '{PUBLISHED_HEAD}'"
    )


def _in_order(layers: list[Layer], units: list[int]) -> list[HeadLayer]:
    units = list(units)
    last = [layer for layer in layers if layer.kind == "dense"][-1]
    found: list[HeadLayer] = []
    for layer in layers:
        if layer.kind == "dense":
            found.append(HeadLayer("dense", units=units.pop(0), bias="bias" in layer.variables))
            found += [HeadLayer("relu")] if layer is not last else []
        elif layer.kind == "batch_normalization":
            found.append(HeadLayer("batchnorm"))
        elif layer.kind == "dropout":
            found.append(HeadLayer("dropout", rate=RATE))
    return found


def _by_shapes(dense: list[int], norms: list[int], dropouts: int) -> list[HeadLayer] | None:
    """Each batch norm behind the one dense layer of its size; None where there are several, or dropouts nowhere."""
    if any(dense.count(size) != 1 for size in norms) or len(set(norms)) != len(norms) or dropouts > len(dense) - 1:
        return None
    found: list[HeadLayer] = []
    for at, units in enumerate(dense):
        hidden = at < len(dense) - 1
        found.append(HeadLayer("dense", units=units))
        found += [HeadLayer("relu")] if hidden else []
        found += [HeadLayer("batchnorm")] if units in norms else []
        found += [HeadLayer("dropout", rate=RATE)] if hidden and at < dropouts else []  # no weight hangs on where
    return found
