"""What a run of the tests writes is gone as soon as it can be: a whole run's came to 10 GB once, and filled a disk."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "parity_tests").rglob("*.py")])


def lasting_folders(source: str) -> Iterator[str]:
    """Of Python source, the names of the fixtures that end before the run, but whose folders from pytest do not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and "tmp_path_factory" in {argument.arg for argument in node.args.args}:
            decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
            if "pytest.fixture" in decorators and "scope='session'" not in decorators:
                yield node.name


def test_a_folder_that_tests_of_one_file_share_ends_with_them() -> None:
    files = [path for path in FILES if "fixture" in (text := path.read_text()) and "tmp_path_factory" in text]
    found = {f"{path.relative_to(ROOT)}: {name}" for path in files for name in lasting_folders(path.read_text())}
    assert len(files) > 1 and not found, f"take module_folder of conftest.py: {found}"


def test_the_search_sees_a_module_fixture_that_takes_pytests_factory() -> None:
    source = "@pytest.fixture(scope={})\ndef made(tmp_path_factory): ..."
    assert list(lasting_folders(source.format("'module'"))) == ["made"]
    assert not list(lasting_folders(source.format("'session'")))


FIRST = """
import pytest

@pytest.fixture(scope="module")
def shared(module_folder):
    first, second = module_folder("shared"), module_folder("shared")
    assert first != second and first.is_dir() and second.is_dir()
    return first

def test_one(shared, tmp_path):
    (tmp_path / "model.keras").write_text("of one test")
    (shared / "model.keras").write_text("of a file's tests")

def test_two(shared):
    assert (shared / "model.keras").read_text() == "of a file's tests"
"""
SECOND = """
def test_three(tmp_path):
    assert not [path for path in tmp_path.parent.rglob("*.keras")]
"""


def test_what_tests_and_their_files_wrote_is_gone_when_the_next_file_begins(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "conftest"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "base"), str(tmp_path)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "3 passed" in run.stdout, run.stdout + run.stderr
