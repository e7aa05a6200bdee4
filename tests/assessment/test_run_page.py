"""A run's page: every figure on it is in the run's metrics.json, whichever version wrote that."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.assessment.page import page_of, read_history, write_page
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json
from lightning_cifake.run_folder import PAGE
from tests.assessment.reading import Page, at, says

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize("run", ["official", "published/test-official", "compact/seed-0"])
def test_each_figure_on_it_is_in_metrics_json(run: str) -> None:
    metrics, _ = read_json(RESULTS / run / "metrics.json")
    page = Page(page_of(metrics, history=read_history(RESULTS / run)))
    assert page.unbalanced == [] and page.stray == []
    assert len(page.shown) > 20
    for shown in page.shown:
        assert says(shown, at(metrics, shown.key)), shown


def test_it_is_written_beside_the_metrics_and_draws_the_epochs(tmp_path: Path) -> None:
    for name in ("metrics.json", "history.csv"):
        (tmp_path / name).write_bytes((RESULTS / "compact" / "seed-0" / name).read_bytes())
    assert write_page(tmp_path) == tmp_path / PAGE
    html = (tmp_path / PAGE).read_text()
    assert html.count("<svg") == 2 and "98 of 100" in html and "142" in html
    (tmp_path / "history.csv").unlink()
    write_page(tmp_path)
    assert "<svg" not in (tmp_path / PAGE).read_text()


def test_a_leaking_protocol_is_said_first() -> None:
    metrics, _ = read_json(RESULTS / "published" / "metrics.json")
    assert "the protocol leaks" in page_of(metrics).partition("<main>")[0]


def test_a_figure_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    metrics: dict[str, Any] = json.loads((RESULTS / "compact" / "seed-0" / "metrics.json").read_text())
    assert "sha256" in metrics
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "accuracy": 0.999}))
    with pytest.raises(UserError, match="not what was written"):
        write_page(tmp_path)
    assert not (tmp_path / PAGE).exists()
