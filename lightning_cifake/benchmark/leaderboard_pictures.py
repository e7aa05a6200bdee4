"""Two pictures of the leaderboard: accuracy against what an answer costs, and validation accuracy against minutes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from lightning_cifake.benchmark.records import at
from lightning_cifake.evaluation.canvas import STYLE, save_figure, set_title
from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION

WIDTH, HEIGHT = 9.0, 5.4  # inches; letters are read where the picture is as wide as a README
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito's
_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)
_AROUND = [(x, y) for far in (9, 16, 26, 38, 52) for x, y in (
    (far, 0), (-far, 0), (0, far), (0, -far), (far, far), (-far, far), (far, -far), (-far, -far)
)]  # fmt: skip
"""Where a label may stand, in points from its dot, the nearest first."""


def cost_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[float | None]]:
    """What an answer costs, in words, and for each row: measured milliseconds where every row that has multiply-adds
    has been measured too, else multiply-adds."""
    measured = [1e3 / rate if (rate := at(row["speed"], "answering", "median")) else None for row in rows]
    counted = [row["multiply_adds"] for row in rows]
    if any(measured) and all(ms for ms, adds in zip(measured, counted, strict=True) if adds):
        return "milliseconds an image, in batches of 32", measured
    return "multiply-adds an image", counted


def draw_costs(rows: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Accuracy against cost, both axes logarithmic, the vertical one in what is missing to 100 %.

    Returns:
        Whether there was a row to draw.

    Raises:
        UserError: the file cannot be written.
    """
    words, costs = cost_of(rows)
    shown = [(row, cost) for row, cost in zip(rows, costs, strict=True) if cost and row["accuracy"] < 1]
    if not shown:
        return False
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        x = np.array([cost for _, cost in shown])
        share = np.array([row["accuracy"] for row, _ in shown])
        ends = np.minimum([row["interval"] for row, _ in shown], 1 - 1e-4)  # the interval of few seeds may pass 100 %
        axes.set_xscale("log")
        axes.errorbar(
            x,
            1 - share,
            yerr=np.maximum([ends[:, 1] - share, share - ends[:, 0]], 0),
            fmt="none",
            ecolor="#AAAAAA",
            linewidth=1.2,
        )
        for (row, cost), y in zip(shown, 1 - share, strict=True):
            axes.plot(cost, y, "s" if row["precision"] else "o", color=VERMILION if row["precision"] else BLUE, ms=7)
        _accuracy_axis(axes, "Accuracy on the test images (%)")
        axes.set_xlabel(words[0].upper() + words[1:])
        axes.set_xlim(x.min() / 2, x.max() * 2)
        axes.margins(y=0.12)
        _cost_ticks(axes)
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        _label(figure, axes, [(cost, y, row["name"]) for (row, cost), y in zip(shown, 1 - share, strict=True)])
        save_figure(figure, path)
    return True


Course = Sequence[tuple[float, float]]


def draw_courses(
    panels: Mapping[str, Mapping[str, Course]],
    path: Path,
    targets: Sequence[float],
    minutes: str = "Minutes of training",
    colours: Sequence[str] = COLOURS,
) -> bool:
    """Validation accuracy against minutes, a line a run, and dashed ones at the accuracies to be reached.

    Args:
        panels: by title, side by side; of each run (minutes, accuracy), as :func:`records.course_of` gives it.
        path: the PNG file.
        targets: the accuracies.
        minutes: what the horizontal axis is called.
        colours: of the runs in turn; a name has one colour in all panels.

    Returns:
        Whether there was a run to draw.

    Raises:
        UserError: the file cannot be written.
    """
    drawn = {title: {name: course for name, course in runs.items() if course} for title, runs in panels.items()}
    drawn = {title: runs for title, runs in drawn.items() if runs}
    if not drawn:
        return False
    names = list(dict.fromkeys(name for runs in drawn.values() for name in runs))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH + 3 * (len(drawn) - 1), HEIGHT), layout="constrained")
        shown: dict[str, Any] = {}
        for axes, (title, runs) in zip(
            figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0], drawn.items(), strict=True
        ):
            axes.set_xscale("log")
            for name, course in runs.items():
                at, shares = np.array(course).T
                number = names.index(name)
                style = ("-", "--", ":")[number // len(colours) % 3]
                colour = colours[number % len(colours)]
                (shown[name],) = axes.plot(at, np.maximum(1 - shares, 1e-4), style, color=colour, marker="o", ms=3.5)
            for target in targets:
                axes.axhline(1 - target, color=GREY, linestyle="--", linewidth=1)
            _accuracy_axis(axes, "Validation accuracy (%)" if axes.get_subplotspec().is_first_col() else "")
            axes.set_xlabel(minutes)
            _cost_ticks(axes)
            axes.grid(True, which="major")
            axes.set_axisbelow(True)
            set_title(axes, title, 40)
        figure.legend(
            [shown[name] for name in names],
            map(_literal, names),
            loc="outside right upper",
            frameon=False,
            fontsize=10,
        )
        save_figure(figure, path)
    return True


def _accuracy_axis(axes: Axes, words: str) -> None:
    """Over errors, a logarithmic axis upside down, with accuracies at its ticks: the best do not lie on one another."""
    axes.set_yscale("log")
    if not axes.yaxis_inverted():  # by the panel beside it
        axes.invert_yaxis()
    axes.yaxis.set_major_locator(FixedLocator([1 - share for share in _TICKS]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.4g}"))
    axes.set_ylabel(words)


def _cost_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _: Any) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:.4g}"


def _literal(name: str) -> str:
    """A dollar sign in a folder's name is no formula."""
    return name.replace("$", r"\$")


def _label(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> list[Annotation]:
    """A name beside each point, where it covers no other name and no point: the nearest of some places."""
    figure.draw_without_rendering()  # the axes have their place now
    scale = figure.dpi / 72
    dots = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in dots]
    frame = axes.get_window_extent()
    made = []
    for x, y, name in sorted(points, key=lambda point: point[1]):
        best: tuple[float, Any, Any] | None = None
        for dx, dy in _AROUND:
            label = axes.annotate(
                _literal(name), (x, y), (dx, dy), textcoords="offset points", fontsize=10,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                arrowprops={"arrowstyle": "-", "color": "#AAAAAA", "lw": 0.7} if max(abs(dx), abs(dy)) > 9 else None,
            )  # fmt: skip
            box = label.get_window_extent()
            covers = sum(_overlap(box.padded(2 * scale).extents, other) for other in taken)
            outside = max(0, frame.x0 - box.x0) + max(0, box.x1 - frame.x1) + max(0, frame.y0 - box.y0)
            cost = covers + 100 * (outside + max(0, box.y1 - frame.y1))
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, label, tuple(Annotation.get_window_extent(label).extents))
            else:
                label.remove()
            if cost == 0:
                break
        assert best is not None
        taken.append(best[2])
        made.append(best[1])
    return made


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes share, in pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
