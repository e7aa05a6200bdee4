"""Every network that has a short name: trained, exported, asked, and read back, it answers the same all the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.predict import ClassifierModel, load_classifier
from lightning_cifake.networks import SHIPPED, build_network

FIT = (
    *("fit", "--data.root", "demo", "--data.sample", "96", "--data.batch_size", "16", "--trainer.max_epochs", "1"),
    # small steps: of random weights' wide logits even the last bits are more than an export may differ by
    *("--model.learning_rate", "1e-5", "--trainer.logger", "false", "--test_at_end", "false", "--output_dir", "run"),
)
OTHERS = {"ensemble", "features"}  # of checkpoints, and of classifiers: their own tests take them all the way
LONG = {"resnet50"}  # 24 million weights; from its own random ones, whose logits are narrow
NEAR = 1e-5  # of a probability in float32


STEMS = [pytest.param("resnet50", ("--model.network.stem", stem), marks=pytest.mark.long) for stem in ("half", "small")]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*(pytest.param(n, (), marks=pytest.mark.long if n in LONG else ()) for n in SHIPPED if n not in OTHERS), *STEMS],
)
def test_it_is_trained_exported_asked_and_read_back(name: str, arguments: tuple[str, ...], workplace: Path) -> None:
    weights = "none" if name in LONG else start(name)
    assert main([*FIT, "--model.network", name, *arguments, "--model.weights", weights]) == 0
    assert main(["export", "--ckpt_path", "run/best.ckpt", "--output", "model.onnx", "--sample", "16"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = ClassifierModel(load_classifier("run/best.ckpt")).prob_real([*images])
    given = Detector("model.onnx").prob_real([*images])
    assert np.abs(given - expected).max() < NEAR
    assert len(set(expected)) == 5  # of the image, not a constant
    assert main(["convert", "model.onnx", "back.ckpt"]) == 0
    again = ClassifierModel(load_classifier("back.ckpt")).prob_real([*images])
    assert np.abs(again - expected).max() < NEAR


def start(name: str) -> str:
    """Random weights whose batch norms know their maps: six steps tell them little, and all answers would be one."""
    torch.manual_seed(0)
    network = build_network(name).train()
    for norm in (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = 1.0
    network(torch.rand(32, 3, 32, 32))
    torch.save(network.state_dict(), "start.pt")
    return "start.pt"
