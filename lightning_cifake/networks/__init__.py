"""The networks: plain ``nn.Module``s that map (N, 3, S, S) float in [0, 1] to (N,) logits of P(REAL)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_cifake.beside_tensorflow import keep_triton_out

if TYPE_CHECKING:
    from lightning_cifake.networks.registry import SHIPPED, build_network, network_spec
    from lightning_cifake.networks.resnet50 import ResNet50Detector

keep_triton_out()

_WHERE = {
    "SHIPPED": "registry",
    "build_network": "registry",
    "network_spec": "registry",
    "ResNet50Detector": "resnet50",
}

__all__ = ["SHIPPED", "ResNet50Detector", "build_network", "network_spec"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
