"""Every command takes each kind of model, or says in one line which command does."""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from lightning_cifake.commands.main import main
from lightning_cifake.model_kinds import model_kind
from lightning_cifake.shipped import released_model

CHECKPOINT, ONNX, KERAS = "best.ckpt", "model.onnx", "model.keras"
COMMANDS = {
    "test": ("test", "--ckpt_path", "{}", "--data.sample", "null"),
    "validate": ("validate", "--ckpt_path", "{}", "--data.sample", "null"),
    "fit": ("fit", "--ckpt_path", "{}"),
    "test --model": ("test", "--model", "{}"),
    "export": ("export", "--ckpt_path", "{}", "--output", "out.onnx", "--sample", "4"),
    "verify": ("verify", "{}"),
    "verify --ckpt_path": ("verify", "model.onnx", "--ckpt_path", "{}", "--sample", "4"),
    "predict --model": ("predict", "--model", "{}", "image.png"),
    "predict --ckpt_path": ("predict", "--ckpt_path", "{}", "image.png"),
    "convert": ("convert", "{}", "converted.ckpt"),
    "ensemble": ("ensemble", "{}", "best.ckpt", "--weights", "equal", "--output", "out.ckpt"),
    "benchmark": ("benchmark", "--ckpt_path", "{}", "--quick", "--engines", "lightning"),
}
TO_CONVERT = (
    "it is a Keras file: evaluate takes it by its name, export, predict and verify with --ckpt_path, fit with --model"
)
MEASURED_BY = (
    "it is an exported model (ONNX): predict takes it with --model, benchmark with --onnx, evaluate, calibrate"
)
TAKES = (
    "it is a checkpoint: test, validate, fit, export, convert, ensemble, evaluate, calibrate, predict and benchmark "
    "take it, with"
)
# (command, kind) -> what the one line says, where it is refused; the rest is taken
REFUSED = {
    **{
        (command, kind): says
        for command in ("test", "validate", "fit", "test --model", "benchmark")
        for kind, says in ((ONNX, MEASURED_BY), (KERAS, TO_CONVERT))
    },
    ("fit", CHECKPOINT): "holds weights only: resume from the last.ckpt beside it",
    ("test --model", CHECKPOINT): f"test takes a model with --ckpt_path, and a checkpoint only; {TAKES}",
    ("export", ONNX): MEASURED_BY,
    ("verify", CHECKPOINT): TAKES,
    ("verify", KERAS): TO_CONVERT,
    ("verify --ckpt_path", ONNX): MEASURED_BY,
    ("predict --model", CHECKPOINT): TAKES,
    ("predict --model", KERAS): TO_CONVERT,
    ("predict --ckpt_path", ONNX): MEASURED_BY,
    ("convert", ONNX): "model.onnx is another model: expected images (N, H, W, 3)",
    ("ensemble", ONNX): MEASURED_BY,
    ("convert", CHECKPOINT): "expected a Keras file (.keras, .h5, .weights.h5) and a .ckpt, in either order",
}


@pytest.fixture(scope="module")
def models(module_folder: Callable[[str], Path]) -> Path:
    """A folder of one file of each kind, of which no more is read than its kind."""
    import torch

    from lightning_cifake.training.checkpoints import SafeCheckpointIO

    folder = module_folder("models")
    with zipfile.ZipFile(folder / KERAS, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["images"], ["prob_real"])
    output = helper.make_tensor_value_info("prob_real", TensorProto.FLOAT, [1])
    graph = helper.make_model(helper.make_graph([node], "g", [value], [output]))
    (folder / ONNX).write_bytes(graph.SerializeToString())
    content = {"state_dict": {"a": torch.zeros(3)}, "hyper_parameters": {}, "pytorch-lightning_version": "2.6.6"}
    SafeCheckpointIO().save_checkpoint(content, folder / CHECKPOINT)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "image.png")
    return folder


@pytest.mark.parametrize(("command", "kind"), REFUSED)
def test_what_a_command_does_not_take_is_one_line_that_says_who_does(
    models: Path, workplace: Path, command: str, kind: str, capsys: Any
) -> None:
    for path in models.iterdir():
        shutil.copy(path, workplace / path.name)
    if command == "verify --ckpt_path":  # the model beside it is a sound one
        shutil.copy(released_model(), workplace / "model.onnx")
    before = sorted(path.name for path in workplace.iterdir())
    assert main([part.format(kind) for part in COMMANDS[command]]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and REFUSED[command, kind] in errors[0] and kind in errors[0]
    assert sorted(path.name for path in workplace.iterdir()) == before


def test_a_kind_is_known_by_what_is_in_the_file_and_not_by_its_name(models: Path, tmp_path: Path) -> None:
    for name, kind in ((KERAS, "Keras"), (CHECKPOINT, "checkpoint")):
        shutil.copy(models / name, tmp_path / "anything.bin")
        assert model_kind(tmp_path / "anything.bin") == kind == model_kind(models / name)
    with h5py.File(tmp_path / "weights.ckpt", "w") as file:
        file.create_dataset("a", data=[1])
    assert model_kind(tmp_path / "weights.ckpt") == "Keras"
    assert model_kind(models / ONNX) == "ONNX"
    other = io.BytesIO()
    zipfile.ZipFile(other, "w").close()
    for content in (b"", b"PK\x03\x04 and no more", other.getvalue(), b"words"):
        (tmp_path / "other").write_bytes(content)
        assert model_kind(tmp_path / "other") is None
    assert model_kind(tmp_path) is None and model_kind(tmp_path / "nowhere.onnx") is None
    (tmp_path / "saved_model.pb").touch()
    assert model_kind(tmp_path) == "Keras"


def test_predict_takes_a_keras_file(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("kf", Path(__file__).parent / "keras_io" / "keras_form.py")
    assert spec is not None and spec.loader is not None
    form = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(form)
    form.write_keras(workplace / "model.keras", form.published(), form.paths(form.random_weights()))
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save("image.png")
    assert main(["predict", "--ckpt_path", "model.keras", "image.png"]) == 0
    (row,) = capsys.readouterr().out.splitlines()
    assert row.split("\t")[1] in ("AI", "REAL")
