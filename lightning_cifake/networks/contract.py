"""What is asked of any network: one logit an image, of that image alone; and the copy of it that is exported."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError

BATCH_TOLERANCE = 1e-3  # of a logit in float32: kernels for other batch sizes sum in another order


def for_export(network: nn.Module) -> nn.Module:
    """A copy in eval mode, float32, without gradients: ``network.for_export()`` where the network has one."""
    own = getattr(network, "for_export", None)
    made = own() if callable(own) else copy.deepcopy(network)
    return cast(nn.Module, made).eval().float().requires_grad_(False)


def name_of(network: nn.Module) -> str:
    """The class, as ``--model.network`` takes it."""
    return f"{type(network).__module__}.{type(network).__qualname__}"


def check_logits(logits: object, images: Tensor, network: nn.Module) -> None:
    """Raises UserError where a network has not given one logit an image, (N,)."""
    if isinstance(logits, Tensor) and logits.shape == images.shape[:1]:
        return
    got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    hint = ""
    if isinstance(logits, Tensor) and logits.shape == (len(images), 1):
        hint = ": end its forward with .squeeze(1)"
    elif isinstance(logits, Tensor) and logits.shape == (len(images), 2):
        hint = ": of two logits give the one of REAL less the one of FAKE, logits[:, 1] - logits[:, 0]"
    raise UserError(
        f"{name_of(network)} returned {got} for {tuple(images.shape)}: expected one logit of P(REAL) an image, "
        f"shape ({len(images)},){hint}"
    )


@torch.no_grad()
def check_inference(network: nn.Module, image_size: int) -> None:
    """Asks a network in eval mode about two images, together and one by one.

    Raises:
        UserError: it does not give (N,) logits, or what it gives depends on the rest of the batch, or on chance.
    """
    seeded = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, image_size, image_size, generator=seeded)
    together = network(images)
    check_logits(together, images, network)
    single = [network(image[None]) for image in images]
    check_logits(single[0], images[:1], network)
    if not torch.allclose(together, torch.cat(single), rtol=BATCH_TOLERANCE, atol=BATCH_TOLERANCE, equal_nan=True):
        raise UserError(
            f"{name_of(network)} answers about an image otherwise alone than in a batch: in eval mode its logits must "
            "depend on the image alone, not on the rest of the batch and not on chance"
        )
