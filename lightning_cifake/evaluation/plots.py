"""The paper's pictures as PNG files: accuracy and loss curves (10.7), confusion matrix (10.10), and the ROC curve."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.evaluation.canvas import STYLE, new_figure, save_figure, set_title
from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION
from lightning_cifake.evaluation.metrics import THRESHOLD, binary_metrics, checked

MOST_MARKERS = 30  # epochs; beyond it the markers of neighbours touch
ZOOM_FROM_AUROC = 0.97  # a better curve lies along the frame and shows nothing without a closer look


def plot_history(history: list[dict[str, Any]], path: Path, best_epoch: int | None = None) -> None:
    """Accuracy (left) and loss (right) over the epochs, training against validation, as the paper's 12x4 figure.

    Args:
        history: one entry an epoch: ``epoch`` (from 0), ``train_loss``, ``train_accuracy``, ``val_loss``,
            ``val_accuracy``. A value that is missing, None or NaN leaves a gap.
        path: the PNG file.
        best_epoch: from 0, marked by a vertical line; the axis counts from 1.

    Raises:
        ValueError: an empty history.
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(_history_figure(history, best_epoch), path)


def plot_confusion_matrix(matrix: list[list[int]], path: Path, title: str) -> None:
    """Heatmap with counts and the percentages of each row, true class on y, predicted class on x.

    The colour is the percentage, so that classes of unequal size can be read too.

    Args:
        matrix: [[FAKE->FAKE, FAKE->REAL], [REAL->FAKE, REAL->REAL]] counts; a row may be empty.
        path: the PNG file.
        title: taken literally, no mathtext.

    Raises:
        ValueError: not 2x2.
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(_confusion_figure(matrix, title), path)


def plot_roc(prob_real: Tensor | ArrayLike, labels: Tensor | ArrayLike, path: Path, title: str) -> None:
    """ROC curve with REAL as the positive class, its AUC, chance, and the operating point at the threshold 0.5.

    Args:
        prob_real: (N,) P(REAL) in [0, 1].
        labels: (N,) FAKE = 0, REAL = 1.
        path: the PNG file.
        title: taken literally, no mathtext.

    Raises:
        ValueError: one class only, for which no curve is defined; and as :func:`binary_metrics`.
        UserError: the file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(_roc_figure(prob_real, labels, title), path)


def _history_figure(history: list[dict[str, Any]], best_epoch: int | None = None) -> Figure:
    if not history:
        raise ValueError("expected a history of at least one epoch, got none")
    figure = new_figure(12.4, 4.4)
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        _draw_curves(axes, history, name)
        if best_epoch is not None:
            best = best_epoch + 1
            axes.axvline(best, color=GREY, linestyle=":", linewidth=1.5, label=f"Best epoch: {best}")
        set_title(axes, f"Model {name}")
        axes.set_xlabel("Epoch")
        axes.set_ylabel(name.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
    # below both, where no curve can run
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _draw_curves(axes: Axes, history: list[dict[str, Any]], name: str) -> None:
    epochs = [epoch["epoch"] + 1 for epoch in history]
    markers = len(epochs) <= MOST_MARKERS
    for part, label, colour, marker in (("train", "Train", BLUE, "o"), ("val", "Validation", VERMILION, "s")):
        values = [np.nan if (value := epoch.get(f"{part}_{name}")) is None else float(value) for epoch in history]
        if np.isfinite(values).any():
            axes.plot(epochs, values, color=colour, marker=marker if markers else "", markersize=5, label=label)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)  # no tick at an epoch that was not, and a single one in the middle


def _confusion_figure(matrix: list[list[int]], title: str) -> Figure:
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.asarray(matrix)
    if counts.shape != (2, 2):
        raise ValueError(f"expected a confusion matrix of 2x2 counts, got shape {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    percent = 100 * counts / np.maximum(totals, 1)
    figure = new_figure(6.6, 5.4)
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(percent, display_labels=DISPLAY_NAMES).plot(
        ax=axes, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 100}, text_kw={"fontsize": 16}
    )
    for cell in np.ndindex(2, 2):
        share = f"\n{percent[cell]:.2f}%" if totals[cell[0], 0] else ""
        display.text_[cell].set_text(f"{counts[cell]:,}{share}")
    figure.colorbar(display.im_, label="Share of the true class (%)").outline.set_visible(False)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=12, length=0)
    set_title(axes, title, width=50)
    return figure


def _roc_figure(prob_real: Tensor | ArrayLike, labels: Tensor | ArrayLike, title: str) -> Figure:
    """By hand: scikit-learn's display marks no threshold, enlarges nothing, and prints an AUC of 0.9998 as 1.00."""
    from sklearn.metrics import roc_curve

    metrics = binary_metrics(prob_real, labels)
    if metrics["auroc"] is None:
        raise ValueError(f"expected images of both classes for a ROC curve, got {metrics['images']} of one")
    prob, target = checked(prob_real, labels)
    false_rate, true_rate, _ = roc_curve(target.numpy(), prob.numpy())
    (true_fake, false_real), (missed_real, true_real) = metrics["confusion_matrix"]
    point = (false_real / (true_fake + false_real), true_real / (true_real + missed_real))

    figure = new_figure(6, 6)
    axes = figure.subplots()
    # the frame is where a good curve runs: nothing may be clipped there
    name = f"ROC, AUC {_area(metrics['auroc'])}"
    axes.plot(false_rate, true_rate, color=BLUE, linewidth=2, label=name, clip_on=False, zorder=3)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="Chance, AUC 0.5")
    axes.plot(*point, "o", color=VERMILION, markersize=8, label=f"Threshold {THRESHOLD:g}", clip_on=False, zorder=5)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("False positive rate (AI called REAL)")
    axes.set_ylabel("True positive rate (REAL called REAL)")
    axes.grid(True)
    axes.legend(loc="lower right", framealpha=1)
    if ZOOM_FROM_AUROC <= metrics["auroc"] < 1:
        _draw_corner(axes, false_rate, true_rate, point)
    set_title(axes, title, width=50)
    return figure


def _draw_corner(axes: Axes, false_rate: np.ndarray, true_rate: np.ndarray, point: tuple[float, float]) -> None:
    """The top left corner again, enlarged as far as the curve's knee (farthest from chance) lies well inside."""
    knee = np.argmax(true_rate - false_rate)
    side = max(0.01, 2 * false_rate[knee], 2 * (1 - true_rate[knee]))
    axes.add_patch(Rectangle((0.26, 0.26), 0.7, 0.68, facecolor="white", edgecolor="#CCCCCC", zorder=4))
    inset = axes.inset_axes((0.37, 0.335, 0.54, 0.54))
    inset.plot(false_rate, true_rate, color=BLUE, linewidth=2)
    inset.plot(*point, "o", color=VERMILION, markersize=8)
    inset.set(xlim=(0, side), ylim=(1 - side, 1))
    inset.locator_params(nbins=4)
    inset.tick_params(labelsize=9)
    inset.set_title("Top left corner", fontsize=11)
    inset.grid(True)


def _area(auroc: float) -> str:
    """Four decimals; what is not perfect is not printed as 1.0000."""
    return "> 0.9999" if 0.99995 <= auroc < 1 else f"{auroc:.4f}"
