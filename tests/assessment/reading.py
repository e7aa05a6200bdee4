"""A page as a reader of it sees it: headings, tables, pictures, and each figure with the key that it carries."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "br", "hr", "link", "input"}
NO_FIGURES = {"th", "h1", "h2", "h3", "h4", "code", "pre", "caption", "figcaption", "nav", "svg", "style", "title"}
"""Where names, levels and axes stand, which may hold digits that are no measurement."""


@dataclass
class Shown:
    """A marked figure: its key, its form, its text."""

    key: str
    form: str
    text: str = ""


@dataclass
class Page(HTMLParser):
    """``stray``: text with digits outside of a marked figure, with the tags around it."""

    html: str
    shown: list[Shown] = field(default_factory=list)
    stray: list[tuple[str, str]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, Shown | bool | None]] = []
        self.text: list[str] = []
        self.feed(self.html)
        self.close()
        self.unbalanced += [name for name, _ in self._open]

    @property
    def words(self) -> str:
        """All text, with one space where there are several."""
        return " ".join("".join(self.text).split())

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        mark: Shown | bool | None = None
        if "data-key" in found:
            mark = Shown(found["data-key"] or "", found["data-form"] or "")
            self.shown.append(mark)
        elif found.get("class") in ("c", "n"):  # a constant, a name
            mark = True
        if tag not in VOID:
            self._open.append((tag, mark))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            self._open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        around = [tag for tag, _ in self._open]
        self.text.append(data)
        marks = [mark for _, mark in self._open if mark]
        if marks and isinstance(marks[-1], Shown):
            marks[-1].text += data
        elif not marks and re.search(r"\d", data) and not NO_FIGURES & set(around):
            self.stray.append((data.strip(), " ".join(around)))


def at(content: Any, key: str) -> Any:
    """What a JSON pointer leads to; KeyError and IndexError where there is nothing."""
    for part in key.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        content = content[int(name)] if isinstance(content, list) else content[name]
    return content


def says(shown: Shown, value: Any) -> bool:
    """Whether a text is a value as near as its digits go; by hand, not by the package's own forms."""
    text, form = shown.text.replace("\N{NO-BREAK SPACE}", " "), shown.form
    if value is None:
        return text == "undefined"
    if form == "text" or isinstance(value, str):
        return text == str(value) or ("..." in text and str(value).startswith(text.partition(" ...")[0]))
    if form == "length":
        return int(text.replace(",", "")) == len(value)
    if form == "next":
        return int(text.replace(",", "")) == value + 1
    if form in ("rest", "bare_rest", "rest_of"):
        value = 1 - value
    if form in ("of", "rest_of"):
        part, whole = (int(number.replace(",", "")) for number in text.split(" of "))
        return abs(part / whole - value) <= 0.5 / whole + 1e-12
    if text.startswith("> ") or text.startswith("< "):
        limit = float(text[2:].removesuffix(" %")) / (100 if text.endswith("%") else 1)
        return limit < value < 1 if text[0] == ">" else 0 <= value < limit
    number = float(text.replace(",", "").removesuffix(" %"))
    if form in ("percent", "rest", "bare", "bare_rest", "points"):
        value = 100 * value
    elif form == "mega":
        value = value / 1e6
    decimals = len(text.removesuffix(" %").partition(".")[2])
    if form in ("number", "number_or_text", "rate"):  # significant digits
        return abs(number - value) <= 0.5 * 10**-decimals + abs(value) * 0.05
    return abs(number - value) <= 0.5 * 10**-decimals + 1e-9
