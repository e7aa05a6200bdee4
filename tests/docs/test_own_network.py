"""docs/networks.md: a class in a file outside the package is trained, tested, exported and asked, as the page says."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lightning_cifake.commands import main as cli
from tests.docs.blocks import ROOT, Block, blocks, commands, ours

PAGE = [block for block in blocks() if block.page == "docs/networks.md"]
TINY = ["--data.sample", "300", "--trainer.max_epochs", "1"]


def block_of(language: str, title: str = "") -> Block:
    """The one block of this language, with this title."""
    (found,) = (block for block in PAGE if block.language == language and block.title == title)
    return found


def steps() -> list[list[str]]:
    """The page's command lines about the user's network, in its order."""
    lines = [ours(words) for block in PAGE if not block.language for words in commands(block)]
    own = ("my_network.SmallCNN", "checkpoints/demo/1/best.ckpt", "small.onnx")
    return [line for line in lines if line is not None and not set(own).isdisjoint(line)]


@pytest.fixture
def desk(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's file and a photograph, in which the commands are typed."""
    network = block_of("python", "my_network.py")
    (workplace / network.title).write_text(network.text)
    Image.new("RGB", (32, 32), "teal").save(workplace / "photo.jpg")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield workplace
    sys.modules.pop("my_network", None)


def test_the_page_goes_all_the_way() -> None:
    assert [line[0] for line in steps()] == ["fit", "test", "export", "verify", "predict"]


def test_every_command_of_the_page_takes_it(desk: Path, capsys: pytest.CaptureFixture) -> None:
    for line in steps():
        assert cli.main([*line, *(TINY if line[0] == "fit" else [])]) == 0, line
    assert re.search(r"^photo\.jpg\t(AI|REAL)\t0\.\d+", capsys.readouterr().out, re.MULTILINE)
    config = yaml.safe_load((desk / "checkpoints" / "demo" / "1" / "config.yaml").read_text())
    assert config["model"]["network"] == {"class_path": "my_network.SmallCNN", "init_args": {"width": 8}}


@pytest.mark.long
def test_every_command_of_the_page_takes_it_in_a_process_of_its_own(desk: Path) -> None:
    # -P: as the installed command, which does not have the current folder among the places of modules
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in steps():
        if line[0] == "verify":
            (desk / "my_network.py").unlink()  # what is exported stands alone
        words = [sys.executable, "-P", "-m", "lightning_cifake", *line, *(TINY if line[0] == "fit" else [])]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert re.match(r"photo\.jpg\t(AI|REAL)\t0\.\d+", done.stdout)


def test_its_yaml_says_what_its_flags_say(desk: Path, capsys: pytest.CaptureFixture) -> None:
    (desk / "mine.yaml").write_text(block_of("yaml").text)
    asked = []
    for arguments in (["fit", "--config", "demo", "--config", "mine.yaml"], steps()[0]):
        try:
            assert cli.main([*arguments, "--print_config"]) == 0
        except SystemExit as end:
            assert not end.code
        asked.append(yaml.safe_load(capsys.readouterr().out)["model"])
    assert asked[0] == asked[1]


def test_its_python_runs_as_it_stands(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(desk)
    (desk / "mine.py").write_text(block_of("python").text)
    left = runpy.run_path("mine.py")
    assert type(left["model"].network).__name__ == "ResNet50Detector"
