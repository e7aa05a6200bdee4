"""The paper's "existing system": a small CNN, in the topology that CIFAKE's authors found best."""

from torch import Tensor, nn

from lightning_cifake.networks.keras_layers import initialise_as_keras
from lightning_cifake.networks.logit import check_image_size, logits_of

FILTERS = 32
UNITS = 64


class CustomCNN(nn.Module):
    """Two convolutions and a dense layer. (N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL).

    Convolution 3x3 to 32 channels, ReLU, max-pool 2; once more; dense 64, ReLU; dense 1. At 32 px 141,345 parameters.
    Nothing had to change for 32 px, which it was made for. Weights start as Keras's do.

    Args:
        image_size: S, from 4 on; it sets how many features reach the dense layer.

    Raises:
        UserError: an image size that it does not take.

    Source: Bird and Lotfi, "CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic
    Images", IEEE Access 12 (2024), doi 10.1109/ACCESS.2024.3356122; the "existing system" of this project's paper,
    section 3.
    """

    def __init__(self, image_size: int = 32) -> None:
        super().__init__()
        self.image_size = check_image_size(image_size, least=4)
        self.maps = nn.Sequential(
            nn.Conv2d(3, FILTERS, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(FILTERS, FILTERS, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dense = nn.Sequential(nn.Linear(FILTERS * (image_size // 2 // 2) ** 2, UNITS), nn.ReLU())
        self.head = nn.Linear(UNITS, 1)
        self.apply(initialise_as_keras)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images)  # (N, 32, S/4, S/4)
        return logits_of(self.head, self.dense(maps.flatten(1)))
