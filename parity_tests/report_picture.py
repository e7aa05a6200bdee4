"""The picture at the head of the page: each claim and each deliberate fault by how far it is from its tolerance."""

import io
import math
from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION
from parity_tests.claims import RUNGS, SKIPPED, Row

CAPTION = (
    "Each claim (blue) and each fault put in by hand (red), by what was measured, as a multiple of what it is held "
    "against. A claim holds left of the line; a fault is seen right of it."
)
EXACT, COUNTED = 1e-9, 1e12
"""Where a claim that is met exactly is drawn, and a fault whose tolerance is 0: neither is a multiple of anything."""


def place(row: Row) -> float | None:
    """Where a row is drawn on the axis of multiples; None where nothing was measured."""
    if row.verdict == SKIPPED or row.kind == "figure":
        return None
    if row.measured is None or row.measured == 0:
        return EXACT
    if not math.isfinite(row.measured) or not row.tolerance:
        return COUNTED
    return float(np.clip(row.measured / row.tolerance, EXACT * 10, COUNTED / 10))


def draw(rows: Iterable[Row]) -> bytes:
    """PNG; a line a rung."""
    found = [(row, where) for row in rows if (where := place(row)) is not None]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.add_subplot()
    height = {rung: -number for number, rung in enumerate(RUNGS)}
    for kind, colour, marker, label in (
        ("claim", BLUE, "o", "claims"),
        ("fault", VERMILION, "x", "faults put in by hand"),
    ):
        here = [(where, height[row.rung]) for row, where in found if row.kind == kind]
        if not here:
            continue
        x, y = np.array(here).T
        # of one place apart, so that many are seen as many
        spread = np.random.default_rng(0).uniform(-0.27, 0.27, len(y))
        axes.scatter(x, y + spread, s=16, color=colour, marker=marker, alpha=0.55, linewidths=1, label=label)
    axes.axvline(1, color=GREY, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(EXACT / 4, COUNTED * 4)
    shown = [10.0**power for power in range(-6, 11, 3)]
    axes.set_xticks([EXACT, *shown, COUNTED], ["exact", *(_multiple(each) for each in shown), "tolerance\nis 0"])
    axes.minorticks_off()
    axes.set_yticks(list(height.values()), list(height))
    axes.set_xlabel("measured, as a multiple of what it is held against")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _multiple(value: float) -> str:
    return "1" if value == 1 else f"$10^{{{round(math.log10(value))}}}$"
