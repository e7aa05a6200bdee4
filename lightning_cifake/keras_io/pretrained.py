"""What a ResNet50 can start from: ImageNet's weights, Keras's files, torchvision's, its own, or a backbone alone."""

import logging
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights

from lightning_cifake.checkpoint import load_strictly, network_state, read_weights
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.keras_io.imagenet import fetch_imagenet
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.networks.pixels import Affine, parse_pixels
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)


def load_pretrained(network: ResNet50Detector, weights: str) -> bool:
    """Fills a network from ``imagenet`` or a file; always True, as it takes every kind of file.

    A file is a ``state_dict`` of torchvision's ResNet50 (``.pt``, ``.pth``; its classifier ``fc`` is not used), of this
    network, a checkpoint of this project (``.ckpt``), or Keras's (``.keras``, ``.h5``, ``.weights.h5``), of the network
    or of ``keras.applications.ResNet50`` alone.
    ``imagenet`` are the weights of the layout's own framework: keras.applications' or torchvision's.

    Raises:
        UserError: the file is missing, unreadable, or not of this network; ImageNet weights asked for a stem they were
            not trained in, or not to be had offline.
    """
    if weights == "imagenet" and network.stem != "imagenet":
        raise UserError(f"weights: imagenet need model.network.stem: imagenet, got stem: {network.stem}")
    if weights == "imagenet":
        state = _keras_state(network, None) if network.layout == "keras" else _torchvision_state()
    else:
        path = expand_user(weights)
        state = _keras_state(network, path) if is_keras_file(path) else network_state(read_weights(path))
    target: nn.Module = network
    if not any(name.startswith("head.") for name in state):  # a backbone alone, Keras's or torchvision's
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
        state = {name: value for name, value in state.items() if name not in ("fc.weight", "fc.bias")}
        target = network.backbone
    load_strictly(target, state, weights)
    return True


def _torchvision_state() -> dict[str, Tensor]:
    try:
        return ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: what was received has another checksum
        raise UserError(
            f"could not fetch torchvision's ImageNet weights ({reason_of(error)}): give a file instead "
            "(--model.weights FILE) or train from random weights (--model.weights none)"
        ) from error


def _keras_state(network: ResNet50Detector, path: Path | None) -> dict[str, Tensor]:
    """Of a file that Keras wrote; None: of keras.applications' ImageNet weights."""
    if network.layout != "keras" or network.stem != "imagenet":
        raise UserError(
            f"weights: {path or 'imagenet'} is Keras's and needs model.network.layout: keras and "
            f"model.network.stem: imagenet, got layout: {network.layout}, stem: {network.stem}"
        )
    source = fetch_imagenet() if path is None else path
    asked = parse_pixels(network.pixels)
    imported = import_keras(source, backbone=True)
    fed = parse_pixels(imported.pixels)
    if fed.inside == Affine():  # it does not scale: it is fed what the network is asked to feed
        imported = imported._replace(notes=[note for note in imported.notes if "it was fed" not in note])
    elif fed.inside != asked.inside and not fed.affine.is_close(asked.affine):
        raise UserError(
            f"weights: {printable(source)} scales its images itself: expected model.network.pixels '{fed}', "
            f"got '{network.pixels}'"
        )
    for note in imported.notes:
        log.warning("%s: %s", printable(source.name), note)
    return imported.state
