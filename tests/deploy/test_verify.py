"""The command ``verify``: a model that answers as its manifest says passes, whatever differs does not."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from lightning_cifake.cli import main
from lightning_cifake.files import sha256_of


@pytest.fixture
def model(small_checkpoint: Path, capsys: Any) -> Path:
    assert main(["export", "--ckpt_path", "best.ckpt", "--output", "model.onnx", "--sample", "40"]) == 0
    capsys.readouterr()
    return Path("model.onnx")


def edit_manifest(change: Any) -> None:
    content = json.loads(Path("model.json").read_text())
    change(content)
    Path("model.json").write_text(json.dumps(content))


def scale_last_weights(path: Path, factor: float) -> None:
    """Another model under the same name, whose manifest says that it is this file."""
    model = onnx.load_model(path)
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    (weight,) = [each for each in model.graph.initializer if each.name == last.input[1]]
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(array * array.dtype.type(factor), weight.name))
    onnx.save_model(model, path)
    edit_manifest(lambda content: content["model"].update(sha256=sha256_of(path)))


def test_a_model_is_verified_without_its_checkpoint_and_its_data(model: Path, capsys: Any) -> None:
    Path("best.ckpt").unlink()
    assert main(["verify", "model.onnx"]) == 0
    output = capsys.readouterr().out
    assert "logits of 64 demo images" in output and "logits of 18 hard images" in output
    assert output.splitlines()[-1].startswith("verified: model.onnx, float32, onnxruntime ")


def test_a_model_that_answers_otherwise_is_not(model: Path, capsys: Any) -> None:
    scale_last_weights(model, 1.01)
    assert main(["verify", "model.onnx"]) == 1
    assert "NOT verified: logits of 64 demo images differ by" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_a_smaller_precision_may_differ_by_what_it_costs_and_no_more(
    small_checkpoint: Path, factor: float, capsys: Any
) -> None:
    arguments = ["--output", "model.onnx", "--precision", "float16", "--max_loss", "100", "--sample", "40"]
    assert main(["export", "--ckpt_path", "best.ckpt", *arguments]) == 0
    scale_last_weights(Path("model.onnx"), factor)
    assert main(["verify", "model.onnx"]) == (factor != 1)
    assert "in the mean from those at export (limit" in capsys.readouterr().out


def test_with_the_checkpoint_the_whole_comparison_is_made_again(model: Path, capsys: Any) -> None:
    Path("model.json").rename("elsewhere.json")  # the checkpoint is enough
    arguments = ["verify", "model.onnx", "--ckpt_path", "best.ckpt", "--data.root", "demo", "--sample", "40"]
    assert main(arguments) == 0
    assert "40 test images of demo" in capsys.readouterr().out
    content = torch.load("best.ckpt", weights_only=True)
    content["state_dict"]["network.head.4.bias"] += 0.01
    torch.save(content, "best.ckpt")
    assert main(arguments) == 1
    output = capsys.readouterr().out
    assert "was exported from another file" in output and "NOT verified: logits of real images differ" in output


def test_with_images_alone_its_own_figures_on_them_are_given(model: Path, capsys: Any) -> None:
    assert main(["verify", "model.onnx", "--data.root", "demo"]) == 0
    assert 'test images of demo, protocol clean: {"accuracy": ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: Path("model.json").unlink(), "the manifest model.json cannot be read"),
        (lambda: Path("model.json").write_text("{"), "model.json is not the manifest"),
        (lambda: Path("model.json").write_text("[]"), "model.json is not the manifest"),
        (lambda: edit_manifest(lambda c: c.pop("answers")), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"]["demo"].pop()), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"]["hard"].update(other=[0, 0])), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"].update(demo="x")), "does not hold the answers"),
        (lambda: Path("model.onnx").write_bytes(Path("model.onnx").read_bytes() + b"\x0a\x00"), "is not the file that"),
        (lambda: Path("model.onnx").write_bytes(b"words"), "cannot be loaded as an ONNX model"),
        (lambda: Path("model.onnx").unlink(), "does not exist"),
    ],
)
def test_what_cannot_be_verified_is_one_line(model: Path, change: Any, says: str, capsys: Any) -> None:
    change()
    assert main(["verify", "model.onnx"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
