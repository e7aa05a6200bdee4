"""The layers that pyproject.toml lists hold, and an import the wrong way is met."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_cifake", "parity_tests", "tf_reference")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    # wide: the lines of its report are not broken
    return subprocess.run(
        [*command, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PATH": "", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def copied(module_folder: Callable[[str], Path]) -> Path:
    """The sources and the contracts."""
    folder = module_folder("layers")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    return folder


def test_the_layers_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "broken", "says"),
    [
        ("data/decode", "from lightning_cifake.training import classifier", "never back",
         "lightning_cifake.data is not allowed to import lightning_cifake.training"),
        ("training/resume", "def late():\n    from lightning_cifake.deploy import detector", "never back",
         "lightning_cifake.training is not allowed to import lightning_cifake.deploy"),
        ("text", "from lightning_cifake import files", "never back",
         "lightning_cifake.text is not allowed to import lightning_cifake.files"),
        ("new_room", "", "never back", "lightning_cifake.new_room"),
        ("data/layout", "from lightning_cifake.data import sources", "No circle", "lightning_cifake.data"),
        ("networks/head", "import lightning", "plain modules",
         "lightning_cifake.networks is not allowed to import lightning"),
        ("deploy/export", "from lightning_cifake.networks import resnet50", "knows the published network",
         "lightning_cifake.deploy is not allowed to import lightning_cifake.networks.resnet50"),
        ("data/resize", "import torch", "Answering needs no torch",
         "lightning_cifake.deploy.detector is not allowed to import torch"),
        ("keras_io/importer", "import tensorflow", "in one place",
         "lightning_cifake is not allowed to import tensorflow"),
        ("../tf_reference/model", "from lightning_cifake import errors", "nothing of ours",
         "tf_reference is not allowed to import lightning_cifake"),
        ("commands/predict", "import parity_tests.twins", "neither its tests",
         "lightning_cifake is not allowed to import parity_tests"),
    ],
)  # fmt: skip
def test_an_import_the_wrong_way_breaks_the_contract_that_forbids_it(
    copied: Path, module: str, statement: str, broken: str, says: str
) -> None:
    path = copied / "lightning_cifake" / f"{module}.py"
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{statement}\n")
    try:
        done = lint_imports(copied)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert done.returncode == 1, done.stderr
    assert any(broken in line and " BROKEN" in line for line in done.stdout.splitlines()), done.stdout
    assert says in done.stdout


def test_keras_files_are_read_without_keras_and_tensorflow(warm: Any, tmp_path: Path) -> None:
    (done,) = warm.together({"arguments": [], "folder": str(tmp_path), "call": "read_keras_without_keras"})
    assert done.returncode == 0, done.stderr
