"""Pictures of a page as small SVG, drawn by hand: coloured by its style sheet, so that light and dark both work."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

MOST_POINTS = 300  # of a line: more cannot be told apart on 300 units
_WIDTH, _HEIGHT = 360, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 44


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with (value, text) at its ticks; logarithmic where asked."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def place(self, value: float) -> float:
        """In [0, 1]; what lies outside stands at the end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Line:
    """Points joined; ``style`` is a class of the style sheet: a, b or guide; ``marked`` shows each point.

    Where they are not ``joined``, the points are marked alone: kinds in no order.
    """

    points: Sequence[tuple[float, float]]
    style: str = "a"
    marked: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Dot:
    """One point that stands out, with a text beside it."""

    x: float
    y: float
    label: str
    style: str = "dot"


@dataclass(frozen=True)
class Bar:
    """An error bar: y from ``low`` to ``high`` at ``x``."""

    x: float
    low: float
    high: float


def share_axis(label: str, low: float = 0.0) -> Axis:
    """Shares from ``low`` to 1, in percent."""
    step = next(step for step in (0.2, 0.1, 0.05, 0.02, 0.01, 0.005) if step == 0.005 or (1 - low) / step >= 3.99)
    count = max(1, math.ceil((1 - low) / step - 1e-9))
    ticks = [(1 - n * step, f"{100 * (1 - n * step):.4g}") for n in range(count + 1)]
    return Axis(label, 1 - count * step, 1.0, ticks)


def log_share_axis(label: str, low: float = 0.001) -> Axis:
    """Shares in percent on a logarithmic axis."""
    ticks = [(10.0**n, f"{100 * 10.0**n:g}") for n in range(round(math.log10(low)), 1)]
    return Axis(label, low, 1.0, ticks, log=True)


class Drawer:
    """Draws the charts of one page: each gets ids of its own."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def chart(
        self,
        title: str,
        about: str,
        x: Axis,
        y: Axis,
        lines: Sequence[Line] = (),
        dots: Sequence[Dot] = (),
        bars: Sequence[Bar] = (),
        height: int = _HEIGHT,
    ) -> Markup:
        """One chart with axes.

        Args:
            title: what it is, read by a screen reader and shown where the pointer rests.
            about: what there is to see, for those who do not see it.
        """
        number = next(self._numbers)
        inner = (_WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM)

        def at(a: float, b: float) -> tuple[float, float]:
            return _LEFT + inner[0] * x.place(a), _TOP + inner[1] * (1 - y.place(b))

        parts = [_frame(x, y, at, height)]
        parts += [
            Markup('<path class="bar" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
                *at(each.x, each.low), at(each.x, each.high)[1]
            )
            for each in bars
        ]
        parts += [_line(line, at) for line in lines]
        parts += [_dot(dot, at) for dot in dots]
        return Markup(
            '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="t{n} d{n}"><title id="t{n}">{}</title>'
            '<desc id="d{n}">{}</desc>{}</svg>'
        ).format(_WIDTH, height, title, about, Markup("").join(parts), n=number)


def _frame(x: Axis, y: Axis, at, height: int) -> Markup:
    left, bottom = at(x.low, y.low)
    right, top = at(x.high, y.high)
    grid, words = [], []
    for value, text in x.ticks:
        place = at(value, y.low)[0]
        grid.append(f"M{place:.1f} {bottom:.1f}V{top:.1f}")
        words.append(_word(place, bottom + 16, text, "middle"))
    for value, text in y.ticks:
        place = at(x.low, value)[1]
        grid.append(f"M{left:.1f} {place:.1f}H{right:.1f}")
        words.append(_word(left - 6, place + 4, text, "end"))
    words.append(_word((left + right) / 2, height - 6, x.label, "middle", "axis"))
    middle = (top + bottom) / 2
    words.append(
        Markup('<text class="axis" text-anchor="middle" transform="translate(13 {:.1f}) rotate(-90)">{}</text>').format(
            middle, y.label
        )
    )
    return Markup(
        '<path class="grid" d="{}"/><path class="edge" d="M{:.1f} {:.1f}V{:.1f}H{:.1f}"/><g aria-hidden="true">{}</g>'
    ).format("".join(grid), left, top, bottom, right, Markup("").join(words))


def _word(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)


def _line(line: Line, at) -> Markup:
    points = thinned([at(*point) for point in line.points])
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) if points and line.joined else ""
    marks = [Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(line.style, *each) for each in points]
    return Markup('<path class="line {}" d="{}"/>{}').format(
        line.style, path, Markup("").join(marks) if line.marked else ""
    )


def _dot(dot: Dot, at) -> Markup:
    a, b = at(dot.x, dot.y)
    rightwards = a < _WIDTH * 0.6
    below = b < _TOP + 70
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>{}').format(
        dot.style,
        a,
        b,
        _word(
            a + (10 if rightwards else -10),
            b + (18 if below else -8),
            dot.label,
            "start" if rightwards else "end",
            "note",
        ),
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without points that stand, to a tenth of a unit, on the line between their neighbours; at most MOST_POINTS."""
    kept: list[tuple[float, float]] = []
    for point in points:
        point = (round(point[0], 1), round(point[1], 1))
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and (kept[-2][0] == kept[-1][0] == point[0] or kept[-2][1] == kept[-1][1] == point[1]):
            kept[-1] = point
            continue
        kept.append(point)
    if len(kept) > MOST_POINTS:
        step = (len(kept) - 1) / (MOST_POINTS - 1)
        kept = [kept[round(n * step)] for n in range(MOST_POINTS)]
    return kept
