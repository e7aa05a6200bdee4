"""The README's tour of the public API runs as it stands, and its commands are ones that exist."""

import re
import runpy
from pathlib import Path

from PIL import Image

import lightning_cifake
from lightning_cifake.commands import main as cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
RELEASED = ROOT / "checkpoints" / "cifake-int8.onnx"


def test_its_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    tour, detect = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tour.py").write_text(tour)
    left = runpy.run_path("tour.py")
    assert len(left["model"].history) == 1
    assert sum(left["data"].split.sizes().values()) == 400
    assert Path("checkpoints/tour/best.ckpt").is_file()
    assert "accuracy" in capsys.readouterr().out
    (tmp_path / "checkpoints" / RELEASED.name).symlink_to(RELEASED)
    for name in ("photo.jpg", "other.png"):
        Image.fromarray(left["data"].images.images[0]).save(name)
    (tmp_path / "detect.py").write_text(detect)
    runpy.run_path("detect.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["photo.jpg", "other.png"]


def test_every_public_name_can_be_imported():
    for name in lightning_cifake.__all__:
        assert getattr(lightning_cifake, name).__name__ == name


def test_commands_and_configurations_that_the_readme_names_exist():
    commands = set(re.findall(r"python -m lightning_cifake (\w+)", README))
    assert commands <= {"fit", "validate", "test", "predict", "export", "verify", "benchmark", "download", "convert"}
    assert set(re.findall(r"--config (\w+)", README)) <= set(cli.shipped_configs())
