"""The published network: torchvision's ResNet50 without its top, and a head, the published one unless another is asked.

A plain ``nn.Module``: no Lightning, no TensorFlow. ``layout="keras"`` is the network that
``keras.applications.ResNet50`` builds, ``layout="torchvision"`` the one that torchvision's own weights were trained in.
"""

import math
from importlib import import_module
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from lightning_cifake.errors import UserError
from lightning_cifake.networks.batch_norm import KerasBatchNorm1d, KerasBatchNorm2d
from lightning_cifake.networks.convolution import SMALL_MAP, MatmulConv2d, to_channels_last_
from lightning_cifake.networks.head import PUBLISHED_HEAD, Head, parse_head
from lightning_cifake.networks.keras_layers import KERAS_BN_EPS, KERAS_BN_MOMENTUM, initialise_as_keras
from lightning_cifake.networks.logit import check_image_size, logits_of
from lightning_cifake.networks.pixels import DEFAULT, Affine, parse_pixels
from lightning_cifake.text import printable, shorten

Layout = Literal["keras", "torchvision"]
Stem = Literal["imagenet", "small", "half"]

FEATURES = 2048  # channels that ResNet50's last stage hands to the head

STEM_STRIDE = {"imagenet": 4, "small": 1, "half": 2}
"""Pixels of the image, along a side, to one of the first stage's maps."""

KERAS_BACKBONE_BN_EPS = 1.001e-5  # keras.applications.resnet gives it by hand
DROPOUT = 0.5
LARGEST_HEAD = 2**29  # weights, 2 GiB in float32: a flattened 512 px map into 512 units has 268 million


class ResNet50Detector(nn.Module):
    """ResNet50 with the published head. (N, 3, H, W) float in [0, 1] -> (N,) logits of P(REAL).

    Args:
        layout: ``"keras"`` puts the stride of a down-sampling block on its first 1x1 convolution (ResNet v1) and takes
            Keras's batch-norm constants and glorot initialisation; ``"torchvision"`` leaves torchvision's (v1.5).
            Convolutions carry no bias in either: batch norm follows each and takes it away.
        stem: ``"imagenet"`` is the 7x7 stride-2 convolution and max-pool of the paper; ``"small"`` a 3x3 convolution
            of stride 1 without max-pool, which keeps 32 px images from shrinking to 8x8 before the first block;
            ``"half"`` one of stride 2 without max-pool, which hands 16x16 to it, at a quarter of that one's cost.
        freeze_backbone: trains the head alone; the backbone then also stays in eval mode, as in Keras.
        image_size: height and width of the images; they set how many features reach the head.
        dropout: share of features that the head's dropout layers drop where their line gives no rate of its own.
        head: what follows the backbone, in the words of :mod:`lightning_cifake.networks.head`.
        pixels: what the first convolution sees of RGB in [0, 1], in the words of
            :mod:`lightning_cifake.networks.pixels`; it is computed here, the images that come in are the same for all.

    Raises:
        UserError: a head or pixels that cannot be read, an image size or a head that no machine holds.

    Source: paper section 10.4; keras/src/applications/resnet.py.
    """

    pixel_scale: Tensor | None
    pixel_offset: Tensor | None

    def __init__(
        self,
        layout: Layout = "keras",
        stem: Stem = "imagenet",
        freeze_backbone: bool = False,
        image_size: int = 32,
        dropout: float = DROPOUT,
        head: str = PUBLISHED_HEAD,
        pixels: str = DEFAULT,
    ) -> None:
        super().__init__()
        self.init_args = {
            "layout": layout, "stem": stem, "freeze_backbone": freeze_backbone, "image_size": image_size,
            "dropout": dropout, "head": head, "pixels": pixels,
        }  # fmt: skip
        # a checkpoint's words have not been through the command line's parser
        for name, value, known in (("layout", layout, get_args(Layout)), ("stem", stem, get_args(Stem))):
            if value not in known:
                raise UserError(
                    f"model.network.{name}: expected one of {', '.join(known)}, got {shorten(printable(value), 40)}"
                )
        if not 0 <= dropout < 1:
            raise UserError(f"model.network.dropout: expected from 0 to below 1, got {dropout}")
        layers = parse_head(head)
        affine = parse_pixels(pixels).affine
        check_sizes(image_size, stem, layers)
        self.pooling = layers.pooling
        self.layout, self.stem, self.freeze_backbone, self.image_size = layout, stem, freeze_backbone, image_size
        keras = layout == "keras"
        norm = _keras_backbone_norm if keras else nn.BatchNorm2d
        backbone = resnet50(weights=None, norm_layer=norm)
        backbone.fc = nn.Identity()
        backbone.avgpool = nn.Identity()  # the paper flattens; torchvision's own flatten would be in (C, H, W) order
        if stem != "imagenet":
            backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=STEM_STRIDE[stem], padding=1, bias=False)
            nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
            backbone.maxpool = nn.Identity()
        if keras:
            _stride_on_first_convolution(backbone)
        _as_matmuls(backbone, image_size // STEM_STRIDE[stem])
        self.backbone = backbone
        self.features = flat_features(image_size, stem, layers.pooling)
        self.head = layers.build(self.features, _keras_head_norm if keras else _torch_head_norm, dropout)
        if keras:
            self.apply(initialise_as_keras)
        self.backbone.requires_grad_(not freeze_backbone)
        self.pixels, self.bgr = pixels, affine.order != (0, 1, 2)
        # not of the state_dict: they are the configuration's, and a checkpoint of before loads as it is
        for name, values in (("pixel_scale", affine.scale), ("pixel_offset", affine.offset)):
            tensor = None if affine == Affine() else torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        body = self.backbone
        if self.pixel_scale is not None and self.pixel_offset is not None:
            images = (images.flip(1) if self.bgr else images) * self.pixel_scale + self.pixel_offset
        if images.device.type == "cpu":  # what the products, and oneDNN's convolutions, take without copying
            images = images.contiguous(memory_format=torch.channels_last)
        # (N, 64, H/4, W/4) with the stem of ImageNet, H with the small one, H/2 with half
        maps = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        maps = body.layer4(body.layer3(body.layer2(body.layer1(maps))))  # (N, 2048, H/32, W/32), or H/8, or H/16
        # Keras flattens channels last; at 1x1 the order is the same
        features = maps.mean((2, 3)) if self.pooling == "avgpool" else maps.permute(0, 2, 3, 1).flatten(1)
        return logits_of(cast(nn.Linear, self.head[-1]), self.head[:-1](features))

    def load_pretrained(self, weights: str) -> bool:
        """Fills it from ``imagenet``, or a file of torchvision's, Keras's or this network's own weights."""
        # by name: what reads Keras's files stands later on the way, and knows this network
        pretrained = import_module("lightning_cifake.keras_io.pretrained")
        return bool(pretrained.load_pretrained(self, weights))

    @staticmethod
    def may_change(name: str, was: Any, now: Any) -> bool:
        """Whether a run may be resumed with another value of an argument: what the head's dropout layers drop."""
        if name == "head":
            one, other = (
                parsed._replace(layers=tuple(layer._replace(rate=None) for layer in parsed.layers))
                for parsed in (parse_head(was), parse_head(now))
            )
            return one == other
        return name == "dropout"

    def train(self, mode: bool = True) -> "ResNet50Detector":
        super().train(mode)
        if self.freeze_backbone:  # Keras: a layer with trainable=False also normalises with its running statistics
            self.backbone.eval()
        return self


def flat_features(image_size: int, stem: Stem, pooling: str) -> int:
    """How many values the backbone hands to the head."""
    side = math.ceil(image_size / (8 * STEM_STRIDE[stem])) if pooling == "flatten" else 1
    return FEATURES * side * side


def check_sizes(image_size: int, stem: Stem, head: Head) -> None:
    """Before anything is allocated.

    Raises:
        UserError: names the size, what was expected and what it got.
    """
    check_image_size(image_size)
    features, weights = flat_features(image_size, stem, head.pooling), 0
    for layer in head.layers:
        if layer.kind == "dense":
            weights, features = weights + features * layer.units, layer.units
    if weights > LARGEST_HEAD:
        raise UserError(
            f"model.network.head: expected at most {LARGEST_HEAD:,} weights, got {weights:,} at image_size "
            f"{image_size}: take avgpool instead of flatten, fewer units, or smaller images"
        )


def _keras_backbone_norm(channels: int) -> KerasBatchNorm2d:
    return KerasBatchNorm2d(channels, KERAS_BACKBONE_BN_EPS, KERAS_BN_MOMENTUM)


def _keras_head_norm(channels: int, eps: float | None, momentum: float | None) -> KerasBatchNorm1d:
    eps, momentum = eps or KERAS_BN_EPS, momentum or KERAS_BN_MOMENTUM
    return KerasBatchNorm1d(channels, eps, momentum)


def _torch_head_norm(channels: int, eps: float | None, momentum: float | None) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps or 1e-5, momentum or 0.1)  # torch's own defaults


def _stride_on_first_convolution(backbone: nn.Module) -> None:
    """ResNet v1 from torchvision's v1.5: the first 1x1 convolution of a down-sampling block takes the 3x3's stride."""
    for block in backbone.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _as_matmuls(backbone: nn.Module, side: int) -> None:
    """Convolutions that a CPU computes as matrix products; ``side`` is that of the first stage's maps."""
    for stage in range(4):
        blocks = backbone.get_submodule(f"layer{stage + 1}")
        small = (side >> stage) ** 2 <= SMALL_MAP
        for parent in list(blocks.modules()):
            for name, layer in list(parent.named_children()):
                if type(layer) is nn.Conv2d:
                    product = MatmulConv2d.from_conv2d(layer)
                    if small and product.kernel_size != (1, 1):
                        to_channels_last_(product)
                    setattr(parent, name, product)
