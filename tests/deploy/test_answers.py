"""What is said about one image, and rows of it in every form."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.deploy.answers import CSV_HEADER, Prediction, decide, input_warning, writing_answers
from lightning_cifake.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ANSWERS = st.builds(
    Prediction,
    path=TEXTS,
    verdict=st.sampled_from(["AI", "REAL", "UNCERTAIN", None]),
    prob_real=st.floats(0, 1, width=32) | st.none(),
    error=TEXTS | st.none(),
    warning=TEXTS | st.none(),
)


@pytest.mark.parametrize(
    ("prob", "threshold", "uncertain", "verdict"),
    [
        (0.5, 0.5, None, "AI"),  # strictly above, as Keras decides
        (np.nextafter(np.float32(0.5), np.float32(1)), 0.5, None, "REAL"),
        (float(np.float32(0.3)), 0.3, None, "AI"),  # float32's 0.3 is above float64's, and equal in float32
        (0.6, 0.7, None, "AI"),
        (0.4, 0.5, (0.4, 0.6), "UNCERTAIN"),
        (0.6, 0.5, (0.4, 0.6), "UNCERTAIN"),
        (0.39, 0.5, (0.4, 0.6), "AI"),
        (0.61, 0.5, (0.4, 0.6), "REAL"),
    ],
)
def test_real_is_strictly_above_the_threshold_and_the_uncertain_band_has_both_its_ends(
    prob: float, threshold: float, uncertain: tuple[float, float] | None, verdict: str
) -> None:
    assert decide(float(prob), threshold, uncertain) == verdict


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (32, 32, None),
        (16, 16, "16x16, trained on 32x32: scaled up"),
        (64, 64, "scaled down"),
        (3000, 4000, "scaled down so far"),
        (3000, 4000, "squeezed to a square"),
        (1, 32, "scaled up, squeezed to a square"),
        (40, 44, "44x40, trained on 32x32: scaled down"),
    ],
)
def test_an_image_unlike_those_of_training_says_so(height: int, width: int, words: str | None) -> None:
    said = input_warning(height, width, 32)
    assert said is None if words is None else said is not None and words in said
    assert height == 40 or "squeezed" not in (input_warning(height, height, 32) or "")


@given(st.lists(ANSWERS, max_size=4))
def test_json_csv_and_jsonl_give_every_answer_back(
    module_folder: Callable[[str], Path], answers: list[Prediction]
) -> None:
    folder = module_folder("answers")
    for suffix in (".json", ".jsonl", ".csv"):
        with writing_answers(folder / f"rows{suffix}") as write:
            for answer in answers:
                write(answer)
    assert [Prediction(**row) for row in json.loads((folder / "rows.json").read_text())] == answers
    lines = (folder / "rows.jsonl").read_text().split("\n")
    assert [Prediction(**json.loads(line)) for line in lines[:-1]] == answers
    with (folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["error"]) for row in rows] == [(each.path, each.error or "") for each in answers]
    given_back = [float(row["prob_real"]) if row["prob_real"] else None for row in rows]
    assert given_back == [each.prob_real for each in answers]
    printed = io.StringIO("\n".join([CSV_HEADER, *(each.csv() for each in answers)]), newline="")
    assert list(csv.DictReader(printed)) == rows


def test_a_row_is_one_line_whatever_the_name_of_the_file() -> None:
    answer = Prediction("a\nb\tc.png", "AI", 0.25)
    assert answer.line() == "a\\nb\\tc.png\tAI\t0.250000"
    assert "\n" not in answer.json()


def test_what_fails_midway_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("before")
    with pytest.raises(RuntimeError, match="midway"), writing_answers(target) as write:
        write(Prediction("a.png", "AI", 0.1))
        raise RuntimeError("midway")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.csv", "before")]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), writing_answers(tmp_path / "file" / "rows.csv"):
        pass
