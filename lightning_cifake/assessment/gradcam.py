"""Grad-CAM of a checkpoint's network: which places of a map speak for REAL, and which for AI. Needs torch and captum.

Source: Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization*, ICCV 2017;
the check with random weights: Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import name_of
from lightning_cifake.networks.ensemble import Ensemble
from lightning_cifake.networks.flips import MeanOfFlips
from lightning_cifake.networks.registry import build_network, network_spec
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable, shorten

SMALLEST_MAP = 8  # a side; the published network's last map is one pixel at 32 px, which says nothing of where
NETWORKS_OWN = "cam_layer"


def grad_cam(network: nn.Module, images: Tensor, layer: str | None = None) -> Tensor:
    """Images (N, 3, S, S) float in [0, 1] -> (N, S, S): above 0 for REAL, below for AI.

    The map of each channel, weighted by the mean over its places of the logit's gradient, summed over the channels and
    enlarged bilinearly. It is not cut at 0: the part above is the paper's map of REAL, the part below that of AI, since
    one logit tells both. Of an ensemble it is the weighted sum of its members', as its logit is; of a network that is
    asked about an image and its mirror, the mean of both.

    Args:
        network: of the contract in :mod:`~lightning_cifake.networks.registry`; it is copied, and stays as it is.
        layer: the dotted name of the module whose map is taken; by default :func:`chosen_layer`'s.

    Raises:
        UserError: no such layer, none with a map that is large enough, or no gradient.
    """
    if isinstance(network, MeanOfFlips):
        mirrored = grad_cam(network.network, images.flip(3), layer).flip(2)
        return (grad_cam(network.network, images, layer) + mirrored) / 2
    if isinstance(network, Ensemble):
        maps = [grad_cam(member, images, layer) for member in network.members]
        return (torch.stack(maps, -1) * network.weights).sum(-1)
    coarse = coarse_cam(network, images, layer)
    return F.interpolate(coarse[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def layers_of(network: nn.Module, image_size: int, layer: str | None = None) -> list[str]:
    """The layer that :func:`grad_cam` takes, or of an ensemble each member's.

    Raises:
        UserError: there is none, or not this one.
    """
    if isinstance(network, MeanOfFlips):
        return layers_of(network.network, image_size, layer)
    if isinstance(network, Ensemble):
        return [name for member in network.members for name in layers_of(member, image_size, layer)]
    return [chosen_layer(network, image_size, layer)]


def coarse_cam(network: nn.Module, images: Tensor, layer: str | None = None) -> Tensor:
    """The same before it is enlarged: (N, h, w), as large as the layer's map.

    Raises:
        UserError: as :func:`grad_cam`.
    """
    from captum.attr import LayerGradCam

    plain = _differentiable(network)
    name = chosen_layer(plain, images.shape[-1], layer)
    images = images.detach().clone().requires_grad_()  # a frozen backbone has a gradient too
    try:
        cam = LayerGradCam(plain, plain.get_submodule(name)).attribute(images, relu_attributions=False)
    except RuntimeError as error:
        if "require" not in str(error) and "not have been used" not in str(error):
            raise
        raise UserError(
            f"{name_of(network)} has no gradient at {printable(name)}: expected a network that is differentiable "
            "there (--method occlusion needs none)"
        ) from error
    assert isinstance(cam, Tensor)
    return cam.detach()[:, 0]


def chosen_layer(network: nn.Module, image_size: int, layer: str | None = None) -> str:
    """The layer asked for, or the network's own ``cam_layer``; else the last stage whose map is at least 8x8.

    A stage has convolutions; where a quarter of the image is less than 8, that is enough. Of modules that end together,
    as a stage and its last block, the outermost is taken: its map is behind the activation and the addition of a
    residual block.

    Raises:
        UserError: there is none, or not this one.
    """
    named = layer or getattr(network, NETWORKS_OWN, None)
    sides = map_sides(network, image_size)
    if isinstance(named, str):
        if named not in sides:
            raise _no_layer(network, named, sides)
        return named
    least = min(SMALLEST_MAP, max(2, image_size // 4))
    fitting = [name for name, side in sides.items() if side >= least]
    if not fitting:
        raise UserError(
            f"{name_of(network)}: expected a convolution that gives a map of at least {least}x{least} and runs once, "
            "for Grad-CAM, got none (name a layer with --layer, or take --method occlusion)"
        )
    return fitting[-1]


@torch.no_grad()
def map_sides(network: nn.Module, image_size: int) -> dict[str, int]:
    """Name of each module with a convolution in it that gives one map an image -> the map's shorter side.

    In the order in which they end; one that runs more than once is left out, as a gradient belongs to one of its runs.
    """
    sides: dict[str, int] = {}
    runs: Counter[str] = Counter()

    def noting(name: str) -> Any:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            runs[name] += 1
            if isinstance(made, Tensor) and made.ndim == 4 and len(made) == 1:
                sides[name] = min(made.shape[2:])

        return hook

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    with_maps = {
        name: module
        for name, module in network.named_modules()
        if name and any(isinstance(part, kinds) for part in module.modules())
    }
    hooks = [module.register_forward_hook(noting(name)) for name, module in with_maps.items()]
    try:
        parameter = next(network.parameters(), torch.zeros(()))
        network(torch.zeros(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: side for name, side in sides.items() if runs[name] == 1}


def _no_layer(network: nn.Module, layer: str, sides: dict[str, int]) -> UserError:
    hint = did_you_mean(layer, sides)
    if not hint:
        hint = f"; its last are {', '.join(list(sides)[-8:])}" if sides else "; it has none"
    return UserError(
        f"--layer: expected a layer of {name_of(network)} with convolutions, whose output is a map, got "
        f"{shorten(printable(layer), 60)}{hint}"
    )


def _differentiable(network: nn.Module) -> nn.Module:
    """A copy in eval mode in which no layer writes over the map that another one gave."""
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    for module in plain.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return plain


def with_random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """The same network as it is before any training, in eval mode, in the same dtype.

    Raises:
        UserError: what it was built from is not known.
    """
    if isinstance(network, MeanOfFlips):
        return MeanOfFlips(with_random_weights(network.network, seed))
    if isinstance(network, Ensemble):
        made = copy.deepcopy(network)
        made.members = nn.ModuleList(with_random_weights(each, seed + at) for at, each in enumerate(network.members))
        return made
    spec = network_spec(network)
    if spec is None:
        raise UserError(f"{name_of(network)}: expected a network that can be built anew, for --sanity")
    parameter = next(network.parameters(), torch.zeros(()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(spec).to(parameter.dtype).eval()
