"""An exported model becomes a checkpoint again that answers alike, in training mode nearly so, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.deploy import export
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.deploy.reference_images import reference_images
from lightning_cifake.deploy.simplify import simplified
from lightning_cifake.deploy.unexport import fill
from lightning_cifake.errors import UserError
from lightning_cifake.networks import build_network
from lightning_cifake.training.classifier import FakeImageClassifier


def trained(network: nn.Module) -> nn.Module:
    """With batch norms that are not the identity."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


class Pruned(nn.Module):
    """Its last kernel meets padding in eight of nine taps; a bias before a batch norm; a norm before a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(8)),
            *(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
            *(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).squeeze(1)


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"width": 4, "object_classes": 3} if name == "compact" else {}
    return Pruned() if name == "pruned" else build_network({"class_path": name, "init_args": arguments})


@pytest.mark.parametrize("name", ["pruned", "compact", "meso4", "mesoinception4", "correlation", "custom_cnn"])
def test_what_was_folded_is_unfolded(name: str) -> None:
    source, target = trained(made(name, 0)), made(name, 1).eval()
    folded = simplified(source, 32)
    used = {key: value for key, value in folded.state_dict().items() if not key.startswith("objects")}
    fill(target, {key: value.numpy() for key, value in used.items() if "num_batches" not in key}, 32, "a graph")
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(target(images), source(images), rtol=1e-4, atol=1e-5)
    if name == "pruned":
        kernel = dict(target.named_parameters())["layers.4.weight"]
        assert kernel.abs().sum((0, 1)).count_nonzero() == 1 and kernel[0, 0, 1, 1] != 0


@pytest.fixture(scope="module")
def exported(module_folder: Callable[[str], Path]) -> Path:
    """half.onnx: answers with flips, calibrated, weights in float16; int8.onnx, which says that it is of int8."""
    folder = module_folder("exported")
    classifier = FakeImageClassifier(trained(made("compact", 0)), test_flips=True)
    model = export.with_half_weights(export.to_onnx(classifier, temperature=0.7))
    for name, precision in (("half", "float16"), ("int8", "int8")):
        export.set_metadata(model, export.metadata(classifier, precision, "uint8", 0.7, 0.4))  # type: ignore[arg-type]
        (folder / f"{name}.onnx").write_bytes(export.serialized(model))
    return folder


def test_an_exported_file_becomes_a_checkpoint(
    exported: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(exported / "half.onnx"), "start.ckpt"]) == 0
    said = capsys.readouterr()
    assert "CompactCNN, " in said.out and said.out.count("\n") == 1
    assert "its calibration stays behind" in said.err and "does not hold which images" in said.err
    checkpoint = read_checkpoint(Path("start.ckpt"))
    assert checkpoint["hyper_parameters"]["test_flips"] and checkpoint["trained_on"][0]["unknown"] == "half.onnx"
    images = reference_images()
    expected = Detector(exported / "half.onnx").run(images)[1] * np.float32(0.7)
    classifier = load_classifier("start.ckpt")
    with torch.no_grad():
        logits = classifier(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert main(["convert", str(exported / "half.onnx"), "start.ckpt"]) == 2  # it exists
    assert "start.ckpt exists already" in capsys.readouterr().err


def test_a_released_file_trains_on_from_its_answers(workplace: Path) -> None:
    """In training mode, with the batch's own statistics, it still tells what it told: nothing has to be learnt anew."""
    assert main(["convert", "compact-float32", "start.ckpt"]) == 0
    images = torch.from_numpy(reference_images()).permute(0, 3, 1, 2) / 255
    classifier = load_classifier("start.ckpt")
    with torch.no_grad():
        answers = classifier(images)
        classifier.train()
        while_training = classifier(images)
    assert torch.allclose(answers, while_training, atol=1e-2)


@pytest.mark.parametrize(
    ("source", "target", "more", "says"),
    [
        ("int8.onnx", "a.ckpt", [], "int8.onnx is in int8, which training cannot go on from: expected an export in"),
        ("half.onnx", "a.keras", [], "expected a .ckpt to write an exported model's weights to, got a.keras"),
        ("half.onnx", "a.ckpt", ["--epoch", "3"], "--epoch: an exported model tells this itself"),
        (
            "cut.onnx",
            "a.ckpt",
            [],
            "cut.onnx is not of this network: missing network.head.bias; unexpected network.head.b",
        ),
        ("damaged.onnx", "a.ckpt", [], "damaged.onnx is damaged"),
    ],
)
def test_what_cannot_be_read_back_is_one_line(
    exported: Path, workplace: Path, capsys: pytest.CaptureFixture[str], source: str, target: str, more: list[str],
    says: str,
) -> None:  # fmt: skip
    content = bytearray((exported / ("int8.onnx" if source == "int8.onnx" else "half.onnx")).read_bytes())
    if source == "damaged.onnx":
        content[len(content) // 2] ^= 1
    if source == "cut.onnx":  # a weight of another name
        model = onnx.load_from_string(bytes(content))
        for node in model.graph.node:
            node.input[:] = [each.replace("head.bias", "head.b") for each in node.input]
        for weight in model.graph.initializer:
            weight.name = weight.name.replace("head.bias", "head.b")
        content = bytearray(export.serialized(model))
    Path(source).write_bytes(content)
    assert main(["convert", source, target, *more]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and says in said[0] and not Path(target).exists()


def test_a_graph_that_answers_otherwise_is_refused(
    exported: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = json.loads(Detector(exported / "half.onnx").facts.metadata["network"])
    assert facts["class_path"].endswith("CompactCNN")
    monkeypatch.setattr("lightning_cifake.deploy.unexport.LOGIT", 0.0)
    from lightning_cifake.deploy.unexport import unexport

    with pytest.raises(UserError, match=r"cannot be read back: the network's logits differ by up to"):
        unexport(exported / "half.onnx", Path("a.ckpt"))
    assert not Path("a.ckpt").exists()
