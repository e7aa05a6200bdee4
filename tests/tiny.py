"""A network that trains in seconds, in place of the ResNet50, and the command line: python tests/tiny.py fit ...

TINY_SIGNAL=SIGTERM@train:9 sends the process that signal in its 9th training step (from 1); @val:1 in validation;
@train:9:1 in process 1 alone. TINY_NAN=9 makes an image of that step (from 0) NaN; TINY_DECODED=FILE notes each
decoding.
"""

import math
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from lightning_cifake.networks.batch_norm import KerasBatchNorm1d, KerasBatchNorm2d
from lightning_cifake.networks.head import Dropout


class TinyNetwork(nn.Module):
    """Two convolutions, batch norms and dropout: whatever a resume, or several processes, can get wrong.

    (N, 3, H, W) -> (N,) logits.
    """

    def __init__(
        self,
        layout: str = "keras",
        stem: str = "imagenet",
        freeze_backbone: bool = False,
        image_size: int = 32,
        dropout: float = 0.5,
        head: str = "",
        pixels: str = "0-1",
    ) -> None:
        super().__init__()
        keras = layout == "keras"
        norm2d, norm1d = (KerasBatchNorm2d, KerasBatchNorm1d) if keras else (nn.BatchNorm2d, nn.BatchNorm1d)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            norm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            norm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            norm1d(32),
            Dropout(dropout),
            nn.Linear(32, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def sends_signal(classifier: type, asked: str) -> Any:
    """A patch of the step that sends the signal."""
    name, _, place = asked.partition("@")
    stage, at, process = (*place.split(":"), None)[:3]
    method = {"train": "training_step", "val": "validation_step"}[stage]
    original, calls = getattr(classifier, method), [0]

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        calls[0] += 1
        if calls[0] == int(at) and process in (None, os.environ.get("LOCAL_RANK")):
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, batch, batch_idx)

    return patch.object(classifier, method, step)


def spoils_batch(datamodule: type, step: int) -> Any:
    """A patch that makes an image of the last process NaN in one step."""
    original = datamodule.on_after_batch_transfer  # type: ignore[attr-defined]

    def transfer(self: Any, batch: Any, index: int) -> Any:
        batch = original(self, batch, index)
        trainer = self.trainer
        if trainer.training and trainer.global_step == step and trainer.global_rank == trainer.world_size - 1:
            batch.images[0, 0, 0, 0] = math.nan
        return batch

    return patch.object(datamodule, "on_after_batch_transfer", transfer)


def notes_decoding(log: str) -> Any:
    """A patch that adds a line to a file each time the demo is decoded."""
    import lightning_cifake.data.decode as decode

    original = decode._store_demo

    def store(folder: Any) -> None:
        with Path(log).open("a") as file:
            file.write("decoded\n")
        original(folder)

    return patch.object(decode, "_store_demo", store)


def run(arguments: list[str]) -> int:
    """The command line with the tiny network and what the environment asks for; all of it undone behind it."""
    import lightning_cifake.training.classifier as classifier
    from lightning_cifake.commands.main import main
    from lightning_cifake.data.datamodule import CIFAKEDataModule

    with ExitStack() as patches:
        patches.enter_context(patch.object(classifier, "ResNet50Detector", TinyNetwork))
        if asked := os.environ.get("TINY_SIGNAL"):
            patches.enter_context(sends_signal(classifier.FakeImageClassifier, asked))
        if step := os.environ.get("TINY_NAN"):
            patches.enter_context(spoils_batch(CIFAKEDataModule, int(step)))
        if log := os.environ.get("TINY_DECODED"):
            patches.enter_context(notes_decoding(log))
        return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
