"""A network of the user's own, in a file outside the package: what the code has never heard of trains as ours does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.predict import load_classifier

OWN = '''
import torch
from torch import nn


class Mean(nn.Module):
    """No batch norm, no image size, nothing of the package's."""

    def __init__(self, width: int = 4, slope: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.LeakyReLU(slope), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 1)
        )

    def forward(self, images):
        return self.layers(images).squeeze(1)


class Sized(Mean):
    """With a size, and a batch norm of torch's."""

    def __init__(self, image_size: int = 48) -> None:
        super().__init__(8)
        self.image_size = image_size
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        assert images.shape[2:] == (self.image_size, self.image_size)
        return super().forward(self.norm(images))


class Warm(torch.optim.SGD):
    pass
'''
FIT = ["--data.sample", "96", "--data.batch_size", "16", "--trainer.max_epochs", "1", "--trainer.precision", "32-true",
       "--trainer.accelerator", "cpu", "--trainer.logger", "false", "--output_dir", "run"]  # fmt: skip
NETWORK = ["--model.network", "ownnet.Mean", "--model.network.init_args.width", "8"]


@pytest.fixture
def own(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``ownnet.py`` in the current folder, which is on no path: as the installed command meets it."""
    (workplace / "ownnet.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(workplace))])
    yield workplace
    sys.modules.pop("ownnet", None)


def metrics(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "metrics.json").read_text())


def test_it_is_trained_measured_resumed_and_read_back(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *FIT, *NETWORK]) == 0
    spec = {"class_path": "ownnet.Mean", "init_args": {"width": 8, "slope": 0.1}}
    assert read_checkpoint(Path("run/last.ckpt"))["hyper_parameters"]["network"] == spec
    assert metrics("run")["model"]["network"] == spec
    for command in ("test", "validate"):  # without a word about the network, or the size of the images
        assert main([command, "--ckpt_path", "run/best.ckpt"]) == 0
    assert metrics("run/test-clean")["accuracy"] == metrics("run")["accuracy"]
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--trainer.max_epochs", "2"]) == 0
    last = read_checkpoint(Path("run/last.ckpt"))
    assert [epoch["epoch"] for epoch in last["history"]] == [0, 1] and last["image_size"] == 32
    classifier = load_classifier("run/last.ckpt")
    assert classifier.image_size == 32 and type(classifier.network).__name__ == "Mean"
    assert classifier(torch.rand(2, 3, 24, 24)).shape == (2,)
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--model.network.width", "4"]) == 2
    assert "model.network.width: 8 in the checkpoint, got 4" in capsys.readouterr().err
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--model.network", "resnet50"]) == 2
    assert "model.network: ownnet.Mean in the checkpoint, got lightning_cifake" in capsys.readouterr().err
    # weights to start from: any network's own
    again = [*FIT[:-1], "again", *NETWORK, "--test_at_end", "false"]
    assert main(["fit", *again, "--model.weights", "run/best.ckpt"]) == 0
    capsys.readouterr()
    assert main(["fit", *again, "--overwrite", "--model.weights", "imagenet"]) == 2
    assert "model.weights: Mean offers no imagenet" in capsys.readouterr().err


def test_its_image_size_is_that_of_the_data(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "mine.yaml").write_text(
        "model:\n  network: {class_path: ownnet.Sized}\n"
        "  optimizer: {class_path: ownnet.Warm, init_args: {momentum: 0.5}}\n"
        "  scheduler:\n    class_path: ReduceLROnPlateau\n    init_args: {patience: 0}\n  loss: SoftMarginLoss\n"
    )
    assert main(["fit", "--config", "demo", "--config", "mine.yaml", *FIT]) == 0
    hyper = read_checkpoint(Path("run/last.ckpt"))["hyper_parameters"]
    assert hyper["network"] == {"class_path": "ownnet.Sized", "init_args": {"image_size": 32}}
    assert hyper["optimizer"]["class_path"] == "ownnet.Warm" and hyper["optimizer"]["init_args"]["momentum"] == 0.5
    assert hyper["scheduler"]["class_path"] == "torch.optim.lr_scheduler.ReduceLROnPlateau"
    assert hyper["loss"]["class_path"] == "torch.nn.SoftMarginLoss"
    assert load_classifier("run/best.ckpt").image_size == 32
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--trainer.max_epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--model.learning_rate", "0.5"]) == 2
    assert "at another rate with the published schedule alone" in capsys.readouterr().err
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--model.optimizer", "SGD"]) == 2
    assert "model.optimizer: ownnet.Warm in the checkpoint, got torch.optim.SGD" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_it(own: Path, warm: Any) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--test_at_end", "false"]
    ran = warm.run("fit", *FIT, *NETWORK, *two, folder=own)  # Lightning starts the other
    assert ran.returncode == 0, ran.stderr
    assert (own / "run" / "last.ckpt").is_file() and "Traceback" not in ran.stderr


PROGRAM = "import sys; from lightning_cifake.commands.main import main; sys.exit(main())"
"""What the installed ``lightning-cifake`` is; with -P the current folder is on no path."""


@pytest.mark.parametrize(
    "start", [pytest.param(("-m", "lightning_cifake"), marks=pytest.mark.long), ("-P", "-c", PROGRAM)]
)
def test_the_current_folder_is_looked_in_however_the_program_is_started(own: Path, start: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, *start, "fit", *NETWORK, "--print_config"], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert yaml.safe_load(ran.stdout)["model"]["network"]["class_path"] == "ownnet.Mean"
