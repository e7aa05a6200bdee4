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


def made_run(**changed: Any) -> str:
    """What a run's page says first, as a reader reads it."""
    metrics, _ = read_json(RESULTS / "compact" / "seed-0" / "metrics.json")
    page = Page(page_of({**metrics, **changed}))
    assert page.unbalanced == [] and page.stray == []
    return page.words


@pytest.mark.parametrize(("seen", "said"), [
    (None, "How many of these images it was trained on is not known."),
    ((0, 0.9), "None of these images was trained on, itself or as a duplicate."),
    ((1, 0.9), "1 of these images was trained on, itself or as a duplicate. Without it the accuracy is 90.00 %."),
    ((2, 0.9), "2 of these images were trained on, themselves or as a duplicate. Without them the accuracy is 90"),
    ((3, None), "3 of these images were trained on, themselves or as a duplicate. No other is left to say"),
])  # fmt: skip
def test_what_it_was_trained_on_is_said_of_none_of_one_and_of_all(seen: tuple[int, Any] | None, said: str) -> None:
    about = seen and {"images": seen[0], "accuracy_without": seen[1], "auroc_without": None}
    assert said in made_run(seen_in_training=about)


def test_a_file_that_somebody_else_wrote_is_one_line(tmp_path: Path) -> None:
    for content in ({"kind": "evaluation", "data": 3, "models": [1]}, {"kind": "evaluation", "data": {}, "models": 2}):
        (tmp_path / "metrics.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="does not hold what evaluate, fit or test write"):
            write_page(tmp_path)
    assert not (tmp_path / PAGE).exists()


def test_a_calibrated_test_says_its_threshold_and_temperature() -> None:
    metrics, _ = read_json(RESULTS / "compact" / "seed-0" / "metrics.json")
    page = Page(page_of({**metrics, "threshold": 0.3125, "temperature": 1.5, "calibration": {"images": 40}}))
    shown = {each.key: each.text for each in page.shown}
    assert [shown[key] for key in ("/threshold", "/temperature", "/calibration/images")] == ["0.3125", "1.5", "40"]


def test_one_image_and_no_image_of_a_class_are_sentences() -> None:
    words = made_run(images=1, confusion_matrix=[[0, 0], [1, 0]], class_counts={"AI": 0, "REAL": 1}, accuracy=0.0)
    assert "Measured on 1 test image of" in words and "It called 1 of 1 photograph AI." in words
    assert "AI image" not in words.partition("It called")[2].partition(".")[0]
