"""Networks by name: a short name or a class path, with arguments, to an ``nn.Module``; and back to what made it.

A network is any ``nn.Module`` that maps (N, 3, S, S) float in [0, 1] to (N,) logits of P(REAL). It may have these
members too, which are used where they are there:

``image_size: int``
    The side S that it takes; without it, it takes any. Where its constructor has an argument of this name, the command
    line fills it from ``data.image_size``.
``for_export() -> nn.Module``
    What is exported and measured in its place: in eval mode, float32, the same mapping.
``load_pretrained(weights: str) -> bool``
    Fills it from a word (``imagenet``) or a file of another make; False where that is none of its own.
``may_change(name: str, was, now) -> bool``, a static method
    Whether a run may be resumed with another value of this argument: one that changes no weight's meaning, as dropout.
``object_classes: int`` and ``forward_with_objects(images) -> (logits, object_logits)``
    With ``object_classes`` above 0 it can learn what an image shows beside whether it is real, by
    ``model.object_weight``: (N, 3, S, S) -> (N,) logits, as ``forward`` gives them, and (N, object_classes) logits. Its
    ``forward``, and so what is exported, computes nothing of these.
``head: nn.Module``
    What is trained where the rest is frozen; without it, the last linear layer: see :mod:`freezing`.
``cam_layer: str``
    The dotted name of the module whose output, a map, Grad-CAM explains it by; without it, ``explain`` chooses.
``init_args: dict``
    The arguments it was made with, where attributes of their names do not tell them.
``collect(images, labels) -> None`` and ``fit_collected() -> Tensor``
    Of a network that is fitted to all images at once, and not by gradients: the training step hands it each batch,
    (N, 3, S, S) float and (N,) float labels, and the epoch's last step has it fitted, before it is validated. It
    returns the logits of all that was collected, in order. ``requires_grad`` parameters it has, but no gradient.
``named_logits(images) -> dict[str, Tensor]``
    (N,) logits of parts of it, by name: a validation and a test give each one's figures beside the network's own.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_cifake.class_paths import (
    Spec,
    check_arguments,
    construct,
    import_class,
    is_plain,
    normal_spec,
    parameters_of,
    path_of,
)

SHIPPED = {
    "resnet50": "lightning_cifake.networks.ResNet50Detector",
    "compact": "lightning_cifake.networks.CompactCNN",
    "custom_cnn": "lightning_cifake.networks.CustomCNN",
    "meso4": "lightning_cifake.networks.Meso4",
    "mesoinception4": "lightning_cifake.networks.MesoInception4",
    "correlation": "lightning_cifake.networks.CorrelationNet",
    "ensemble": "lightning_cifake.networks.Ensemble",
    "features": "lightning_cifake.networks.FeatureDetector",
}
"""Short name -> class path."""

KEY = "model.network"
_RECORD = "_network_spec"
_MISSING = object()


def build_network(spec: str | Mapping[str, Any]) -> nn.Module:
    """The network that a short name, a class path, or ``{"class_path", "init_args"}`` names.

    Raises:
        UserError: no such name, module or class; a class that is no ``nn.Module``; arguments that it does not take, or
            that are more than plain values.
    """
    made = check_spec(spec)
    network: nn.Module = construct(network_class(made["class_path"]), made["init_args"], KEY)
    network.__dict__[_RECORD] = made  # not in its state_dict
    return network


def network_class(name: str) -> type[nn.Module]:
    """The class of a short name or class path.

    Raises:
        UserError: says which part of the path was not found, or what was found in place of a network.
    """
    return import_class(name, KEY, nn.Module, SHIPPED)


def check_spec(spec: str | Mapping[str, Any]) -> Spec:
    """A specification whose class is there and takes its arguments, its short name resolved; nothing is built.

    Raises:
        UserError: as :func:`build_network`.
    """
    made = normal_spec(spec, KEY, SHIPPED)
    cls = network_class(made["class_path"])
    check_arguments(cls, made["init_args"], KEY)
    return {"class_path": _shipped_path(cls) or made["class_path"], "init_args": made["init_args"]}


def network_spec(network: nn.Module) -> Spec | None:
    """What builds this network again, or None where that cannot be told.

    It is what :func:`build_network` made it from; else its ``init_args``; else the constructor's parameters, where each
    is an attribute of that name with a plain value.
    """
    recorded = network.__dict__.get(_RECORD)
    if recorded is not None:
        return {"class_path": recorded["class_path"], "init_args": dict(recorded["init_args"])}
    path = class_path_of(type(network))
    if path is None:
        return None
    arguments = getattr(network, "init_args", None)
    if not isinstance(arguments, dict):
        arguments = {name: getattr(network, name, _MISSING) for name in parameters_of(type(network))[0]}
    known = all(value is not _MISSING and is_plain(value) for value in arguments.values())
    return {"class_path": path, "init_args": dict(arguments)} if known else None


def class_path_of(cls: type[nn.Module]) -> str | None:
    """A path under which the class is imported again, the shipped one where it is one; None for a class of a script."""
    return _shipped_path(cls) or path_of(cls)


def _shipped_path(cls: type[nn.Module]) -> str | None:
    named = (path for path in SHIPPED.values() if path.rpartition(".")[2] == cls.__name__)
    return next((path for path in named if network_class(path) is cls), None)
