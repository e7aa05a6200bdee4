"""report: a page or a model card from a metrics.json; what is wrong is one line."""

import json
from pathlib import Path

import pytest

from lightning_cifake.commands.main import main
from lightning_cifake.files import sealed_json
from lightning_cifake.run_folder import PAGE

RUN = Path(__file__).resolve().parents[2] / "docs" / "results" / "compact" / "seed-0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.json").write_bytes((RUN / "metrics.json").read_bytes())
    return tmp_path


def test_a_run_s_page_is_written_beside_its_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"written: {folder / PAGE}\n"
    assert (folder / PAGE).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere/metrics.json cannot be read: No such file"),
        (["{}", "--model", "best"], "--model is about a model card: expected --card with it"),
        (["{}", "--card", "{}/new.md"], "a model card is made of an evaluation"),
        (["{}", "--card", "{}/metrics.json"], "exists already: give --overwrite"),
        (["{}", "--card", "{}/new.md", "--text", "{}/nowhere.md"], "nowhere.md cannot be read: No such file"),
        (["{}", "--card", "{}/new.md", "--manifests", "{}/nowhere.json"], "nowhere.json cannot be read: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(each.format(folder) for each in arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("content", ["{}", '{"kind": "evaluation"}', '{"kind": "audit", "data": {}}'])
def test_a_json_that_is_no_run_s_and_no_evaluation_s_is_said(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.json").write_text(sealed_json(json.loads(content)))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected the metrics.json of a run or an evaluation" in said
