"""What a benchmark keeps is what it wrote; what a killed one left in the folder of temporaries goes."""

import io
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from made import write_checkpoint

from lightning_cifake import Detector
from lightning_cifake.benchmark import materials
from lightning_cifake.benchmark.engines import Engine
from lightning_cifake.commands import benchmark as command
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.digest import sealed
from lightning_cifake.errors import UserError


def keras_file() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("config.json", "{}" * 20)
    return content.getvalue()


@pytest.mark.parametrize(("kind", "content"), [("onnx", sealed(b"weights" * 9)), ("keras", keras_file())])
def test_a_kept_model_that_was_damaged_is_made_again(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, kind: str, content: bytes
) -> None:
    made = []

    def make(checkpoint: Path, data: Any, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        made.append(target)

    name = f"model.{kind}"
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(workplace / "cache"))
    monkeypatch.setattr(materials, "_MADE", {kind: (name, make)})
    (workplace / "best.ckpt").write_bytes(b"a checkpoint")
    for _ in range(2):
        found = materials._models(Path("best.ckpt"), None, {kind: None})  # type: ignore[arg-type]
        assert len(made) == 1 and found[kind] == made[0]
    made[0].write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    materials._models(Path("best.ckpt"), None, {kind: None})  # type: ignore[arg-type]
    assert len(made) == 2 and made[0].read_bytes() == content


def test_the_int8_model_of_a_checkpoint_is_made_and_answers(workplace: Path) -> None:
    write_checkpoint(workplace / "best.ckpt", "custom_cnn")
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    data = SimpleNamespace(take=lambda part, most: (images[:most], None))
    materials._make_int8(Path("best.ckpt"), data, workplace / "int8.onnx")  # type: ignore[arg-type]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load("int8.onnx").graph.node}
    assert len(set(Detector("int8.onnx").prob_real([*images[:5]]))) > 1


def test_a_benchmark_that_fails_leaves_nothing_and_removes_what_a_killed_one_left(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))
    left = workplace / ".lightning_cifake-benchmark.killed.tmp"
    left.mkdir()
    (left / "lock").touch()
    (left / "asked.npy").write_bytes(b"gigabytes")

    def fails(checkpoint: Path | None, engines: list[Engine], scratch: Path) -> Any:
        (scratch / "random.ckpt").touch()
        raise UserError("no weights")

    monkeypatch.setattr(command, "_weights", fails)
    assert main(["benchmark", "--quick"]) == 2
    assert capsys.readouterr().err.endswith("error: no weights\n")
    assert not list(workplace.iterdir())
