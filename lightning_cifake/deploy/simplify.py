"""Any network, made smaller and faster for inference, the mapping unchanged: that is checked before it is used.

Layers are found by watching them work, not by their names: what a convolution gave and a batch norm took is the same
tensor. What watching cannot see (a second use of that tensor in between) shows in the answers, and then the network is
exported as it is.
"""

import copy
import logging
from collections import Counter
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from lightning_cifake.deploy.products import as_products
from lightning_cifake.networks.contract import for_export, name_of
from lightning_cifake.networks.convolution import window

log = logging.getLogger(__name__)

TOLERANCE = 1e-9  # relative and absolute, of a logit in float64: rounding leaves some 1e-13


def simplified(network: nn.Module, image_size: int) -> nn.Module:
    """A copy in eval mode, float32, with batch norms folded into the weights beside them and padding taps pruned.

    Convolutions on maps of a few pixels are matrix products in it.

    Computed in float64, and held there against the network itself on two images; where the answers differ, or the
    network cannot work in float64, it is the network as it is.
    """
    plain = for_export(network)
    seeded = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, image_size, image_size, generator=seeded, dtype=torch.float64)
    try:
        wide = copy.deepcopy(plain).double()
        with torch.no_grad():
            expected = wide(images)
            fold_batch_norm(wide, images)
            prune_padding_taps(wide, images)
            as_products(wide, map_sizes(wide, images))
            same = torch.allclose(wide(images), expected, rtol=TOLERANCE, atol=TOLERANCE)
        why = "its answers would differ"
    except Exception as error:  # a network may raise anything, and then cannot be simplified
        same, why = False, f"{type(error).__name__} in float64"
    if same:
        return wide.float()
    log.warning("%s is exported as it is, batch norms not folded into its weights: %s", name_of(network), why)
    return plain


class _Call(NamedTuple):
    """One layer at work. The tensors are held, so that no other one gets their ids."""

    layer: nn.Module
    given: Tensor
    given_key: tuple[int, int]
    out: Tensor
    out_key: tuple[int, int]


def _key(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version  # written to in place it is another


def watched(network: nn.Module, images: Tensor) -> list[_Call]:
    """What each layer without layers of its own took and gave, in order."""
    calls: list[_Call] = []
    keys: dict[int, tuple[int, int]] = {}

    def before(layer: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            keys[id(layer)] = _key(given[0])

    def after(layer: nn.Module, given: tuple[object, ...], out: object) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(out, Tensor):
            calls.append(_Call(layer, given[0], keys[id(layer)], out, _key(out)))

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    handles = [layer.register_forward_pre_hook(before) for layer in leaves]
    handles += [layer.register_forward_hook(after) for layer in leaves]
    try:
        with torch.no_grad():  # not inference_mode: its tensors have no versions
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def fold_batch_norm(network: nn.Module, images: Tensor) -> list[tuple[_BatchNorm, nn.Module]]:
    """Folds batch norms into the weights beside them, in place; the network is in eval mode.

    One that follows a convolution or a dense layer goes into that; else, one of features that is followed by a dense
    layer, dropout between them or not, into that one. Others stay, as where an activation lies on either side.

    Returns:
        Those that went into the layer before, each with that layer.
    """
    calls = watched(network, images)
    used = Counter(id(call.layer) for call in calls)
    same: dict[
        tuple[int, int], tuple[int, int]
    ] = {}  # what a layer gave that does nothing in eval mode -> what it took
    for call in calls:
        if isinstance(call.layer, (nn.Dropout, nn.Identity)):
            same[call.out_key] = same.get(call.given_key, call.given_key)
    working = [call for call in calls if not isinstance(call.layer, (nn.Dropout, nn.Identity))]
    makers = {call.out_key: call.layer for call in working}
    takers: dict[tuple[int, int], list[nn.Module]] = {}
    for call in working:
        takers.setdefault(same.get(call.given_key, call.given_key), []).append(call.layer)
    folded: set[int] = set()
    before: list[tuple[_BatchNorm, nn.Module]] = []
    for call in working:
        norm = call.layer
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or used[id(norm)] != 1:
            continue
        given = same.get(call.given_key, call.given_key)
        maker, following = makers.get(given), takers.get(call.out_key, [])
        if _foldable(maker, used) and takers[given] == [norm]:
            _into_the_layer_before(norm, cast(nn.Conv2d | nn.Linear, maker))
            before.append((norm, cast(nn.Module, maker)))
        elif call.given.dim() == 2 and len(following) == 1 and _foldable(following[0], used, (nn.Linear,)):
            _into_the_next(norm, cast(nn.Linear, following[0]))
        else:
            continue
        folded.add(id(norm))
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if id(child) in folded:
                setattr(parent, name, nn.Identity())
    return before


def _foldable(
    layer: nn.Module | None, used: Counter[int], kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
) -> bool:
    return isinstance(layer, kinds) and used[id(layer)] == 1 and not is_parametrized(layer)


def _into_the_layer_before(norm: _BatchNorm, layer: nn.Conv2d | nn.Linear) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _into_the_next(norm: _BatchNorm, dense: nn.Linear) -> None:
    """W (x scale + shift) + b = (W scale) x + (W shift + b)."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = 1 / (norm.running_var + norm.eps).sqrt() if norm.weight is None else _scale(norm)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
        bias = dense.weight @ shift + (0 if dense.bias is None else dense.bias)
        dense.weight = nn.Parameter(dense.weight * scale, requires_grad=False)
        dense.bias = nn.Parameter(bias, requires_grad=False)


def _scale(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.weight / (norm.running_var + norm.eps).sqrt()


def prune_padding_taps(network: nn.Module, images: Tensor) -> None:
    """Cuts kernels to the taps that meet a pixel, where their map is so small that others see padding alone; in place.

    At 32 px the maps of ResNet50's last stage are 1x1: of its 3x3 kernels the middle tap remains, a quarter of all
    weights goes, and every answer stays as it was.
    """
    for layer, (height, width) in map_sizes(network, images).items():
        stride, padding = cast(tuple[int, int], layer.stride), cast(tuple[int, int], layer.padding)
        rows = window(height, layer.kernel_size[0], stride[0], padding[0])
        columns = window(width, layer.kernel_size[1], stride[1], padding[1])
        seen = (len(rows.taps), len(columns.taps))
        if (rows.places, columns.places) == (1, 1) and seen == (height, width) != layer.kernel_size:
            kept = layer.weight[:, :, rows.first : rows.end, columns.first : columns.end]
            layer.weight = nn.Parameter(kept.contiguous(), requires_grad=layer.weight.requires_grad)
            layer.kernel_size, layer.padding = seen, (0, 0)


def map_sizes(network: nn.Module, images: Tensor) -> dict[nn.Conv2d, tuple[int, int]]:
    """Height and width of the maps of each plain convolution that always has the same."""
    sizes: dict[nn.Conv2d, set[torch.Size]] = {}
    for call in watched(network, images):
        if isinstance(call.layer, nn.Conv2d):
            sizes.setdefault(call.layer, set()).add(call.given.shape[2:])
    return {
        layer: (size[0], size[1])
        for layer, found in sizes.items()
        for size in found
        if len(found) == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1)
        if not isinstance(layer.padding, str) and not is_parametrized(layer)
    }
