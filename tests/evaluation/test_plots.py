"""The pictures: what their axes hold, that no text lies on another, and that files are whole."""

import itertools

import cv2
import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_cifake.evaluation import plots
from lightning_cifake.evaluation.metrics import binary_metrics

pytestmark = pytest.mark.usefixtures("drawn_pictures")
HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 0.6 * 0.8**epoch,
        "train_accuracy": 0.95 - 0.3 * 0.7**epoch,
        "val_loss": 0.7 * 0.85**epoch,
        "val_accuracy": 0.92 - 0.25 * 0.7**epoch,
    }
    for epoch in range(10)
]


def outputs(separation: float, images: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of two normal classes 2 x separation apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, images)
    score = random.normal(size=images) + separation * (2 * labels - 1)
    return np.float32(1 / (1 + np.exp(-2 * separation * score))), labels


def lines(axes) -> dict[str, tuple[list, list]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def overlapping_texts(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    outside = {  # ticks that matplotlib keeps beyond the limits and does not draw
        text
        for axis in figure.findobj(Axis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for text in (tick.label1, tick.label2)
    }
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in outside
    ]
    return [
        (a, b)
        for (a, one), (b, other) in itertools.combinations(boxes, 2)
        if one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1
    ]


def test_the_history_shows_every_epoch_from_one_on_and_marks_the_best():
    accuracy, loss = plots._history_figure(HISTORY, best_epoch=6).axes
    for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
        drawn = lines(axes)
        assert drawn["Train"] == (list(range(1, 11)), [epoch[f"train_{name}"] for epoch in HISTORY])
        assert drawn["Validation"] == (list(range(1, 11)), [epoch[f"val_{name}"] for epoch in HISTORY])
        assert drawn["Best epoch: 7"][0] == [7, 7]
        assert axes.get_ylabel() == name.capitalize()


def test_without_validation_there_is_no_validation_curve():
    train_only = [{key: value for key, value in epoch.items() if not key.startswith("val")} for epoch in HISTORY]
    assert [set(lines(axes)) for axes in plots._history_figure(train_only).axes] == [{"Train"}, {"Train"}]


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "absent"])
def test_a_missing_value_leaves_a_gap_in_its_place(missing):
    history = [dict(epoch) for epoch in HISTORY[:3]]
    history[1]["val_loss"] = missing
    if missing == "absent":
        del history[1]["val_loss"]
    values = lines(plots._history_figure(history).axes[1])["Validation"][1]
    assert np.isfinite(values).tolist() == [True, False, True]


@pytest.mark.parametrize("epochs", [1, 2, 10, 100])
def test_the_epoch_axis_has_whole_numbers_of_epochs_that_were(epochs):
    history = [{**HISTORY[0], "epoch": epoch} for epoch in range(epochs)]
    for axes in plots._history_figure(history).axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)


def test_an_empty_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch"):
        plots.plot_history([], tmp_path / "history.png")


def test_the_heatmap_has_counts_and_row_percentages_with_truth_on_y():
    figure = plots._confusion_figure([[9412, 588], [73, 927]], "Confusion matrix")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["9,412\n94.12%", "588\n5.88%", "73\n7.30%", "927\n92.70%"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["AI", "REAL"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["AI", "REAL"]
    assert axes.yaxis_inverted()  # AI on top, as in the matrix
    assert axes.images[0].get_array().ravel().tolist() == pytest.approx([94.12, 5.88, 7.3, 92.7])


def test_a_class_without_images_has_counts_and_no_percentages():
    axes = plots._confusion_figure([[0, 0], [1, 2]], "one class").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "0", "1\n33.33%", "2\n66.67%"]


@pytest.mark.parametrize("matrix", [[[1, 2, 3], [4, 5, 6]], [1, 2]])
def test_a_matrix_that_is_not_two_by_two_is_refused(matrix, tmp_path):
    with pytest.raises(ValueError, match="2x2"):
        plots.plot_confusion_matrix(matrix, tmp_path / "matrix.png", "title")


def test_the_roc_curve_has_its_area_and_the_operating_point():
    prob, labels = outputs(0.8)
    metrics = binary_metrics(prob, labels)
    drawn = lines(plots._roc_figure(prob, labels, "ROC").axes[0])
    false_rate, true_rate = drawn[f"ROC, AUC {metrics['auroc']:.4f}"]
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(metrics["auroc"], abs=1e-6)
    assert drawn["Threshold 0.5"][1] == [metrics["recall"]]
    assert drawn["Threshold 0.5"][0] == [np.mean(prob[labels == 0] > 0.5)]
    assert drawn["Chance, AUC 0.5"] == ([0, 1], [0, 1])


def test_a_curve_along_the_frame_is_enlarged_around_its_knee():
    prob, labels = outputs(2.3)
    (inset,) = plots._roc_figure(prob, labels, "ROC").axes[0].child_axes
    (curve, point) = inset.lines
    assert inset.get_xlim()[1] < 0.1 and inset.get_ylim()[0] > 0.9
    assert inset.get_xlim()[0] <= point.get_xdata()[0] < inset.get_xlim()[1]
    assert inset.get_ylim()[0] < point.get_ydata()[0] <= inset.get_ylim()[1]
    assert len(curve.get_xdata()) > 2


@pytest.mark.parametrize("separation", [0.4, 1.1])
def test_a_curve_that_can_be_read_is_not_enlarged(separation):
    assert not plots._roc_figure(*outputs(separation), "ROC").axes[0].child_axes


@pytest.mark.parametrize(("area", "text"), [(0.7, "0.7000"), (0.99994, "0.9999"), (0.99997, "> 0.9999"), (1, "1.0000")])
def test_an_area_below_one_is_not_printed_as_one(area, text):
    assert plots._area(area) == text


@pytest.mark.parametrize("label", [0, 1])
def test_a_roc_of_one_class_is_refused_and_leaves_nothing(label, tmp_path):
    with pytest.raises(ValueError, match="both classes"):
        plots.plot_roc([0.1, 0.9], [label] * 2, tmp_path / "roc.png", "ROC")
    assert not list(tmp_path.iterdir())


FIGURES = {
    "history of ten": lambda: plots._history_figure(HISTORY, 6),
    "history of one": lambda: plots._history_figure(HISTORY[:1], 0),
    "large matrix": lambda: plots._confusion_figure([[9412, 588], [731, 9269]], "Confusion matrix, 20,000 images"),
    "tiny matrix": lambda: plots._confusion_figure([[0, 0], [1, 0]], "A title of many words, long enough to wrap " * 2),
    "poor ROC": lambda: plots._roc_figure(*outputs(0.4), "ROC curve"),
    "near-perfect ROC": lambda: plots._roc_figure(*outputs(2.3), "ROC curve"),
    "perfect ROC": lambda: plots._roc_figure([0.1, 0.9], [0, 1], "ROC curve"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_lies_on_another(name):
    with plots.matplotlib.rc_context(plots.STYLE):
        assert not overlapping_texts(FIGURES[name]())


def test_texts_that_do_overlap_are_noticed():
    figure = plots._roc_figure([0.1, 0.9], [0, 1], "ROC curve")
    figure.axes[0].text(0, 0.58, "across the ticks", ha="center")
    assert ("across the ticks", "0.6") in [tuple(sorted(pair, reverse=True)) for pair in overlapping_texts(figure)]


def test_a_dollar_sign_in_a_title_is_no_formula():
    assert plots._roc_figure([0.1, 0.9], [0, 1], r"costs $5 and \frac $6").axes[0].title.get_parse_math() is False


def test_the_files_are_pictures_large_enough_to_print_and_pyplot_is_left_alone(tmp_path):
    from matplotlib import pyplot

    settings = dict(plots.matplotlib.rcParams)
    plots.plot_history(HISTORY, tmp_path / "new" / "history.png", 3)
    plots.plot_confusion_matrix([[3, 0], [1, 2]], tmp_path / "matrix.png", "Confusion matrix")
    plots.plot_roc(*outputs(1.0), tmp_path / "roc.png", "ROC curve")
    shapes = [cv2.imread(str(path)).shape for path in sorted(tmp_path.rglob("*.png"))]
    assert len(shapes) == 3 and all(height > 800 and width > 1000 for height, width, _ in shapes)
    assert not pyplot.get_fignums() and dict(plots.matplotlib.rcParams) == settings
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3  # no temporary is left


def test_a_picture_that_fails_leaves_the_old_one_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "roc.png"
    path.write_bytes(b"old")

    def fail(self, file, **kwargs):
        file.write(b"half")
        raise MemoryError

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(MemoryError):
        plots.plot_roc([0.1, 0.9], [0, 1], path, "ROC")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("roc.png", b"old")]
