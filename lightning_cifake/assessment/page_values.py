"""Figures on a page: each is read from metrics.json by its key, and carries the key: a page can be read back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup, escape

from lightning_cifake.text import printable, shorten

UNDEFINED = "undefined"
NBSP = "\N{NO-BREAK SPACE}"
LONGEST_NAME = 120  # characters; what is longer is cut in its middle


Part = str | int | tuple["Part", ...]


def pointer(*parts: Part) -> str:
    """The key of a value in JSON, as RFC 6901 writes it: ``/models/0/all``; names may hold dots and slashes.

    Parts may stand in tuples: Jinja unpacks one only at the end of a call.
    """
    return "".join(
        pointer(*part) if isinstance(part, tuple) else "/" + str(part).replace("~", "~0").replace("/", "~1")
        for part in parts
    )


def look_up(content: Any, key: str) -> Any:
    """What stands under a key; None where nothing does."""
    for part in key.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(content, Mapping):
            content = content.get(name)
        elif isinstance(content, list) and name.isdecimal() and int(name) < len(content):
            content = content[int(name)]
        else:
            return None
    return content


def name_of(value: Any) -> str:
    """Foreign text for a page: harmless, and not longer than a line or two."""
    return shorten(printable(value), LONGEST_NAME)


def percent(share: float) -> str:
    """98.65 %; what is not all is not shown as 100."""
    if 0.99995 <= share < 1:
        return f"> 99.99{NBSP}%"
    return f"{100 * share:.2f}{NBSP}%"


def out_of(share: float) -> str:
    """A share in whole things: 99 of 100; of 1,000 or 10,000 where a hundred would say none or all."""
    for whole in (100, 1_000, 10_000):
        part = round(share * whole)
        if 0 < part < whole or share in (0, 1):
            break
    return f"{part:,} of {whole:,}"


def area(value: float) -> str:
    """Four decimals; what is not perfect is not shown as 1."""
    return "> 0.9999" if 0.99995 <= value < 1 else f"{value:.4f}"


def p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


FORMS: dict[str, Callable[[Any], str]] = {
    "text": name_of,
    "number": lambda value: f"{value:.4g}" if isinstance(value, float) else f"{value:,}",
    "number_or_text": lambda value: name_of(value) if isinstance(value, str) else FORMS["number"](value),
    "count": lambda value: f"{value:,}",
    "next": lambda value: f"{value + 1:,}",
    "percent": percent,
    "bare": lambda share: percent(share).removesuffix(f"{NBSP}%"),
    "rest": lambda share: percent(1 - share),
    "bare_rest": lambda share: percent(1 - share).removesuffix(f"{NBSP}%"),
    "of": out_of,
    "rest_of": lambda share: out_of(1 - share),
    "area": area,
    "points": lambda difference: f"{100 * difference:+.2f}",
    "difference": lambda difference: f"{difference:+.4f}",
    "p": p_value,
    "rate": lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2g}",
    "mega": lambda value: f"{value / 1e6:.1f}",
}
"""How a value is written, by the name that the page gives beside the key."""


class Values:
    """What a page says of a metrics.json.

    Args:
        content: of the file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def get(self, *parts: Part) -> Any:
        return look_up(self.content, pointer(*parts))

    def has(self, *parts: Part) -> bool:
        return self.get(*parts) not in (None, [], {}, "")

    def show(self, form: str, *parts: Part) -> Markup:
        """A value with its key: ``show("percent", "models", 0, "all", "figures", "accuracy", "value")``."""
        key, value = pointer(*parts), self.get(*parts)
        text = FORMS[form](value) if is_defined(value) else UNDEFINED
        return Markup('<span class="v" data-key="{}" data-form="{}">{}</span>').format(key, form, text)

    def length(self, *parts: Part) -> Markup:
        """How many entries a list has."""
        form = '<span class="v" data-key="{}" data-form="length">{:,}</span>'
        return Markup(form).format(pointer(*parts), len(self.get(*parts)))

    def counted(self, one: str, many: str, *parts: Part) -> Markup:
        """A count and what is counted: ``1 image``, ``2,000 images``."""
        return self.show("count", *parts) + Markup(" {}").format(one if self.get(*parts) == 1 else many)

    def interval(self, form: str, *parts: Part) -> Markup:
        """``98.12 to 99.20 %``; nothing where there is none."""
        if not (isinstance(self.get(*parts), list) and all(map(is_defined, self.get(*parts)))):
            return Markup("")
        first, last = (1, 0) if form == "rest" else (0, 1)
        low = self.show({"percent": "bare", "rest": "bare_rest"}.get(form, form), parts, first)
        high = self.show(form, parts, last)
        return Markup('<span class="interval">{} to {}</span>').format(low, high)

    def told(self, form: str, *parts: Part) -> Markup:
        """A figure in a sentence: its interval in brackets."""
        interval = self.interval(form, *parts, "interval")
        return self.show(form, *parts, "value") + (Markup(" ({})").format(interval) if interval else Markup(""))

    def figure(self, form: str, *parts: Part) -> Markup:
        """A figure of ``figures_of`` with its interval behind it, and why one of them is missing."""
        found = self.show(form, *parts, "value")
        interval = self.interval(form, *parts, "interval")
        if not interval and self.has(*parts, "note"):
            interval = Markup('<span class="interval why">{}</span>').format(self.show("text", *parts, "note"))
        return found + Markup(" ") + interval if interval else found


def is_defined(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def constant(text: Any) -> Markup:
    """A number that is no measurement: a level, a definition."""
    return Markup('<span class="c">{}</span>').format(escape(text))
