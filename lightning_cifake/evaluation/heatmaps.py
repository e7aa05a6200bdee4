"""Pictures of what a model looked at: an image with its maps beside it, and sheets of many. Knows arrays and no model.

Blue is towards REAL, red towards AI, on a scale whose middle is 0: matplotlib's ``coolwarm``, made so that equal steps
look equal (Moreland, *Diverging Color Maps for Scientific Visualization*, ISVC 2009). Each map lies over the image in
grey, whose pixels are enlarged and not smoothed.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_cifake.classes import DISPLAY_NAMES, FAKE, REAL
from lightning_cifake.evaluation.canvas import STYLE, new_figure, save_figure

COLOURS = "coolwarm_r"
OPAQUE = 0.65  # of the map over the image
DPI = 110
COLUMNS = 6  # of a sheet
CELL, SIDE, LINES, HEADING, BAR = 1.5, 1.42, 0.42, 0.45, 0.95
"""Inches of a sheet: from an image to the next, an image, two lines over it, the title, a colour bar with its words."""
COMMON_SCALE = 99  # percentile of a sheet's values that its colours end at: one odd image does not pale all others
TITLES = {"grad_cam": "Grad-CAM", "occlusion": "Occlusion: change of the logit"}
"""Method -> what stands over its maps; an occlusion has a unit, Grad-CAM has none."""
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG's luma


class Explained(NamedTuple):
    """An image, and what a model looked at in it.

    Attributes:
        title: taken literally; a line each.
        pixels: (H, W, 3) uint8, as the model sees it.
        maps: a key of :data:`TITLES` -> (H, W) float, above 0 for REAL.
        grid: of how many rows and columns of tiles it is put together.
    """

    title: str
    pixels: np.ndarray
    maps: Mapping[str, np.ndarray]
    grid: tuple[int, int] = (1, 1)


def draw_explained(explained: Explained, path: Path) -> None:
    """One image, its maps beside it, each with a colour bar; a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(explained_figure(explained), path, DPI)


def explained_figure(explained: Explained) -> Figure:
    figure = new_figure(3.2 + 3.9 * len(explained.maps), 4.1)
    first, *others = np.atleast_1d(figure.subplots(1, 1 + len(explained.maps)))
    _draw_image(first, explained)
    rows, columns = explained.grid
    first.set_title("As the model sees it" + (f": {rows} x {columns} tiles" if rows * columns > 1 else ""), fontsize=11)
    for axes, (method, values) in zip(others, explained.maps.items(), strict=True):
        limit = float(np.abs(values).max()) or 1.0
        drawn = _draw_map(axes, explained, values, limit)
        axes.set_title(TITLES[method], fontsize=11)
        _name_ends(figure.colorbar(drawn, ax=axes, fraction=0.05, aspect=18), limit, method)
    figure.suptitle(_wrapped(explained.title, 42 + 30 * len(explained.maps)), fontsize=12, parse_math=False)
    return figure


def draw_sheet(images: Sequence[Explained], title: str, path: Path) -> None:
    """Many images in rows of six, each with its maps below it, of one scale a method; a PNG file.

    Raises:
        ValueError: no image.
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(sheet_figure(images, title), path, DPI)


def sheet_figure(images: Sequence[Explained], title: str) -> Figure:
    if not images:
        raise ValueError("expected at least one image for a sheet, got none")
    methods = list(images[0].maps)
    columns = min(COLUMNS, len(images))
    block = LINES + CELL * (1 + len(methods))
    width, bars = max(CELL * columns, 6.0), HEADING + block * -(-len(images) // columns)
    height = bars + BAR * len(methods)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")  # places in inches: the constrained one overlooks titles of axes without a frame

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    limits = {method: _common_limit([each.maps[method] for each in images]) for method in methods}
    drawn: dict[str, Any] = {}
    for number, each in enumerate(images):
        left = (width - CELL * columns) / 2 + CELL * (number % columns)
        top = HEADING + block * (number // columns) + LINES
        axes = place(left, top, SIDE, SIDE)
        _draw_image(axes, each)
        axes.set_title(each.title, fontsize=9, pad=3, parse_math=False)
        for below, method in enumerate(methods, start=1):
            axes = place(left, top + CELL * below, SIDE, SIDE)
            drawn[method] = _draw_map(axes, each, each.maps[method], limits[method])
    for number, method in enumerate(methods):
        axes = place(width * 0.2, bars + BAR * number + 0.1, width * 0.6, 0.14)
        bar = _name_ends(figure.colorbar(drawn[method], cax=axes, location="bottom"), limits[method], method)
        bar.set_label(TITLES[method], fontsize=10, labelpad=2)
    title = _wrapped(title, int(11 * width))
    figure.text(0.5, 1 - 0.05 / height, title, fontsize=12, parse_math=False, ha="center", va="top")
    return figure


def _common_limit(maps: Sequence[np.ndarray]) -> float:
    return float(np.percentile(np.abs(np.concatenate([each.ravel() for each in maps])), COMMON_SCALE)) or 1.0


def _draw_image(axes: Axes, explained: Explained) -> None:
    axes.imshow(explained.pixels, interpolation="nearest")
    axes.set_axis_off()
    _draw_seams(axes, explained)


def _draw_seams(axes: Axes, explained: Explained) -> None:
    """Between tiles: they may lie apart in the picture, or over each other."""
    (height, width), (rows, columns) = explained.pixels.shape[:2], explained.grid
    for row in range(1, rows):
        axes.axhline(row * height / rows - 0.5, color="white", linewidth=1.5)
    for column in range(1, columns):
        axes.axvline(column * width / columns - 0.5, color="white", linewidth=1.5)


def _draw_map(axes: Axes, explained: Explained, values: np.ndarray, limit: float) -> Any:
    # paler than it is: in the dark the map's colours would be others than the bar's
    grey = explained.pixels @ np.array(GREY_WEIGHTS)
    axes.imshow(grey, cmap="gray", vmin=-255, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    _draw_seams(axes, explained)
    return axes.imshow(
        values, cmap=COLOURS, vmin=-limit, vmax=limit, alpha=OPAQUE, interpolation="nearest", resample=False
    )


def _name_ends(bar: Any, limit: float, method: str) -> Any:
    """The colour bar, with what its middle and its ends stand for."""
    bar.outline.set_visible(False)
    low, high = (f"\n{-limit:+.2g}", f"\n{limit:+.2g}") if method == "occlusion" else ("", "")
    names = [f"{DISPLAY_NAMES[FAKE]}{low}", "0", f"{DISPLAY_NAMES[REAL]}{high}"]
    bar.set_ticks([-limit, 0, limit], labels=names, fontsize=9)
    return bar


def _wrapped(title: str, width: int) -> str:
    """A file's name can be one long word."""
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())
