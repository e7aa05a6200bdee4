"""The reliability diagram: its points are the bins', no text lies on another, and the file is whole."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lightning_cifake.evaluation.figures import curves_of
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.evaluation.reliability import plot_reliability, reliability_figure


def told(images: int, threshold: float = 0.4) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, images)
    return Predictions("m", [""] * images, labels, np.float32(rng.normal(2 * labels - 1, 1)), threshold)


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and len(text.get_text()) > 6]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(a, b) for at, (a, one) in enumerate(boxes) for b, other in boxes[at + 1 :] if one.overlaps(other)]


def test_each_panel_holds_its_bins_and_its_threshold() -> None:
    before, after = told(500), told(30, 0.7)
    figure = reliability_figure({"Before": before, "After": after}, "a $model$ on images")
    assert overlapping(figure) == []
    for axes, predictions in zip(figure.axes[:2], (before, after), strict=True):
        bins = curves_of(predictions)["reliability"]["bins"]
        points = axes.containers[0].lines[0].get_xydata()
        assert points.tolist() == [[each["mean_prob_real"], each["share_real"]] for each in bins]
        (line,) = (line for line in axes.lines if line.get_label() == "Threshold: REAL above")
        assert list(line.get_xdata()) == [predictions.threshold] * 2
    counts = [bar.get_height() for bar in figure.axes[2].patches]
    assert sum(counts) == 500 and "ECE 0." in figure.axes[0].get_title()


def test_a_picture_of_one_image_is_a_whole_file(tmp_path: Path) -> None:
    plot_reliability({"Before": told(1)}, tmp_path / "a.png", "one")
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
