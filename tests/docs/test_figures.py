"""The figures in README.md and docs/ are those that commands recorded."""

import importlib.util
import json
import re
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from lightning_cifake.assessment.card import PLACE

ROOT = Path(__file__).resolve().parents[2]


def _figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = _figures()
PAGES = {str(page.relative_to(ROOT)): page for page in figures.pages()}
QUESTIONS = [name for name in PAGES if name.count("/") < 2 and name != "docs/measurements.md"]
"""Pages for readers. docs/measurements.md and the folders are the records themselves."""


@pytest.mark.parametrize("name", PAGES)
def test_every_marked_figure_and_table_is_the_recorded_one(name: str) -> None:
    page = PAGES[name].read_text()
    assert page == figures.refresh(page), "python docs/figures.py says which; --write writes the recorded ones"


def test_the_model_card_is_made_of_what_is_recorded() -> None:
    assert (ROOT / figures.CARD).read_text() == figures.card(), "python docs/figures.py --write makes it again"


def test_every_comment_on_a_page_is_read() -> None:
    """A mark with a slip in it would be passed over, and its figure with it."""
    for name, path in PAGES.items():
        page = path.read_text()
        left = figures.MARK.sub("", figures.TABLE.sub("", page)).replace(PLACE, "" if name == figures.ABOUT else PLACE)
        assert re.findall(r"<!--(?! parsed, not run -->).*?-->", left, re.DOTALL) == [], name


def test_no_comment_begins_a_line_of_prose() -> None:
    """There Markdown takes the whole line for HTML, and the paragraph falls apart."""
    for name, path in PAGES.items():
        if name == figures.ABOUT:  # no page: comments do not come into the card
            continue
        begins = re.findall(r"^ *<!-- (?!table |end of table|parsed, not run).*", path.read_text(), re.MULTILINE)
        assert begins == [], name


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ("accuracy 93.62 %<!-- halving accuracy .2% -->", "accuracy 92.62 %<!-- halving accuracy .2% -->"),
        ("20.1 MB<!-- int8 model.bytes/1e6 .1f -->", "20.0 MB<!-- int8 model.bytes/1e6 .1f -->"),
        ("within 9.9e-3<!-- parity weights_100 .1e -->", "within WEIGHTS<!-- parity weights_100 .1e -->"),
        ("**1**<!-- parity claims d -->", "**CLAIMS**<!-- parity claims d -->"),
        ("+0.60<!-- equivalence pilot.accuracy.points .2f -->", "-0.60<!-- equivalence pilot.accuracy.points .2f -->"),
        ("1,000 of them<!-- halving images , -->", "1,000 of them<!-- halving images , -->"),
    ],
)
def test_a_changed_figure_is_put_right(said: str, recorded: str) -> None:
    # parity is measured again and again: what its record holds now
    rows = [
        row for row in json.loads((ROOT / "docs/parity/parity.json").read_text())["claims"] if row["kind"] == "claim"
    ]
    weights = [r["measured"] for r in rows if r["text"] == "all weights and statistics after 100 steps, float64"]
    recorded = recorded.replace("CLAIMS", str(len({(row["rung"], row["text"]) for row in rows})))
    recorded = recorded.replace("WEIGHTS", f"{max(weights):.1e}")
    assert figures.refresh(said) == recorded


def test_a_changed_cell_of_a_table_is_put_right() -> None:
    page = PAGES["docs/export.md"].read_text()
    cell = figures.text("int8", "real.flipped_decisions", "d")
    changed = page.replace(f"| {cell} |", "| 3 |")
    assert changed != page and figures.refresh(changed) == page


def test_an_unknown_source_or_key_is_named() -> None:
    with pytest.raises(SystemExit, match="no source nowhere"):
        figures.refresh("1<!-- nowhere accuracy d -->")
    with pytest.raises(SystemExit, match=r"halving has nothing under model\.size"):
        figures.refresh("1<!-- halving model.size d -->")


@pytest.mark.parametrize("name", QUESTIONS)
def test_pages_for_readers_carry_no_measured_share_without_its_source(name: str) -> None:
    page = figures.MARK.sub("", figures.TABLE.sub("", PAGES[name].read_text()))
    assert re.findall(r"\d+\.\d+ ?%", page) == []


def test_the_benchmarks_pages_are_those_of_their_records() -> None:
    pages = figures.benchmark_pages()
    assert len(pages) > 1  # all machines, and each
    for path, text in pages.items():
        assert path.read_text() == text, f"{path}: python docs/figures.py --write makes it again"


def test_a_figure_of_several_records_is_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {"old": {"times": {"a": 1.92}}, "new": {"times": {"a": 1.487, "b": 3.0}}}
    monkeypatch.setitem(figures.source.__wrapped__.__globals__["SOURCES"], "benchmark", lambda: records)
    figures.source.cache_clear()
    try:
        for said in ("1.92", "1.2 to 1.92", "1.2\n to 3"):
            page = f"It makes {said}<!-- benchmark times.a .2f --> times"
            assert figures.refresh(page) == "It makes 1.49 to 1.92<!-- benchmark times.a .2f --> times"
        assert figures.refresh("0 to 9<!-- benchmark times.b .0f -->").startswith("3<!--")
        assert figures.refresh("from 3 to 1<!-- halving images , -->").startswith("from 3 to 20,000<!--")
        with pytest.raises(SystemExit, match=r"benchmark has nothing under times\.c"):
            figures.refresh("1<!-- benchmark times.c d -->")
    finally:
        figures.source.cache_clear()


def test_the_busy_machines_page_has_the_medians_of_its_record() -> None:
    text = (ROOT / "docs" / "benchmark" / "busy.md").read_text()
    record = json.loads((ROOT / "docs" / "benchmark" / "busy.json").read_text())
    for settings in record["images_per_second"].values():
        for name, loads in settings.items():
            cells = [f"{statistics.median(each):.0f} ({min(each):.0f} to {max(each):.0f})" for each in loads.values()]
            assert f"| {name} | {' | '.join(cells)} |" in text


def test_the_parity_page_has_the_counts_of_its_record() -> None:
    found = figures.source("parity")
    assert (
        f"**{found['claims']} claims, {found['claims_hold']} hold; "
        f"{found['faults']} deliberate faults, {found['faults_hold']} seen.**"
    ) in (ROOT / "docs" / "parity" / "README.md").read_text()
