"""Networks of the user's own, to the package, and the command line with one: python tests/tiny.py fit ...

``fit`` there takes ``--model.network tiny.TinyNetwork`` unless it goes on from a checkpoint or names another.
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
from torchvision.models.resnet import Bottleneck

from lightning_cifake.networks.batch_norm import KerasBatchNorm1d, KerasBatchNorm2d
from lightning_cifake.networks.head import Dropout

NETWORK = ("--model.network", "tiny.TinyNetwork")


class TinyNetwork(nn.Module):
    """Two convolutions, batch norms and dropout: whatever a resume, or several processes, can get wrong.

    (N, 3, H, W) -> (N,) logits.
    """

    def __init__(self, layout: str = "keras", dropout: float = 0.5, width: int = 8) -> None:
        super().__init__()
        self.layout, self.dropout, self.width = layout, dropout, width
        keras = layout == "keras"
        norm2d, norm1d = (KerasBatchNorm2d, KerasBatchNorm1d) if keras else (nn.BatchNorm2d, nn.BatchNorm1d)
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2),
            norm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 8, 3, stride=2),
            norm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            norm1d(32),
            Dropout(dropout),
            nn.Linear(32, 1),
        )

    @staticmethod
    def may_change(name: str, was: Any, now: Any) -> bool:
        return name == "dropout"

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


class SmallNetwork(nn.Module):
    """What the exporter looks at in the real network, in a thousand weights: a stem, a bottleneck block, a head.

    (N, 3, S, S) -> (N,) logits of about +-3 that depend on the image; its batch norms are not the identity.
    """

    def __init__(self, image_size: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        self.image_size, self.dropout = image_size, dropout
        self.backbone = nn.Module()
        self.backbone.conv1 = nn.Conv2d(3, 8, 7, stride=4, padding=3, bias=False)
        self.backbone.bn1 = nn.BatchNorm2d(8)
        self.backbone.block = Bottleneck(8, 2)
        self.head = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(dropout), nn.Linear(16, 1)
        )
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.02, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone.block(self.backbone.bn1(self.backbone.conv1(images)))
        return self.head(maps.mean((2, 3))).squeeze(1)


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
        if asked := os.environ.get("TINY_SIGNAL"):
            patches.enter_context(sends_signal(classifier.FakeImageClassifier, asked))
        if step := os.environ.get("TINY_NAN"):
            patches.enter_context(spoils_batch(CIFAKEDataModule, int(step)))
        if log := os.environ.get("TINY_DECODED"):
            patches.enter_context(notes_decoding(log))
        return main(with_network(arguments))


def with_network(arguments: list[str]) -> list[str]:
    """``fit`` with the tiny network where nothing else says which."""
    told = any(part.split("=")[0] in ("--ckpt_path", "--model.network") for part in arguments)
    return [*arguments[:1], *NETWORK, *arguments[1:]] if arguments[:1] == ["fit"] and not told else arguments


if __name__ == "__main__":
    if (here := str(Path(__file__).parent)) not in sys.path:  # run by runpy: tiny.TinyNetwork is found by its name
        sys.path.append(here)
    sys.exit(run(sys.argv[1:]))
