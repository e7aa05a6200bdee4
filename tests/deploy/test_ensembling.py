"""ensemble: checkpoints as one network, weighted on validation images alone, complete in one file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
from PIL import Image
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny import SmallNetwork, TinyNetwork

from lightning_cifake import Detector
from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy import quantize
from lightning_cifake.deploy.ensembling import fit_weights
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.networks import Ensemble, build_network, network_spec
from lightning_cifake.run_folder import sealed_config
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier

SIZE = 32


class Data:
    """The demo's images and the split that a checkpoint without a run is given."""

    def __init__(self, cache: Path) -> None:
        self.images = load_images("demo", cache_dir=cache)
        self.split = make_split(self.images, "clean", pool="all")
        self.validation = np.sort(self.split.val)
        self.labels = self.images.labels[self.validation]
        self.pixels = to_float(torch.from_numpy(self.images.images[self.validation]))


@pytest.fixture(scope="module")
def data(demo_cache: Path) -> Data:
    return Data(demo_cache)


def better_than_chance(network: Any, data: Data) -> Any:
    """The network, its last layer turned round where it is on the wrong side."""
    with torch.no_grad():
        logits = network.eval()(data.pixels).numpy()
        if roc_auc_score(data.labels, logits) < 0.5:
            last = [each for each in network.modules() if isinstance(each, torch.nn.Linear)][-1]
            last.weight.neg_()
            last.bias.neg_()
    return network


def write(path: Path, network: Any, flips: bool = False, **content: Any) -> Path:
    model = FakeImageClassifier(network, test_flips=flips)
    whole = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **content}
    SafeCheckpointIO().save_checkpoint({**whole, "pytorch-lightning_version": "2.6.6"}, path)
    return path


@pytest.fixture
def members(workplace: Path, data: Data) -> list[str]:
    """Two checkpoints of different networks, one with flips; their records name the split's training images."""
    record = [trained_on.entry_of_images(data.images, data.split.train)]
    torch.manual_seed(0)
    write(workplace / "a.ckpt", better_than_chance(SmallNetwork(), data), trained_on=record)
    write(workplace / "b.ckpt", better_than_chance(TinyNetwork("torchvision"), data), flips=True, trained_on=record)
    return ["a.ckpt", "b.ckpt"]


def logits_of(checkpoint: str, pixels: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return load_classifier(checkpoint)(pixels).double().numpy()


def refused(capsys: Any, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["ensemble", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert not Path("out.ckpt").exists()
    return line


def test_equal_weights_give_the_mean_of_the_logits(members: list[str], data: Data) -> None:
    assert main(["ensemble", *members, "--weights", "equal", "--output", "out.ckpt"]) == 0
    expected = (logits_of("a.ckpt", data.pixels) + logits_of("b.ckpt", data.pixels)) / 2
    assert np.allclose(logits_of("out.ckpt", data.pixels), expected, atol=1e-5)


def test_the_weights_are_those_of_the_validation_images_and_the_record_says_so(
    members: list[str], data: Data, capsys: Any
) -> None:
    arguments = ["ensemble", *members, "--data.root", "demo", "--output", "out.ckpt"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"on the {len(data.labels):,} validation images of demo" in said and "no measure of new images" in said
    answers = np.stack([logits_of(member, data.pixels) for member in members], 1)
    content = read_checkpoint(Path("out.ckpt"))
    weights = content["state_dict"]["network.weights"].double().numpy()
    assert np.allclose(weights, fit_weights(answers, data.labels), rtol=1e-3, atol=1e-4)
    record = content["trained_on"]
    fitted = trained_on.seen_in_training(record[-1:], data.images, data.split.val)
    assert fitted.all() and len(record[-1]["names"]) == len(data.split.val)
    assert not trained_on.seen_in_training(record, data.images, data.split.test).any()
    assert trained_on.seen_in_training(record, data.images, data.split.train).all()
    assert main([*arguments[:-1], "some.ckpt", "--sample", "120"]) == 0
    assert len(read_checkpoint(Path("some.ckpt"))["trained_on"][-1]["names"]) == 120
    assert main([*arguments, "--overwrite"]) == 0  # and again
    assert torch.equal(read_checkpoint(Path("out.ckpt"))["state_dict"]["network.weights"],
                       content["state_dict"]["network.weights"])  # fmt: skip


def test_images_that_a_member_was_trained_on_are_left_out(members: list[str], data: Data, capsys: Any) -> None:
    half = data.split.val[data.images.groups[data.split.val] % 2 == 0]  # a pair of one scene counts as one
    record = [trained_on.entry_of_images(data.images, half)]
    write(Path("b.ckpt"), load_classifier("b.ckpt").network, trained_on=record)
    assert main(["ensemble", *members, "--data.root", "demo", "--output", "out.ckpt"]) == 0
    entry = read_checkpoint(Path("out.ckpt"))["trained_on"][-1]
    left = len(data.split.val) - int(trained_on.seen_in_training(record, data.images, data.split.val).sum())
    assert len(entry["names"]) == left and "that a member was trained on are left out" in capsys.readouterr().out


def test_the_run_s_own_split_says_which_images_are_its_validation(members: list[str], data: Data) -> None:
    split = make_split(data.images, "clean", seed=5, pool="all")
    write_split(Path("split.json"), data.images, split)
    Path("config.yaml").write_text(sealed_config("data:\n  root: demo\n"))
    assert main(["ensemble", *members, "--output", "out.ckpt"]) == 0
    record = read_checkpoint(Path("out.ckpt"))["trained_on"]
    unseen = split.val[~trained_on.seen_in_training(record[:-1], data.images, split.val)]
    expected = trained_on.entry_of_images(data.images, np.sort(unseen))
    assert 0 < len(unseen) < len(split.val) and record[-1]["split"] == expected["split"]


def test_images_that_the_source_keeps_as_test_are_refused(members: list[str], workplace: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    for name in ("REAL", "FAKE"):
        folder = workplace / "photos" / "test" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{number}.png")
    said = refused(capsys, *members, "--data.root", "photos", "--output", "out.ckpt")
    assert "expected validation images, got 8 of the test part of photos" in said


def test_weights_are_logistic_regression_s_without_an_intercept() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    logits = np.stack([rng.normal((2 * labels - 1) * size, 2.0) for size in (1.0, 2.0)], 1)
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(logits, labels).coef_[0]
    assert (theirs > 0).all() and np.allclose(fit_weights(logits, labels), theirs, rtol=1e-3)
    useless = np.stack([logits[:, 1], -logits[:, 1] * 0.5 + rng.normal(size=3000)], 1)
    weights = fit_weights(useless, labels)
    assert weights[1] >= 0 and weights[0] > 0.5
    with pytest.raises(UserError, match="no better than chance"):
        fit_weights(-logits, labels)


def test_it_is_tested_and_taught_by_without_its_members_files(members: list[str], data: Data) -> None:
    assert main(["ensemble", *members, "--data.root", "demo", "--output", "out.ckpt"]) == 0
    expected = logits_of("out.ckpt", data.pixels)
    for member in members:
        Path(member).unlink()
    assert np.array_equal(logits_of("out.ckpt", data.pixels), expected)
    assert tiny.run(["test", "--ckpt_path", "out.ckpt", "--data.pool", "all", "--output_dir", "tested"]) == 0
    metrics = json.loads(Path("tested/metrics.json").read_text())
    test = np.sort(data.split.test)
    answers = expit(logits_of("out.ckpt", to_float(torch.from_numpy(data.images.images[test]))))
    assert metrics["accuracy"] == pytest.approx(((answers > 0.5) == data.images.labels[test]).mean())
    assert metrics["seen_in_training"]["images"] == 0
    short = ("--data.sample", "128", "--trainer.max_epochs", "1", "--test_at_end", "false", "--trainer.logger", "false")
    assert tiny.run(["fit", *short, "--model.teacher", "out.ckpt", "--output_dir", "student"]) == 0
    assert len(read_checkpoint(Path("student/last.ckpt"))["trained_on"]) == 3  # members', weights', the student's own


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_one_graph_is_exported_and_answers_as_the_checkpoint_does(
    members: list[str], data: Data, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 64)
    assert main(["ensemble", *members, "--weights", "equal", "--output", "out.ckpt"]) == 0
    arguments = ("--ckpt_path", "out.ckpt", "--output", "out.onnx", "--precision", precision, "--sample", "40")
    assert main(["export", *arguments, "--data.root", "demo", "--max_loss", "100"]) == 0
    _, found = Detector("out.onnx").run(data.images.images[data.validation[:50]])
    expected = logits_of("out.ckpt", data.pixels[:50])
    assert np.abs(found - expected).mean() < {"float32": 1e-5, "float16": 1e-2, "int8": 0.2}[precision]
    kinds = {node.op_type for node in onnx.load_model("out.onnx").graph.node}
    assert "BatchNormalization" not in kinds and ("QuantizeLinear" in kinds) == (precision == "int8")
    told = json.loads(Detector("out.onnx").facts.metadata["network"])
    assert [each["network"] for each in told["init_args"]["members"]] == ["tiny.SmallNetwork", "tiny.TinyNetwork"]
    assert str(Path.cwd()) not in json.dumps(told)


def test_members_that_do_not_go_together_are_refused_in_one_line(
    members: list[str], data: Data, workplace: Path, capsys: Any
) -> None:
    out = ("--output", "out.ckpt")
    assert "at least 2 checkpoints, got 1" in refused(capsys, "a.ckpt", *out)
    assert "a.ckpt and a.ckpt are the same checkpoint" in refused(capsys, "a.ckpt", "a.ckpt", *out)
    write(workplace / "large.ckpt", SmallNetwork(image_size=40))
    said = refused(capsys, "a.ckpt", "large.ckpt", *out)
    assert "expected members for images of one size, got 32 of a.ckpt, 40 of large.ckpt" in said
    assert "name them with --data.root, or --weights equal" in refused(capsys, *members, *out)
    said = refused(capsys, *members, "--weights", "equal", "--data.root", "demo", *out)
    assert "equal weights are fitted on no images" in said
    assert "--sample: expected at least 20, got 9" in refused(capsys, *members, "--sample", "9", *out)
    assert "expected a name that ends in .ckpt, got out.onnx" in refused(capsys, *members, "--output", "out.onnx")


def test_a_member_with_its_classes_exchanged_is_refused(
    members: list[str], data: Data, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_cifake.deploy.ensembling.WRONG_WAY_ROUND", 0.5)  # random networks: near chance
    network = load_classifier("b.ckpt").network
    with torch.no_grad():
        network.layers[-1].weight.neg_()
        network.layers[-1].bias.neg_()
    write(Path("b.ckpt"), network)
    said = refused(capsys, *members, "--data.root", "demo", "--output", "out.ckpt")
    assert "b.ckpt has the classes the other way round: AUROC 0." in said


def test_images_that_all_were_trained_on_weigh_nothing(members: list[str], data: Data, capsys: Any) -> None:
    record = [trained_on.entry_of_images(data.images, np.arange(len(data.images)))]
    write(Path("b.ckpt"), load_classifier("b.ckpt").network, trained_on=record)
    said = refused(capsys, *members, "--data.root", "demo", "--output", "out.ckpt")
    assert "validation images of both classes that no member was trained on, got 0" in said


def test_members_stay_as_they_were_trained_and_the_whole_is_built_again_from_what_it_says() -> None:
    told = [{"network": "custom_cnn", "arguments": {}}, {"network": "meso4", "arguments": {}, "checkpoint": "a.ckpt"}]
    network = build_network({"class_path": "ensemble", "init_args": {"members": told}})
    assert isinstance(network, Ensemble) and network.image_size == SIZE
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == 141_345 + 11_849
    spec = network_spec(network)
    assert spec == {"class_path": "lightning_cifake.networks.Ensemble", "init_args": {"members": told}}
    build_network(spec).load_state_dict(network.state_dict(), strict=True)
    nested = build_network({"class_path": "ensemble", "init_args": {"members": [
        {"network": "ensemble", "arguments": spec["init_args"]}, told[0]]}})  # fmt: skip
    assert nested(torch.rand(2, 3, SIZE, SIZE)).shape == (2,)


@pytest.mark.parametrize("given", [None, [], ["meso4"], [{"class_path": "meso4"}], [{"network": 3}]])
def test_members_that_are_none_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(UserError, match=r"^model\.network") as error:
        build_network({"class_path": "ensemble", "init_args": {"members": given}})
    assert "\n" not in str(error.value)
