"""examples/tour.ipynb runs as it stands, and what is committed of it is small and from nobody's machine."""

import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.commands.main import COMMANDS, LIGHTNING
from tests.docs.test_blocks import check_ours

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def commands(cells: list[dict[str, Any]]) -> list[list[str]]:
    """The command lines in the cells of code."""
    text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "code").replace("\\\n", " ")
    lines = re.findall(r"^!lightning-cifake (.*)$", text, re.MULTILINE)
    return [shlex.split(re.split(r" 2>", line)[0]) for line in lines]


def test_it_goes_from_training_to_asking_by_commands_that_there_are(
    cells: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what LightningCLI itself calls
    found = commands(cells)
    assert [words[0] for words in found] == ["fit", "evaluate", "explain", "export", "verify", "predict"]
    for words in found:
        if COMMANDS[words[0]].module != LIGHTNING:  # that one is run by the long test
            check_ours(words, capsys)


def test_the_first_cell_of_code_installs_what_is_missing(cells: list[dict[str, Any]]) -> None:
    first = source(next(cell for cell in cells if cell["cell_type"] == "code"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r'%pip install -q "lightning_cifake\[(\w+)\]"', first)
    assert asked in extras and "find_spec" in first


def test_what_is_committed_is_whole_small_and_of_no_machine(cells: list[dict[str, Any]]) -> None:
    assert NOTEBOOK.stat().st_size < 150_000
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds and kinds.count("display_data") == 2
    said = json.dumps(
        [output.get("text", output.get("data", {}).get("text/plain")) for cell in code for output in cell["outputs"]]
    )
    assert not re.search(r"/home/|/root|/work|/tmp|error:|Traceback", said), said


@pytest.mark.long
def test_it_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "error:" not in said and "verified: model.onnx" in said
    for name in ("checkpoints/demo/1/best.ckpt", "evaluated/report.html", "model.onnx", "model.json"):
        assert (tmp_path / "tour" / name).is_file(), name
