"""The running average of the weights: what is measured, saved and exported; training goes on from the others."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SmallNetwork, TinyNetwork
from torch import nn

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.deploy.export import to_onnx
from lightning_cifake.errors import UserError
from lightning_cifake.networks.flips import MeanOfFlips
from lightning_cifake.training.averaging import RAW, WeightAverage, resume
from lightning_cifake.training.classifier import FakeImageClassifier

RECIPE = (
    *("--data.sample", "256", "--trainer.precision", "64-true", "--trainer.accelerator", "cpu", "--threads", "1"),
    *("--trainer.logger", "false", "--test_at_end", "false", "--trainer.max_epochs", "3", "--patience", "9"),
    *("--model.ema_decay", "0.9", "--model.learning_rate", "0.01"),
    *("--model.optimizer", "lightning_cifake.training.optimizers.Muon", "--model.optimizer.rest", "sgd"),
    *("--model.scheduler", "lightning_cifake.training.schedules.OneCycle", "--model.scheduler.warmup", "0.3"),
    *("--model.loss", "lightning_cifake.training.loss.SmoothedBCE"),
)


def test_a_killed_run_with_every_recipe_goes_on_as_if_it_had_not_been(
    tiny_command: Callable[..., Any], workplace: Path
) -> None:
    assert tiny_command("fit", *RECIPE, "--output_dir", "whole").returncode == 0
    assert tiny_command("fit", *RECIPE, "--output_dir", "killed", send="SIGTERM@train:9").returncode == 143
    assert tiny_command("fit", "--ckpt_path", "killed/last.ckpt").returncode == 0
    whole, killed = (read_checkpoint(workplace / run / "last.ckpt") for run in ("whole", "killed"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(killed["state_dict"][name], value), name
    for name, value in whole[RAW]["weights"].items():
        assert torch.equal(killed[RAW]["weights"][name], value), name
    key = "layers.0.weight"
    assert not torch.equal(whole[RAW]["weights"][key], whole["state_dict"][f"network.{key}"])
    for run in whole, killed:
        run["losses"] = [(epoch["lr"], epoch["train_loss"], epoch["val_loss"]) for epoch in run["history"]]
    assert whole["losses"] == killed["losses"] and len({lr for lr, *_ in whole["losses"]}) == 3
    best = read_checkpoint(workplace / "whole" / "best.ckpt")
    assert RAW not in best
    # what was validated is what was saved
    ran = tiny_command("validate", "--ckpt_path", "whole/best.ckpt", "--trainer.precision", "64-true")
    assert ran.returncode == 0
    measured = json.loads((workplace / "whole" / "validate-clean" / "metrics.json").read_text())
    assert measured["loss"] == pytest.approx(min(loss for *_, loss in whole["losses"]), rel=1e-6)


def test_an_average_of_weights_and_statistics_is_swapped_in_and_out() -> None:
    torch.manual_seed(0)
    network = TinyNetwork("torchvision")
    average = WeightAverage(network, decay=0.3)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for number in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.rand(4, 3, 16, 16))
        average.update()
        decay = min(0.3, (1 + number) / (10 + number))
        for name, value in network.state_dict().items():
            is_float = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if is_float else value.clone()
    trained = copy.deepcopy(network.state_dict())
    checkpoint: dict[str, Any] = {"state_dict": {}, "optimizer_states": []}
    for measuring in (False, True):
        average.save(checkpoint, "network.")
        for name, value in expected.items():
            torch.testing.assert_close(checkpoint["state_dict"][f"network.{name}"], value)
            assert torch.equal(checkpoint[RAW]["weights"][name], trained[name])
            torch.testing.assert_close(network.state_dict()[name], value if measuring else trained[name])
        average.swap()


@pytest.mark.parametrize(
    "raw", [3, {}, {"weights": {}, "updates": -1}, {"weights": {"layers.0.bias": torch.zeros(3)}, "updates": 1},
            {"weights": {"layers.0.bias": torch.tensor(torch.nan)}, "updates": 1}]
)  # fmt: skip
def test_trained_weights_that_are_none_are_refused(raw: Any) -> None:
    with pytest.raises(UserError, match=r"the checkpoint cannot be resumed|not of this network"):
        resume(TinyNetwork(), 0.9, raw)


def test_flips_are_in_the_answers_and_in_the_exported_graph_and_not_in_training() -> None:
    torch.manual_seed(0)
    network = SmallNetwork().eval()
    images = torch.rand(5, 3, 32, 32)
    expected = (network(images) + network(images.flip(3))) / 2
    classifier = FakeImageClassifier(network, test_flips=True).eval()
    torch.testing.assert_close(classifier(images), expected)
    assert not torch.allclose(network(images), expected)
    assert classifier.state_dict().keys() == FakeImageClassifier(SmallNetwork()).state_dict().keys()
    classifier.network.train(False)
    classifier.training = True
    torch.testing.assert_close(classifier(images), network(images))
    classifier.eval()

    import onnxruntime

    session = onnxruntime.InferenceSession(to_onnx(classifier, "float32").SerializeToString())
    logits = session.run(["logit"], {"images": images.permute(0, 2, 3, 1).numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), expected.detach(), rtol=1e-4, atol=1e-4)
    assert isinstance(classifier.inference_network, MeanOfFlips)


def test_a_compiled_network_trains_under_its_own_names(monkeypatch: Any) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: compiled.append(network) or network)
    classifier = FakeImageClassifier(TinyNetwork(), compile=True)
    classifier._trainer = type("Trainer", (), {"ckpt_path": None})()  # type: ignore[assignment]
    names = classifier.state_dict().keys()
    classifier.on_fit_start()
    assert compiled == [classifier.network] and classifier.state_dict().keys() == names
