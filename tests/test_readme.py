"""The README's tour of the public API runs as it stands, and its commands are ones that exist."""

import re
import runpy
from pathlib import Path

import lightning_cifake
from lightning_cifake import cli

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_tour_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "tour.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path(str(script))
    assert len(left["model"].history) == 1
    assert sum(left["data"].split.sizes().values()) == 400
    assert Path("checkpoints/tour/best.ckpt").is_file()
    assert "accuracy" in capsys.readouterr().out


def test_every_public_name_can_be_imported():
    for name in lightning_cifake.__all__:
        assert getattr(lightning_cifake, name).__name__ == name


def test_commands_and_configurations_that_the_readme_names_exist():
    commands = set(re.findall(r"python -m lightning_cifake (\w+)", README))
    assert commands <= {"fit", "validate", "test", "predict", "export", "verify", "download", "convert"}
    assert set(re.findall(r"--config (\w+)", README)) <= set(cli.shipped_configs())
