"""What every picture is drawn on: its style and the file it is written to. Needs no torch.

Figures are built on the Agg canvas without pyplot, so that nothing here needs a display or touches another figure.
"""

import io
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_cifake.files import write_whole

DPI = 200
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "axes.labelpad": 8,
    "legend.fontsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "text.usetex": False,
}


def new_figure(width: float, height: float) -> Figure:
    """Inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, title: str, width: int = 60) -> None:
    """A dollar sign in a file's name is no formula."""
    axes.set_title(textwrap.fill(title, width), pad=10, parse_math=False)


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """A PNG file, whole or not there.

    Raises:
        UserError: it cannot be written.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.12)
    write_whole(path, png.getvalue())
