"""What is exported: bytes of any size in, P(REAL) out; resize, scaling, network, temperature, sigmoid in one module."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision.models.resnet import Bottleneck

from lightning_cifake.networks.convolution import window
from lightning_cifake.networks.resnet50 import ResNet50Detector

InputType = Literal["uint8", "float32"]


class ExportGraph(nn.Module):
    """``images`` (N, H, W, 3) RGB -> ``prob_real`` (N,) in [0, 1] and ``logit`` (N,), both float32.

    Images of another size than the network's are resized as in training.

    Args:
        network: in any mode; a copy of it is folded, it stays as it is.
        input_type: ``uint8``, bytes 0 to 255 as decoders give them, or ``float32``, values in [0, 1].
        temperature: what logits are divided by; the ``logit`` that comes out is divided already.
        half: the network's weights and arithmetic in float16; input and outputs stay as they are.
    """

    def __init__(
        self,
        network: ResNet50Detector,
        input_type: InputType = "uint8",
        temperature: float = 1.0,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.network = prune_padding_taps(fold_batch_norm(network))
        if half:
            self.network.half()
        self.input_type, self.temperature, self.half_precision = input_type, temperature, half

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        resized = resize(images, self.network.image_size)
        if self.input_type == "uint8":
            resized = resized.round() / 255  # to whole values, as decode_image does; halves to even in both
        resized = resized.permute(0, 3, 1, 2)
        logit = self.network(resized.half() if self.half_precision else resized).float()
        if self.temperature != 1:
            logit = logit / self.temperature
        return logit.sigmoid(), logit


def resize(images: Tensor, size: int) -> Tensor:
    """(N, H, W, 3) uint8 or float32 -> (N, S, S, 3) float32: bilinear, half-pixel centres, no antialiasing.

    The same as ``tf.image.resize`` and OpenCV, but with places in whole units of 1 / 2S of a pixel: no runtime can
    round them otherwise, and at S = 32 bytes come out exactly. ONNX's own Resize computes places in float32, where a
    value that lies on a half is then rounded to another byte. At H = W = S it changes nothing.
    """
    top, bottom, down = _places(images.shape[1], size)
    left, right, across = _places(images.shape[2], size)
    down, across = down.view(1, size, 1, 1), across.view(1, 1, size, 1)
    # rows first, and floats last: of a large image only 2S rows are touched
    upper, lower = images.index_select(1, top), images.index_select(1, bottom)
    above = _between(upper.index_select(2, left), upper.index_select(2, right), across)
    below = _between(lower.index_select(2, left), lower.index_select(2, right), across)
    return above + (below - above) * down


def _places(length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(S,) first neighbours, (S,) second ones, (S,) how far it is from the first to the second, in [0, 1)."""
    place = ((2 * torch.arange(size) + 1) * length - size).clamp(min=0)  # of (i + 1/2) H/S - 1/2, in units of 1 / 2S
    first = place // (2 * size)
    return first, (first + 1).clamp(max=length - 1), (place % (2 * size)).float() / (2 * size)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    first = first.float()
    return first + (second.float() - first) * share


def fold_batch_norm(network: ResNet50Detector) -> ResNet50Detector:
    """A copy in eval mode, float32, whose batch norms have gone into the weights beside them; folded in float64.

    In the head a batch norm goes into the dense layer before it, or, behind an activation as the published one, into
    the next dense layer; where an activation lies on either side it stays.
    """
    folded = copy.deepcopy(network).eval().double()
    body = folded.backbone
    body.conv1, body.bn1 = fuse_conv_bn_eval(body.conv1, body.bn1), nn.Identity()
    for block in body.modules():
        if not isinstance(block, Bottleneck):
            continue
        for number in "123":
            conv, norm = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
            setattr(block, f"conv{number}", fuse_conv_bn_eval(conv, norm))
            setattr(block, f"bn{number}", nn.Identity())
        if block.downsample is not None:
            block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample))
    folded.head = _fold_head(folded.head)
    return folded.float().requires_grad_(False)


def prune_padding_taps(network: ResNet50Detector) -> ResNet50Detector:
    """Cuts kernels to the taps that meet a pixel, where their map is so small that others see padding alone; in place.

    At 32 px the last stage's maps are 1x1: of its 3x3 kernels the middle tap remains, a quarter of all weights goes,
    and every answer stays as it was.
    """
    sizes: dict[nn.Conv2d, torch.Size] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        sizes[layer] = given[0].shape[2:]

    handles = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    size = network.image_size
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size, dtype=next(network.parameters()).dtype))
    for handle in handles:
        handle.remove()
    for layer, (height, width) in sizes.items():
        stride, padding = cast(tuple[int, int], layer.stride), cast(tuple[int, int], layer.padding)
        rows = window(height, layer.kernel_size[0], stride[0], padding[0])
        columns = window(width, layer.kernel_size[1], stride[1], padding[1])
        seen = (len(rows.taps), len(columns.taps))
        if (rows.places, columns.places) == (1, 1) and seen == (height, width) != layer.kernel_size:
            kept = layer.weight[:, :, rows.first : rows.end, columns.first : columns.end]
            layer.weight = nn.Parameter(kept.contiguous(), requires_grad=layer.weight.requires_grad)
            layer.kernel_size, layer.padding = seen, (0, 0)
    return network


def _fold_head(head: nn.Sequential) -> nn.Sequential:
    layers = [layer for layer in head if not isinstance(layer, nn.Dropout)]
    kept: list[nn.Module] = []
    for at, layer in enumerate(layers):
        following = layers[at + 1] if at + 1 < len(layers) else None
        if not isinstance(layer, nn.BatchNorm1d):
            kept.append(layer)
        elif kept and isinstance(kept[-1], nn.Linear):
            kept[-1] = fuse_linear_bn_eval(kept[-1], layer)
        elif isinstance(following, nn.Linear):
            layers[at + 1] = _norm_into_next(layer, following)
        else:
            kept.append(layer)
    return nn.Sequential(*kept)


def _norm_into_next(norm: nn.BatchNorm1d, dense: nn.Linear) -> nn.Linear:
    """W (x scale + shift) + b = (W scale) x + (W shift + b)."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        joined = nn.Linear(dense.in_features, dense.out_features, dtype=dense.weight.dtype)
        joined.weight.copy_(dense.weight * scale)
        joined.bias.copy_(dense.weight @ shift + (dense.bias if dense.bias is not None else 0))
    return joined
