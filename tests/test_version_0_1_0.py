"""What version 0.1.0 left behind is read, measured, resumed, exported and converted, with the numbers it gave itself.

``fixtures/version_0_1_0/make.py`` made the files, with 0.1.0.
"""

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.migration import migrate_config, migrate_model
from lightning_cifake.networks import ResNet50Detector
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.resume import open_checkpoint

FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1_0"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (8, 3, 32, 32))).float() / 255
NAMES = ("last", "best")


@pytest.fixture(scope="module")
def unpacked(module_folder: Callable[[str], Path]) -> Path:
    """The two runs' folders, as 0.1.0 left them."""
    folder = module_folder("version_0_1_0")
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / f"{name}.ckpt").write_bytes(lzma.decompress((FIXTURES / f"{name}.ckpt.xz").read_bytes()))
        shutil.copy(FIXTURES / f"{name}.yaml", folder / name / "config.yaml")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_answers_as_it_did(unpacked: Path, name: str) -> None:
    path = unpacked / name / f"{name}.ckpt"
    hyper = read_checkpoint(path)["hyper_parameters"]
    assert "network" not in hyper and hyper["layout"] == {"last": "keras", "best": "torchvision"}[name]
    classifier = load_classifier(path)
    network = classifier.network
    assert type(network) is ResNet50Detector
    assert {name: hyper[name] for name in network.init_args} == network.init_args
    with torch.inference_mode():
        assert classifier(IMAGES).tolist() == pytest.approx(EXPECTED[name]["logits"], rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*callbacks used to create the checkpoint need to be provided"
)  # by last.ckpt's test
@pytest.mark.parametrize("name", NAMES)
def test_it_is_measured_as_it_was(unpacked: Path, workplace: Path, name: str) -> None:
    assert main(["test", "--ckpt_path", str(unpacked / name / f"{name}.ckpt"), "--output_dir", "measured"]) == 0
    measured, expected = json.loads(Path("measured/metrics.json").read_text()), EXPECTED[name]["test"]
    assert measured["confusion_matrix"] == expected["confusion_matrix"]
    for figure in ("loss", "accuracy", "auroc"):
        assert measured[figure] == pytest.approx(expected[figure], rel=1e-4), figure


@pytest.mark.slow
def test_a_run_goes_on_as_it_did(unpacked: Path, workplace: Path) -> None:
    shutil.copytree(unpacked / "last", "run")
    assert main(["fit", "--ckpt_path", "run/last.ckpt", "--trainer.max_epochs", "2"]) == 0
    last = read_checkpoint(Path("run/last.ckpt"))
    history = EXPECTED["last"]["history"]
    assert [epoch["epoch"] for epoch in last["history"]] == [epoch["epoch"] for epoch in history] == [0, 1]
    for ours, theirs in zip(last["history"], history, strict=True):
        assert ours["lr"] == theirs["lr"]
        # three steps in float32, of sums in another order on another machine
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-2)
    hyper = last["hyper_parameters"]
    assert hyper["network"]["init_args"]["dropout"] == 0.25 and hyper["learning_rate"] == 2e-5 and "layout" not in hyper
    written = yaml.safe_load(Path("run/config.yaml").read_text())["model"]
    assert written["network"]["init_args"]["layout"] == "keras" and "layout" not in written


@pytest.mark.slow
def test_it_is_exported_as_what_it_is(unpacked: Path) -> None:
    import onnxruntime

    from lightning_cifake.deploy.export import to_onnx

    model = to_onnx(load_classifier(unpacked / "best" / "best.ckpt"))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    pixels = (IMAGES * 255).round().byte().permute(0, 2, 3, 1).numpy()
    _, logits = session.run(["prob_real", "logit"], {"images": pixels})
    assert logits.tolist() == pytest.approx(EXPECTED["best"]["logits"], rel=1e-3, abs=1e-3)


def test_it_is_converted_with_its_moments(unpacked: Path) -> None:
    from lightning_cifake.training.convert import read_exported

    path, notes = unpacked / "last" / "last.ckpt", []  # type: ignore[var-annotated]
    exported = read_exported(read_checkpoint(path), path, notes)
    assert exported.dropout == 0.25 and exported.epoch == 1 and exported.iterations == 3 and not notes
    assert exported.learning_rate == pytest.approx(2e-5 * 0.95)


def test_what_may_change_and_what_not_is_told_by_the_new_names(unpacked: Path) -> None:
    resumed = open_checkpoint(unpacked / "last" / "last.ckpt", to_train=True)
    assert resumed.image_size == 32 and resumed.model["network"]["init_args"]["layout"] == "keras"
    assert resumed.defaults()["data"] == {"image_size": 32}


OLD = {"layout": "torchvision", "dropout": 0.1, "image_size": 48, "weights": "none", "learning_rate": 0.01}
NETWORK = "lightning_cifake.networks.ResNet50Detector"


def test_one_function_brings_both_into_todays_words() -> None:
    own = {"layout": "torchvision", "dropout": 0.1, "image_size": 48}
    assert migrate_model(OLD) == {
        "network": {"class_path": NETWORK, "init_args": own}, "weights": "none", "learning_rate": 0.01,
    }  # fmt: skip
    assert migrate_model(migrate_model(OLD)) == migrate_model(OLD)
    assert migrate_model({"learning_rate": 0.01}) == {"learning_rate": 0.01}
    config = migrate_config({"data": {"image_size": 48}, "model": OLD, "patience": 3})
    assert config["model"]["network"]["init_args"] == {"layout": "torchvision", "dropout": 0.1}
    assert config["data"] == {"image_size": 48} and config["patience"] == 3


def test_the_arguments_of_0_1_0_are_taken_in_python_with_a_warning() -> None:
    with torch.device("meta"), pytest.warns(DeprecationWarning, match="since 0.2.0"):
        classifier = FakeImageClassifier(layout="torchvision", head="avgpool, dense 1")
    assert classifier.hparams["network"]["init_args"] == {"layout": "torchvision", "head": "avgpool, dense 1"}
    with pytest.raises(TypeError, match="has no argument depth"):
        FakeImageClassifier(depth=3)


def test_a_configuration_of_0_1_0_is_taken_with_a_note(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning_cifake.commands import lightning_cli

    seen: list[Any] = []
    monkeypatch.setattr(lightning_cli.Cli, "_run_subcommand", lambda self, name: seen.append(self))
    Path("old.yaml").write_text("model:\n  layout: torchvision\n  head: avgpool, dense 1\n  dropout: 0.1\n")
    assert main(["fit", "--config", "old.yaml", "--model.network.dropout", "0.3"]) == 0
    assert seen[0].model.network.init_args["head"] == "avgpool, dense 1"
    assert seen[0].model.network.init_args["dropout"] == 0.3
    assert "model.head of a configuration is model.network.head since 0.2.0" in caplog.text
    assert main(["fit", "--config", "old.yaml", "--model.network", "tiny.TinyNetwork"]) == 2
