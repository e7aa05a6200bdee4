"""The picture of several machines: how many times the rate, comparison by comparison."""

from pathlib import Path

import matplotlib

from lightning_cifake.benchmark.comparisons import COMPARISONS, ratio_of, terms
from lightning_cifake.benchmark.processors import title
from lightning_cifake.benchmark.side_by_side import Records
from lightning_cifake.evaluation.canvas import STYLE, new_figure, save_figure, set_title
from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION
from lightning_cifake.text import printable

COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00")  # Okabe & Ito's
MARKERS = "osD^v"


def draw_ratios(heading: str, group: Records, path: Path) -> None:
    """A row a comparison, a point a machine: its median with the lowest and highest round, hollow at unequal terms."""
    shown = [each for each in COMPARISONS if any(ratio_of(record, each) for record in group.values())]
    if not shown:
        return
    with matplotlib.rc_context(STYLE):
        figure = new_figure(9, 1.6 + 0.42 * len(shown))
        axes = figure.subplots()
        for number, record in enumerate(group.values()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            shift = 0.22 * (number - (len(group) - 1) / 2)
            axes.plot([], [], marker, color=colour, label=printable(title(record)).replace("$", r"\$"))
            for row, each in enumerate(shown):
                found = ratio_of(record, each)
                if found is None:
                    continue
                median = found["median"]
                around = [[median - found["low"]], [found["high"] - median]]
                fill = colour if terms(record, each) == "yes" else "white"
                axes.errorbar(
                    median, row + shift, xerr=around, fmt=marker, color=colour, markerfacecolor=fill, capsize=3
                )
        axes.axvline(1, color=GREY, linewidth=1)
        doing = {"training": "training", "answering_32": "inference"}
        axes.set_yticks(range(len(shown)), [f"{each.ours} / {each.theirs}, {doing[each.kind]}" for each in shown])
        axes.invert_yaxis()
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [tick for tick in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("times the rate of the second engine; hollow: not at equal terms")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", frameon=False)
        set_title(axes, heading)
        save_figure(figure, path)
