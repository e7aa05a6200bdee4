"""Training a network's head alone: what that is, and how the rest is kept as it is."""

from torch import nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import name_of


def head_of(network: nn.Module) -> nn.Module:
    """What is trained where the rest is frozen: the network's ``head`` where it has one, else its last linear layer.

    Raises:
        UserError: it has neither, or nothing besides.
    """
    own = getattr(network, "head", None)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    found = (
        own if isinstance(own, nn.Module) and any(True for _ in own.parameters()) else linear[-1] if linear else None
    )
    if found is None or len([*found.parameters()]) == len([*network.parameters()]):
        got = "none" if found is None else "nothing but that"
        raise UserError(
            f"model.freeze_backbone: expected a network with a head, or a linear layer at its end, behind layers that "
            f"are frozen; {name_of(network)} has {got}"
        )
    return found


def freeze_backbone(network: nn.Module) -> None:
    """Leaves the head alone to be trained; :func:`keep_frozen` keeps the rest in eval mode.

    Raises:
        UserError: as :func:`head_of`.
    """
    head = head_of(network)
    network.requires_grad_(False)
    head.requires_grad_(True)


def keep_frozen(network: nn.Module) -> None:
    """Everything but the head in eval mode: batch norms keep their statistics and dropout drops nothing, as in Keras.

    For what ``network.train()`` leaves behind.
    """
    head = head_of(network)
    training = head.training
    network.eval()
    head.train(training)
