"""The networks: plain ``nn.Module``s that map (N, 3, S, S) float in [0, 1] to (N,) logits of P(REAL).

A network of anybody's own trains, is tested, exported, verified, asked and benchmarked like these where

- it gives one logit an image, (N,), for any N from 1 on: not (N, 1), and of two classes the difference of their logits;
- in eval mode an image's logit depends on that image alone, not on the rest of the batch and not on chance;
- S is its ``image_size`` where it has one; else it takes any;
- all that it learns lies in parameters and buffers, and what it is made with are plain values: then a checkpoint, which
  holds its class path and these values, makes it again, wherever its module can be imported;
- it computes in the type of its weights, on their device (float32; float64 where its export is simplified), and no
  branch of its ``forward`` looks at values: ``torch.export`` traces it.

:mod:`registry` lists the members that it may have beside; :mod:`contract` checks what can be checked, and an export is
held against the network itself before it gets its name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_cifake.beside_tensorflow import keep_triton_out

if TYPE_CHECKING:
    from lightning_cifake.networks.compact import CompactCNN
    from lightning_cifake.networks.correlation import CorrelationNet
    from lightning_cifake.networks.custom_cnn import CustomCNN
    from lightning_cifake.networks.ensemble import Ensemble
    from lightning_cifake.networks.features import FeatureDetector
    from lightning_cifake.networks.mesonet import Meso4, MesoInception4
    from lightning_cifake.networks.registry import SHIPPED, build_network, network_spec
    from lightning_cifake.networks.resnet50 import ResNet50Detector

keep_triton_out()

_WHERE = {
    "SHIPPED": "registry",
    "build_network": "registry",
    "network_spec": "registry",
    "CompactCNN": "compact",
    "CorrelationNet": "correlation",
    "CustomCNN": "custom_cnn",
    "Ensemble": "ensemble",
    "FeatureDetector": "features",
    "Meso4": "mesonet",
    "MesoInception4": "mesonet",
    "ResNet50Detector": "resnet50",
}

__all__ = [
    "SHIPPED",
    "CompactCNN",
    "CorrelationNet",
    "CustomCNN",
    "Ensemble",
    "FeatureDetector",
    "Meso4",
    "MesoInception4",
    "ResNet50Detector",
    "build_network",
    "network_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
