"""What a training starts from: random weights, a file of the same network's, or what the network itself offers."""

import logging
from pathlib import Path

from torch import nn

from lightning_cifake.checkpoint import load_strictly, network_state, read_checkpoint, read_weights
from lightning_cifake.data import trained_on
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.hub import fetch, is_hub_name
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.model_kinds import model_kind
from lightning_cifake.networks.freezing import head_of
from lightning_cifake.shipped import MODELS
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

NONE, IMAGENET = "none", "imagenet"


def load_weights(network: nn.Module, weights: str) -> None:
    """Fills a network from ``weights``: ``none`` (left as initialised), ``imagenet``, or a file.

    A file is a ``state_dict`` of this network (``.pt``, ``.pth``) or a checkpoint of this project (``.ckpt``). It is
    read without running code from it, its checksums and weights are checked, and every entry must fit. Weights of the
    Hugging Face Hub are ``hf://owner/name[@revision]``. A network with a method ``load_pretrained(weights) -> bool`` is
    asked first: see :mod:`lightning_cifake.networks.registry`.

    Raises:
        UserError: the file is missing, unreadable, or not of this network; or the network offers no such weights.
    """
    if weights in (NONE, IMAGENET) and Path(weights).is_file():
        log.info("weights: %s is a word of its own, not the file of that name here; that one is ./%s", weights, weights)
    if weights == NONE:
        return
    weights = local_weights(weights)
    name, path = type(network).__name__, expand_user(weights)
    if weights in MODELS or (weights != IMAGENET and model_kind(path) == "ONNX"):
        raise UserError(
            f"model.weights: {printable(weights)} is an exported model: expected a checkpoint, which this makes of it: "
            f"python -m lightning_cifake convert {printable(weights)} start.ckpt"
        )
    own = getattr(network, "load_pretrained", None)
    try:
        if not (callable(own) and own(weights)):
            _load_own(network, weights, path)
    except UserError as error:
        if (other := _network_in(path)) is None or other.rpartition(".")[2] == name:
            raise
        raise UserError(f"model.weights: {printable(path)} is of {other}, and the network is {name}") from error
    log.info("model.weights: %s, all that it has of a %s", printable(weights), name)


def local_weights(weights: str) -> str:
    """The file of weights that are named on the Hub, fetched; any other name as it is.

    Raises:
        UserError: they cannot be had.
    """
    return str(fetch(weights, weights=True)) if is_hub_name(weights) else weights


def _load_own(network: nn.Module, weights: str, path: Path) -> None:
    name = type(network).__name__
    if weights == IMAGENET:
        raise UserError(f"model.weights: {name} offers no imagenet: expected none or a file of its weights")
    if is_keras_file(path):
        raise UserError(f"model.weights: {printable(path)} is Keras's, and {name} does not read such files")
    load_strictly(network, network_state(read_weights(path)), weights)


def _network_in(path: Path) -> str | None:
    """The class path of the network in a checkpoint; None of anything else."""
    try:
        network = read_checkpoint(path)["hyper_parameters"]["network"]["class_path"]
    except (UserError, LookupError, TypeError):
        return None
    return printable(network) if isinstance(network, str) else None


def say_what_trains(network: nn.Module, weights: str) -> None:
    """Of a network whose backbone is frozen; and that it is frozen at random weights, where it is."""
    if weights == NONE:
        log.warning("model.freeze_backbone: what is frozen has random weights (model.weights: none)")
    counts = [sum(p.numel() for p in part.parameters()) for part in (head_of(network), network)]
    log.info("model.freeze_backbone: %s of %s weights train, the head's", *(f"{count:,}" for count in counts))


def record_of_weights(weights: str) -> trained_on.Record:
    """What weights to start from were trained on; ImageNet's are not of any data here."""
    if weights in ("none", "imagenet"):
        return []
    path = expand_user(local_weights(weights))
    if not is_keras_file(path):
        try:
            return trained_on.record_of(read_checkpoint(path), path)
        except UserError:  # weights alone: they have been read already
            pass
    return [trained_on.unknown_entry(path.name)]
