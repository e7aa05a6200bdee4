"""Pictures of maps: 0 is the middle of the colours, both ways are named, pixels stay pixels, names are no formulas."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lightning_cifake.evaluation.heatmaps import COLOURS, Explained, draw_explained, explained_figure, sheet_figure


def explained(title: str = "a.png\nAI, P(REAL) 0.031", scale: float = 2.0, methods: tuple[str, ...] = ("occlusion",)):
    rows = np.linspace(-0.5, 1, 8)[:, None] * np.ones((1, 8))
    return Explained(title, np.full((8, 8, 3), 90, np.uint8), {method: scale * rows for method in methods})


def test_the_scale_is_as_wide_below_0_as_above_and_blue_is_towards_real() -> None:
    figure = explained_figure(explained(methods=("grad_cam", "occlusion")))
    image, cam, occlusion, *bars = figure.axes
    assert len(bars) == 2 and [axes.get_title() for axes in (image, cam)] == ["As the model sees it", "Grad-CAM"]
    drawn = occlusion.images[1]
    assert drawn.get_clim() == (-2, 2) and drawn.get_interpolation() == "nearest"
    assert [each.get_text() for each in bars[1].get_yticklabels()] == ["AI\n-2", "0", "REAL\n+2"]
    assert [each.get_text() for each in bars[0].get_yticklabels()] == ["AI", "0", "REAL"]  # Grad-CAM has no unit
    red, _, blue, _ = matplotlib.colormaps[COLOURS](1.0)
    assert blue > 2 * red


def test_a_map_of_zeros_and_a_name_with_a_formula_are_drawn(tmp_path: Path) -> None:
    draw_explained(explained(r"costs $5 and \frac $6.png", scale=0.0), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and picture.width > 500


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (7, (2, 6)), (12, (2, 6))])
def test_a_sheet_has_one_scale_and_a_map_below_each_image(count: int, shape: tuple[int, int]) -> None:
    figure = sheet_figure([explained(f"number {at}", scale=1 + at) for at in range(count)], "title")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 2 * count
    limits = {axes.images[1].get_clim() for axes in shown if len(axes.images) == 2}
    assert len(limits) == 1 and 0.9 * count < limits.pop()[1] <= count
    corners = [np.round(axes.get_position().bounds[:2], 6) for axes in shown]
    assert len({left for left, _ in corners}) == shape[1] and len({bottom for _, bottom in corners}) == 2 * shape[0]
    boxes = [axes.get_tightbbox() for axes in figure.axes]  # titles and the bars' words with them
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    with pytest.raises(ValueError, match="at least one image"):
        sheet_figure([], "title")
