"""The reliability diagram: of images that are said to be REAL with a probability, how many are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_cifake.evaluation.canvas import STYLE, new_figure, save_figure, set_title
from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION
from lightning_cifake.evaluation.figures import curves_of, figures_of
from lightning_cifake.evaluation.predictions import Predictions


def plot_reliability(told: Mapping[str, Predictions], path: Path, title: str) -> None:
    """Writes a panel for each: the share of REAL against P(REAL) with its 95 % interval, and how many images a bin has.

    Args:
        told: what a panel is called (before, after) -> answers about at least one image.
        path: the PNG file.
        title: taken literally, no mathtext.

    Raises:
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(reliability_figure(told, title), path)


def reliability_figure(told: Mapping[str, Predictions], title: str) -> Figure:
    """As :func:`plot_reliability`, not written."""
    figure = new_figure(5.6 * len(told), 6.6)
    panels = figure.subplots(2, len(told), sharex=True, sharey="row", squeeze=False, height_ratios=(4, 1))
    for (above, below), (name, predictions) in zip(panels.T, told.items(), strict=True):
        figures = figures_of(predictions, draws=0)["figures"]
        words = f"{name}: ECE {figures['ece']['value']:.4f}, log loss {figures['log_loss']['value']:.4f}"
        _draw(above, below, curves_of(predictions)["reliability"]["bins"], predictions.threshold)
        set_title(above, words, 46)
    panels[0, 0].set_ylabel("Share that is REAL")
    panels[1, 0].set_ylabel("Images")
    for axes in panels[1]:
        axes.set_xlabel("P(REAL), as the model says it")
    figure.suptitle(title, fontsize=13, parse_math=False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(above: Axes, below: Axes, bins: list[dict[str, Any]], threshold: float) -> None:
    said, real, images, low, width = (
        np.array(column, np.float64)
        for column in zip(
            *(
                (each["mean_prob_real"], each["share_real"], each["images"], each["low"], each["high"] - each["low"])
                for each in bins
            ),
            strict=True,
        )
    )
    ends = np.array([each["interval"] for each in bins], np.float64).T
    reach = np.abs(ends - real).clip(0)
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="True probabilities")
    bars = above.errorbar(said, real, reach, fmt="o", color=BLUE, markersize=5, capsize=2, label="The model's, 95 %")
    bars.lines[0].set_clip_on(False)  # at 0 and 1 too a point is whole
    for axes in (above, below):
        axes.axvline(threshold, color=VERMILION, linestyle=":", linewidth=1.5, label="Threshold: REAL above")
        axes.grid(True)
    below.bar(low, images, width, align="edge", color=BLUE, alpha=0.6)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)
    above.set(xlim=(0, 1), ylim=(0, 1))
