"""The released models by their names: which file each is, what help says of them, and what a misspelt one is told."""

import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake import Detector, UserError, shipped
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.manifest import read_manifest
from lightning_cifake.files import sealed_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stand_ins(workplace: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models, of which ``best`` alone says that white is REAL, and white.png in the current folder."""
    folder = workplace / "released"
    folder.mkdir()
    models = {
        "compact": shipped.Released("c8.onnx", "small"),
        "compact-float32": shipped.Released("c32.onnx", "small, exact"),
        "best": shipped.Released("b.onnx", "the most accurate"),
    }
    for name, model in models.items():
        shutil.copy(make_model(gain=8.0 if name == "best" else -8.0), folder / model.file)
    manifest = {"real": {"onnxruntime": {"accuracy": 0.98765}}, "model": {"bytes": 1_234_567}}
    (folder / "c8.json").write_text(sealed_json(manifest))
    (folder / "c32.json").write_text("no JSON")
    monkeypatch.setattr(shipped, "MODELS", models)
    monkeypatch.setattr(shipped, "DEFAULT", "compact")
    monkeypatch.setattr(shipped, "models_folder", lambda: folder)
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save("white.png")
    return folder


def verdict(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["predict", "white.png", *arguments]) == 0
    return capsys.readouterr().out.split("\t")[1]


def test_a_name_is_that_model_on_the_command_line_and_in_python(
    stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [verdict(capsys, "--model", name) for name in shipped.MODELS] == ["AI", "AI", "REAL"]
    assert verdict(capsys, "--model", str(stand_ins / "b.onnx")) == "REAL"
    assert [Detector(name).path.name for name in (None, *shipped.MODELS)] == [
        "c8.onnx",
        "c8.onnx",
        "c32.onnx",
        "b.onnx",
    ]


def test_a_name_wins_over_a_file_which_is_named_by_its_folder_or_as_a_path(
    stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stand_ins / "c8.onnx", "best")
    assert verdict(capsys, "--model", "best") == "REAL" and verdict(capsys, "--model", "./best") == "AI"
    assert Detector("best").path.parent == stand_ins and Detector(Path("best")).path == Path("best")


@pytest.mark.parametrize(
    ("given", "meant"), [("bset", "best"), ("Compact", "compact"), ("compact_float32", "compact-float32")]
)
def test_a_misspelt_name_is_told_the_right_one(
    stand_ins: Path, given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "white.png", "--model", given]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {given} does not exist: expected a model that ")
    assert said.endswith(f" or one of compact, compact-float32, best; did you mean {meant}?")


def test_a_file_that_is_not_there_is_still_said_to_be_a_missing_file(stand_ins: Path) -> None:
    for name in ("best.onnx", "folder/best"):
        with pytest.raises(UserError, match="does not exist: expected a model that"):
            Detector(name)


def test_help_lists_them_with_the_figures_of_their_manifests(
    stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    listed = capsys.readouterr().out.partition("models that come with the package")[2].splitlines()[1:4]
    assert [line.split()[0] for line in listed] == list(shipped.MODELS)
    assert listed[0].endswith("small: 98.77%, 1.2 MB")
    assert listed[1].endswith("small, exact") and listed[2].endswith("the most accurate")  # no manifest, no figure


def test_verify_takes_a_name(stand_ins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "best"]) == 2
    assert "b.json cannot be read" in capsys.readouterr().err  # the stand-in has no manifest


def test_each_is_there_with_its_manifest_and_their_card_in_git_and_in_the_package() -> None:
    files = [name for each in shipped.MODELS.values() for name in (each.file, f"{Path(each.file).stem}.json")]
    files.append(shipped.CARD)
    assert all((shipped.models_folder() / name).is_file() for name in files)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(settings["package-data"]["lightning_cifake.released"]) == sorted(files)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "checkpoints"]
    known = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {f"checkpoints/{name}" for name in files} <= set(known)
    assert {Path(name).name for name in known} - set(files) <= {"README.md", "about.md", "floors.json"}
    assert shipped.DEFAULT in shipped.MODELS


def test_each_manifest_is_of_this_very_file() -> None:
    for name in shipped.MODELS:
        manifest, sealed_ = read_manifest(shipped.released_model(name))
        assert sealed_ and manifest["model"]["file"] == shipped.MODELS[name].file
