"""An evaluation's page: what is on it is in metrics.json, it fetches nothing, and anybody can read it."""

import base64
import copy
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.assessment.page import MOST_BYTES, page_of
from tests.assessment.made_evaluation import HOSTILE, made_metrics, made_model, made_pictures, made_predictions
from tests.assessment.reading import Page, at, says


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(made_metrics(), made_pictures(made_metrics()))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_each_figure_on_it_is_in_metrics_json(page: Page) -> None:
    assert len(page.shown) > 400 and {shown.form for shown in page.shown} >= {"percent", "rest", "of", "area", "points"}
    for shown in page.shown:
        assert says(shown, at(made_metrics(), shown.key)), shown


def test_no_number_on_it_is_without_a_key(page: Page) -> None:
    assert page.stray == []


def test_a_figure_that_is_another_is_seen() -> None:
    other = copy.deepcopy(made_metrics())
    other["models"][0]["all"]["figures"]["auroc"]["value"] += 2e-4
    shown = Page(page_of(other)).shown
    assert {each.key for each in shown if not says(each, at(made_metrics(), each.key))} == {
        "/models/0/all/figures/auroc/value"
    }


def test_every_figure_of_a_model_is_on_it_with_its_interval_and_the_second_column(page: Page) -> None:
    keys = {shown.key for shown in page.shown}
    for part in ("all", "unseen"):
        for name, figure in made_metrics()["models"][1][part]["figures"].items():
            wanted = [f"/models/1/{part}/figures/{name}/value"]
            wanted += (
                [f"/models/1/{part}/figures/{name}/interval/{end}" for end in (0, 1)] if figure["interval"] else []
            )
            assert set(wanted) <= keys, name


def test_the_verdict_is_first_and_says_where_it_fails(html: str) -> None:
    head = re.sub(r"<[^>]+>", "", html.partition("<body>")[2].partition("<main>")[0])
    accuracy = made_metrics()["models"][0]["all"]["figures"]["accuracy"]["value"]
    assert f"compact gets {round(100 * accuracy)} of 100 pictures right" in head
    assert (
        "AI images of gan/2" in head
        and "images of cat" in head
        and "images after blur 1.0 (blurred, by sigma in pixels)" in head
    )


def test_it_fetches_nothing_and_runs_nothing(html: str, page: Page) -> None:
    assert not re.search(r"https?:|<script|<link|<iframe|@import|url\(", html)
    assert "default-src 'none'" in html
    sources = [found["src"] or "" for tag, found in page.elements if tag == "img"]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)


def test_names_are_text_whatever_they_hold(html: str, page: Page) -> None:
    assert HOSTILE not in html and "&lt;script&gt;" in html and "resnet&lt;50&gt;" in html
    assert page.unbalanced == []
    shown = copy.deepcopy(made_metrics())
    shown["data"]["name"] = "a\x1b[31m\u202e" + "b" * 500
    html = page_of(shown)
    assert "\x1b" not in html and "\u202e" not in html and "b" * 200 not in html
    assert Page(html).unbalanced == []


def test_headings_go_down_a_step_at_a_time_and_tables_and_pictures_say_what_they_are(html: str, page: Page) -> None:
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert html.count("<table") == html.count("<caption>")
    assert all(found.get("alt") for tag, found in page.elements if tag == "img")
    assert all("scope" in found for tag, found in page.elements if tag == "th")
    drawings = [found for tag, found in page.elements if tag == "svg"]
    assert len(drawings) == 2 * 6 and all(found.get("role") == "img" for found in drawings)
    named = {found["id"] for _, found in page.elements if "id" in found}
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(named) == len(ids)
    for _, found in page.elements:
        assert set((found.get("aria-labelledby") or "").split()) <= named
        if (found.get("href") or "").startswith("#"):
            assert (found["href"] or "")[1:] in named


def test_pictures_are_those_given_pixel_for_pixel_and_large_ones_are_shrunk() -> None:
    one = {**made_metrics(), "models": made_metrics()["models"][:1], "comparisons": []}
    rows = one["models"][0]["examples"]["hits"]
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    pictures = {rows[0]["name"]: pixels, rows[1]["name"]: np.zeros((300, 500, 3), np.uint8)}
    found = [attributes["src"] or "" for tag, attributes in Page(page_of(one, pictures)).elements if tag == "img"]
    small, large = (Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in found[:2])
    assert np.array_equal(np.asarray(small), pixels) and max(large.size) == 64


def test_it_stays_small_however_many_pictures_there_are() -> None:
    many = copy.deepcopy(made_metrics())
    rows = [{"name": f"{n}.png", "label": "FAKE", "prob_real": 0.1, "at": n} for n in range(200)]
    many["models"][0]["examples"]["hits"] = rows
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    html = page_of(many, {row["name"]: noise for row in rows})
    assert MOST_BYTES * 0.9 < len(html) < 2_000_000 and html.count("<img") < 200
    assert "199.png" in html  # named all the same


def without(*parts: str | int) -> dict[str, Any]:
    """The made evaluation of one model, in which something was not measured."""
    found = copy.deepcopy({**made_metrics(), "models": made_metrics()["models"][:1], "comparisons": []})
    content: Any = found
    for part in parts[:-1]:
        content = content[part]
    content[parts[-1]] = None
    return found


@pytest.mark.parametrize(
    ("parts", "says_so"),
    [
        (("models", 0, "unseen"), "was trained on is not known"),
        (("models", 0, "robustness"), "was not measured"),
        (("models", 0, "groups"), ""),
        (("models", 0, "curves", "roc"), ""),
        (("models", 0, "examples"), ""),
        (("models", 0, "temperature"), ""),
        (("machine",), ""),
        (("data", "unreadable"), ""),
        (("data", "protocol"), ""),
        (("models", 0, "all", "figures", "auroc", "value"), "undefined"),
    ],
)
def test_what_was_not_measured_is_left_out_or_said(parts: tuple[str | int, ...], says_so: str) -> None:
    metrics = without(*parts)
    page = Page(page_of(metrics))
    assert page.stray == [] and all(says(shown, at(metrics, shown.key)) for shown in page.shown)
    assert says_so in page.html and "None" not in page.html


def test_images_of_one_class_give_a_page_that_says_what_it_can() -> None:
    metrics = without("comparisons")
    photographs = made_predictions("compact")
    photographs = photographs.take(photographs.labels == 1)
    metrics["models"] = [{**made_model(photographs), "groups": {}, "robustness": None}]
    page = Page(page_of(metrics))
    head = re.sub(r"<[^>]+>", "", page.html.partition("<body>")[2].partition("<main>")[0])
    assert "photographs AI." in head and "AI images for photographs" not in head and "undefined" not in head
    assert "All images are of one class" in head
    assert page.stray == [] and all(says(shown, at(metrics, shown.key)) for shown in page.shown)


def test_a_model_that_is_no_better_than_one_answer_for_all_is_called_so() -> None:
    metrics = without("machine")
    figures = metrics["models"][0]["all"]["figures"]
    figures["accuracy"] = {"value": 0.52, "interval": [0.48, 0.56]}
    assert "no better than calling every image" in page_of(metrics)
    figures["accuracy"] = {"value": 0.62, "interval": [0.58, 0.66]}
    assert "no better than" not in page_of(metrics)
    figures["auroc"] = {"value": 0.4, "interval": [0.3, 0.45]}
    assert "worse than guessing" in page_of(metrics)
    metrics["models"][0]["all"]["class_counts"] = {"FAKE": 600, "REAL": 0}
    assert "All images are of one class" in page_of(metrics)
