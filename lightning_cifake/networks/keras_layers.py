"""Keras's defaults where torch has others: of networks that were published in Keras."""

from torch import nn

from lightning_cifake.networks.batch_norm import KerasBatchNorm2d

KERAS_BN_MOMENTUM = 0.01  # Keras says 0.99: the share of the old statistics, where torch gives the share of the new
KERAS_BN_EPS = 1e-3


def keras_norm(channels: int) -> KerasBatchNorm2d:
    """``keras.layers.BatchNormalization()`` of maps (N, C, H, W)."""
    return KerasBatchNorm2d(channels, KERAS_BN_EPS, KERAS_BN_MOMENTUM)


def initialise_as_keras(layer: nn.Module) -> None:
    """Glorot uniform kernels and zero biases: the defaults of Keras's Conv2D and Dense. For ``network.apply``."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
