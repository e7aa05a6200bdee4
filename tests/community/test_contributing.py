"""CONTRIBUTING.md can be followed: its steps are done in a copy, and the tests that they write pass there."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.docs.blocks import ROOT, Block, blocks, commands, ours

PAGE = "CONTRIBUTING.md"
TEXT = (ROOT / PAGE).read_text()
STEPS = [block for block in blocks() if block.page == PAGE and block.title]
MAKEFILE = (ROOT / "Makefile").read_text()


def follow(block: Block, root: Path) -> None:
    """Writes the file of a python block; replaces a diff's old lines, which must be there once, by its new ones."""
    target = root / block.title
    if block.language == "python":
        assert not target.exists(), f"{block.title} is there already: choose another toy"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text)
        return
    assert block.language == "diff"
    lines = block.text.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    text = target.read_text()
    assert text.count(old) == 1, f"{block.title} has other lines than {PAGE} says:\n{old}"
    target.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def copy(module_folder: Callable[[str], Path]) -> Path:
    """The package with the three toys in it."""
    root = module_folder("copy")
    leave = shutil.ignore_patterns("*.onnx")  # what was compiled goes along: the sources keep their times
    for folder in ("lightning_cifake", "configs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=leave)
    for block in STEPS:
        follow(block, root)
    return root


def in_copy(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # the copy goes before the package that is installed
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )


def test_there_are_steps_for_a_network_a_metric_and_a_command() -> None:
    assert {block.title.split("/")[1] for block in STEPS if block.title.startswith("lightning_cifake/")} == {
        "commands",
        "evaluation",
        "networks",
    }
    assert {block.title.split("/")[1] for block in STEPS if block.title.startswith("tests/")} == {
        "commands",
        "evaluation",
        "networks",
    }


@pytest.mark.slow
def test_the_tests_that_the_steps_write_pass_where_the_steps_were_followed(copy: Path, warm: Any) -> None:
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib", "tests"]
    (ran,) = warm.together({"arguments": arguments, "folder": str(copy), "call": "pytest_of_a_copy"})
    assert ran.returncode == 0 and " passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.long
def test_the_network_of_the_steps_is_trained_tested_exported_and_asked(copy: Path) -> None:
    (block,) = [block for block in blocks() if block.page == PAGE and "--output small.onnx" in block.text]
    assert "with `--model.network small_cnn` behind `fit`" in TEXT
    Image.new("RGB", (32, 32), "teal").save(copy / "photo.jpg")
    for words in commands(block):
        arguments = ours(words) or []
        network = ["--model.network", "small_cnn"] if arguments[0] == "fit" else []
        ran = in_copy(copy, "-m", "lightning_cifake", *arguments, *network)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("photo.jpg\t") and (copy / "small.json").is_file()


def test_the_steps_files_are_formatted_and_linted_as_the_house_asks(copy: Path) -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("needs ruff: pip install -e .[dev]")
    shutil.copy(ROOT / "pyproject.toml", copy)
    files = [block.title for block in STEPS]
    for what in (["check"], ["format", "--check"]):
        ran = in_copy(copy, "-m", "ruff", *what, *files)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_file_folder_and_target_that_the_page_names_exists() -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    made = {block.title for block in STEPS} | {".venv/"}
    spans = set(re.findall(r"`([^`\n]+)`", prose))
    paths = {
        span for span in spans if re.fullmatch(r"[\w.]+(/[\w.]+)*/?", span) and re.search(r"[/]|\.(md|py|toml)$", span)
    }
    places = (ROOT, ROOT / "lightning_cifake")
    missing = {path for path in paths - made if not any((place / path).exists() for place in places)}
    assert missing == set()
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    assert {target for span in spans for target in re.findall(r"^make ([\w-]+)$", span)} <= targets
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links and all((ROOT / link).exists() for link in links)


def test_the_tiers_are_those_of_the_makefile() -> None:
    rules = {name: rule for name, rule in re.findall(r"^([\w-]+):[^\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)}
    assert '-m "not long and not slow"' in rules["test-fast"] and "-m long" in rules["long"]
    assert re.findall(r"^\| (\w+) \| `make ([\w-]+)`", TEXT, re.MULTILINE) == [
        ("fast", "test-fast"),
        ("all", "test"),
        ("long", "long"),
    ]
