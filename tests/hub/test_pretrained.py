"""Weights as the Hub keeps them: a classifier there and back, and what is refused of a foreign one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN, LocalHub
from tiny import TinyNetwork

from lightning_cifake import FakeImageClassifier
from lightning_cifake import hub as names
from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.errors import UserError
from lightning_cifake.files import sealed_json
from lightning_cifake.training.initial_weights import load_weights, record_of_weights

SMALL = {"class_path": "compact", "init_args": {"width": 4}}


@pytest.fixture
def classifier() -> FakeImageClassifier:
    """A small network of the package's own, trained on three images as far as anybody knows."""
    torch.manual_seed(0)
    made = FakeImageClassifier(SMALL, test_flips=True).eval()
    entry = {"split": "5", "data_digest": "6", "image_size": 32, "asked": {"root": "x.zip"}, "unknown": ""}
    digests = torch.arange(3, dtype=torch.int64) - (1 << 62)
    made.trained_on = [{**entry, "names": digests, "pixels": digests + 7}]
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_what_is_saved_comes_back_with_its_answers_its_size_and_its_record(classifier, images, tmp_path: Path):
    written = classifier.save_pretrained(tmp_path / "out", {"protocol": "official"})
    assert "pytorch-lightning_version" in read_checkpoint(written[0]), "which Lightning's own test asks for"
    assert sorted(each.name for each in written) == ["config.json", "model.safetensors", "trained_on.safetensors"]
    back = FakeImageClassifier.from_pretrained(tmp_path / "out")
    assert torch.equal(back(images), classifier(images)) and not back.training
    assert back.hparams["test_flips"] and back.image_size == 32
    (entry,), (before,) = back.trained_on, classifier.trained_on
    assert entry.keys() == before.keys()
    assert all(torch.equal(entry[name], before[name]) for name in ("names", "pixels"))


def test_it_goes_to_the_hub_and_back_and_a_second_push_sends_nothing(
    hub: LocalHub, classifier, images, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "/me/net/commit/" in classifier.push_to_hub("me/net")
    assert hub.repos["me/net"].private
    count = len(hub.repos["me/net"].commits)
    assert classifier.push_to_hub("hf://me/net") is None and len(hub.repos["me/net"].commits) == count
    back = FakeImageClassifier.from_pretrained("me/net")
    assert torch.equal(back(images), classifier(images)) and len(back.trained_on[0]["pixels"]) == 3
    commit = hub.repos["me/net"].refs["main"]
    assert torch.equal(FakeImageClassifier.from_pretrained("me/net", revision=commit)(images), back(images))
    card = hub.repos["me/net"].commits[commit]["README.md"].decode()
    assert "pipeline_tag: image-classification" in card and 'from_pretrained("me/net")' in card


def test_huggingface_hubs_own_mixin_reads_the_weights_strictly(classifier, images, tmp_path: Path):
    from huggingface_hub import PyTorchModelHubMixin

    class Theirs(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, **_: object) -> None:
            super().__init__()
            self.network = FakeImageClassifier(SMALL).network

    classifier.save_pretrained(tmp_path / "out")
    theirs = Theirs.from_pretrained(tmp_path / "out", strict=True).eval()
    assert torch.equal(theirs.network(images), classifier.network(images))


def test_the_commands_that_take_a_checkpoint_take_the_weights(classifier, images, hub, image, tmp_path, capsys):
    from lightning_cifake.assessment.models import open_model

    classifier.save_pretrained(tmp_path / "out", {"protocol": "official"})
    hub.add("me/net", files_of(tmp_path / "out"))
    model = open_model("hf://me/net")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert np.allclose(model.logits(pixels), classifier(floats).detach().numpy(), atol=1e-6)
    assert model.record and model.training == {"protocol": "official"}
    assert main(["predict", "--model", "hf://me/net", str(image), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert main(["predict", "--ckpt_path", str(tmp_path / "out" / "model.safetensors"), str(image), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_training_begins_from_weights_of_the_hub_and_knows_what_they_were_trained_on(hub, classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "out")
    hub.add("me/net", {**files_of(tmp_path / "out"), "model.onnx": b"an exported one beside them"})
    network = FakeImageClassifier(SMALL).network
    load_weights(network, "hf://me/net")
    expected = classifier.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert record_of_weights("hf://me/net")[0]["split"] == "5"
    with pytest.raises(
        UserError, match=r"is of lightning_cifake\.networks\.CompactCNN, and the network is TinyNetwork"
    ):
        load_weights(TinyNetwork(), "hf://me/net")


def test_a_tampered_file_of_weights_is_refused(hub, classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "out")
    files = files_of(tmp_path / "out")
    for name in ("model.safetensors", "trained_on.safetensors"):
        flipped = bytearray(files[name])
        flipped[-3] ^= 1
        hub.add("me/net", {**files, name: bytes(flipped)})
        names._fetched.clear()
        with pytest.raises(UserError, match=rf"{name} is not the file that config\.json beside it was written for"):
            FakeImageClassifier.from_pretrained("me/net")
    hub.add("me/net", {**files, "config.json": files["config.json"].replace(b'"width": 4', b'"width": 8')})
    names._fetched.clear()
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        FakeImageClassifier.from_pretrained("me/net")


def test_a_config_that_names_code_elsewhere_is_refused_before_it_is_imported(hub, classifier, tmp_path, monkeypatch):
    classifier.save_pretrained(tmp_path / "out")
    files = files_of(tmp_path / "out")
    config = json.loads(files["config.json"])
    del config["sha256"]
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the Hub ran')")
    monkeypatch.chdir(tmp_path)
    member = {"network": "evil.Net", "arguments": {}}
    ensemble = {"class_path": "lightning_cifake.networks.Ensemble", "init_args": {"members": [member]}}
    for network in ({"class_path": "evil.Net", "init_args": {}}, ensemble):
        hub.add("me/net", {**files, "config.json": sealed_json({**config, "network": network}).encode()})
        names._fetched.clear()
        with pytest.raises(UserError, match=r"evil\.Net, which is not this package's: no code is taken from elsewhere"):
            FakeImageClassifier.from_pretrained("me/net")


def test_a_network_of_the_users_own_is_given_by_hand(images, tmp_path):
    torch.manual_seed(0)
    own = FakeImageClassifier(TinyNetwork()).eval()
    own.save_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match=r"tiny\.TinyNetwork, which is not this package's"):
        FakeImageClassifier.from_pretrained(tmp_path / "out")
    back = FakeImageClassifier.from_pretrained(tmp_path / "out", network=TinyNetwork())
    assert torch.equal(back(images), own(images))
    with pytest.raises(UserError, match="is not of this network"):
        FakeImageClassifier.from_pretrained(tmp_path / "out", network=TinyNetwork(width=16))


def test_what_is_no_model_is_one_line(hub, classifier, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"holds weights alone: expected config\.json beside it"):
        read_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="is not of this project"):
        FakeImageClassifier.from_pretrained(tmp_path)
    hub.add("me/onnx", {"model.onnx": b"x"})
    with pytest.raises(UserError, match=r"holds an exported model alone: Detector\('hf://me/onnx'\) asks it"):
        FakeImageClassifier.from_pretrained("me/onnx")


def test_the_checkpoint_and_the_class_are_as_they_were(classifier):
    import sys

    assert "huggingface_hub" not in type(classifier).__module__
    assert [name for name in classifier.state_dict() if not name.startswith("network.")] == []
    assert all(not base.__module__.startswith("huggingface_hub") for base in type(classifier).__mro__)
    assert sys.modules["lightning_cifake.training.hub_mixin"]
