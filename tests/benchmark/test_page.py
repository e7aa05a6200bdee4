"""The page shows names from elsewhere (checkpoints, images, machines, errors) as they are, and obeys none of them."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt  # rich's own reader of Markdown

from lightning_cifake.benchmark.page import page

RECORD = Path(__file__).parents[2] / "docs" / "benchmark" / "amd-epyc-2-cores-avx2" / "benchmark.json"
STRANGE = "<img src=x onerror=alert(1)>\n\n# Won | **b** `c` \u202e</details> ``` [x](http://h)"


def strange_record() -> dict[str, Any]:
    record = copy.deepcopy(json.loads(RECORD.read_text()))
    record["machine"]["processor"] = record["command"] = record["settings"]["weights"] = STRANGE
    record["versions"]["torch"] = STRANGE
    record["failed"] = {"tf": f"training: {STRANGE}"}
    names = record["agreement"]["accuracy"]
    image = {"path": STRANGE, "label": "FAKE", "prob_real": dict.fromkeys(names, 0.5)}
    record["agreement"] |= {"disagreeing": 1, "listed": [image]}
    return record


@pytest.fixture(scope="module")
def html() -> str:
    return MarkdownIt("commonmark").enable("table").render(page(strange_record()))


def test_no_name_makes_markup_of_its_own(html: str) -> None:
    plain = MarkdownIt("commonmark").enable("table").render(page(json.loads(RECORD.read_text())))
    assert set(re.findall(r"<(\w+)", html)) <= {*re.findall(r"<(\w+)", plain), "td", "li", "ul"}
    assert html.count("<img") == html.count('<img src="benchmark.png"') == 1
    assert html.count("<h1>") == 1 and "<a " not in html and "\u202e" not in html and r"\u202e" in html


def test_no_name_breaks_its_table(html: str) -> None:
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        widths = {len(re.findall("<t[hd]", row)) for row in re.findall("<tr>.*?</tr>", table, re.DOTALL)}
        assert len(widths) == 1
