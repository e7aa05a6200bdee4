"""Names from strangers reach people without their power; reasons keep their end."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # rich's own reader of Markdown

from lightning_cifake.text import code_block, code_span, markdown, one_line, printable, reason_of, shorten


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("photo.jpg", "photo.jpg"),
        ("\u4e2d\u6587 na\u00efve \U0001f600.jpg", "\u4e2d\u6587 na\u00efve \U0001f600.jpg"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\u2028b\u2029c\u0085d", "a\\u2028b\\u2029c\\x85d"),
        ("\udcff.jpg", "\\xff.jpg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_moves_a_cursor_or_a_line_is_shown_as_text(given_name, shown):
    assert printable(given_name) == shown


@given(st.text())
def test_nothing_printable_can_end_a_line_and_it_can_be_encoded(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert "\x1b" not in shown and "\u202e" not in shown
    assert printable(shown) == shown


@given(st.text(min_size=1), st.integers(20, 60))
def test_a_shortened_reason_keeps_its_end(text, longest):
    short = shorten(text, longest)
    assert len(short) <= longest
    assert len(text) > longest or short == text
    tail = text[-5:]
    assert short.endswith(tail.lstrip() if len(text) > longest else tail)


def test_lists_and_lines_become_one():
    assert one_line("Parser error:\n  - a\n  - b\n") == "Parser error: a b"


def test_the_system_s_own_words_come_first():
    assert reason_of(OSError(28, "No space left on device", "/x")) == "No space left on device"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(ValueError("x" * 1000 + " because")).endswith(" because")


STRANGE = "<script>alert(1)</script> | *b* `c` [x](http://h) \n# d \u202e _e_ a_b \\ &lt; ``` ~~f~~"


def rendered(text: str) -> str:
    """What a reader of the page sees, by another's reader of Markdown; raw HTML is let through, as GitHub would."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


@pytest.mark.parametrize("form", [markdown, code_span, code_block])
def test_foreign_text_in_a_page_is_text_and_nothing_else(form: Callable[[object], str]) -> None:
    html = rendered(form(STRANGE))
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"p", "code", "pre"} and "\u202e" not in html
    shown = unescape(re.sub(r"<[^>]+>", "", html)).strip()
    assert shown.replace(r"\|", "|") == printable(STRANGE)  # GitHub takes the backslash away in a table


@pytest.mark.parametrize("form", [markdown, code_span])
def test_foreign_text_stays_in_its_cell(form: Callable[[object], str]) -> None:
    html = rendered(f"| a | b |\n| --- | --- |\n| {form(STRANGE)} | end |\n")
    assert html.count("<td>") == 2 and html.count("<tr>") == 2 and "<td>end</td>" in html
    assert printable(STRANGE) in unescape(re.sub(r"</?code>", "", html))


def test_plain_text_is_left_alone_in_a_page() -> None:
    for text in ("Intel(R) Xeon(R) @ 2.60GHz", "lightning_cifake 0.1.0", "x86_64", "torch 2.13.0+cpu"):
        assert markdown(text) == text
    assert (code_span("best.ckpt"), code_block("a b")) == ("`best.ckpt`", "```\na b\n```")
