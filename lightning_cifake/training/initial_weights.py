"""What a training starts from: random weights, a file of the same network's, or what the network itself offers."""

import logging
from pathlib import Path

from torch import nn

from lightning_cifake.checkpoint import load_strictly, network_state, read_weights
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

NONE, IMAGENET = "none", "imagenet"


def load_weights(network: nn.Module, weights: str) -> None:
    """Fills a network from ``weights``: ``none`` (left as initialised), ``imagenet``, or a file.

    A file is a ``state_dict`` of this network (``.pt``, ``.pth``) or a checkpoint of this project (``.ckpt``). It is
    read without running code from it, its checksums and weights are checked, and every entry must fit. A network with
    a method ``load_pretrained(weights) -> bool`` is asked first: see :mod:`lightning_cifake.networks.registry`.

    Raises:
        UserError: the file is missing, unreadable, or not of this network; or the network offers no such weights.
    """
    if weights in (NONE, IMAGENET) and Path(weights).is_file():
        log.info("weights: %s is a word of its own, not the file of that name here; that one is ./%s", weights, weights)
    if weights == NONE:
        return
    own = getattr(network, "load_pretrained", None)
    if callable(own) and own(weights):
        return
    name = type(network).__name__
    if weights == IMAGENET:
        raise UserError(f"model.weights: {name} offers no imagenet: expected none or a file of its weights")
    path = expand_user(weights)
    if is_keras_file(path):
        raise UserError(f"model.weights: {printable(path)} is Keras's, and {name} does not read such files")
    load_strictly(network, network_state(read_weights(path)), weights)
