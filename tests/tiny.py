"""A network that trains in seconds, in place of the ResNet50, and the command line: python tests/tiny.py fit ...

TINY_SIGNAL=SIGTERM@train:9 sends the process that signal in its 9th training step (from 1); @val:1 in validation.
"""

import os
import signal
import sys
from typing import Any

from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Two convolutions, batch norm and dropout: whatever a resume can get wrong. (N, 3, H, W) -> (N,) logits."""

    def __init__(
        self,
        layout: str = "keras",
        stem: str = "imagenet",
        freeze_backbone: bool = False,
        image_size: int = 32,
        dropout: float = 0.5,
        head: str = "",
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def send_signal_as_asked(classifier: type) -> None:
    name, _, place = os.environ["TINY_SIGNAL"].partition("@")
    stage, _, at = place.partition(":")
    method = {"train": "training_step", "val": "validation_step"}[stage]
    original, calls = getattr(classifier, method), [0]

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        calls[0] += 1
        if calls[0] == int(at):
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, batch, batch_idx)

    setattr(classifier, method, step)


def main() -> int:
    import lightning_cifake.model.classifier as classifier
    from lightning_cifake.cli import main as cli_main

    classifier.FakeImageNetwork = TinyNetwork  # type: ignore[misc,assignment]
    if "TINY_SIGNAL" in os.environ:
        send_signal_as_asked(classifier.FakeImageClassifier)
    return cli_main()


if __name__ == "__main__":
    sys.exit(main())
