"""Names from strangers reach people without their power; reasons keep their end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.text import one_line, printable, reason_of, shorten


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
