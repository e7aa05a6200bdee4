"""The drawings of a page: a point stands where its values say, and a curve loses nothing that can be seen."""

import re

import numpy as np
import pytest

from lightning_cifake.assessment.page_drawings import (
    MOST_POINTS,
    Axis,
    Dot,
    Drawer,
    Line,
    log_share_axis,
    share_axis,
    thinned,
)

LEFT, RIGHT, TOP, BOTTOM = 50.0, 348.0, 10.0, 256.0  # of the frame


def places(svg: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'<path class="line a" d="M([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (point.split() for point in path.split("L"))]


def test_values_stand_where_the_axes_say() -> None:
    line = Line([(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)])
    found = places(Drawer().chart("a", "b", share_axis("x"), share_axis("y"), [line]))
    wanted = [(LEFT, BOTTOM), (LEFT + 74.5, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    assert np.array(found) == pytest.approx(np.array(wanted), abs=0.06)


def test_a_logarithmic_axis_gives_each_tenth_the_same_room_and_what_is_below_it_stands_at_its_end() -> None:
    x = log_share_axis("x", 0.001)
    assert [text for _, text in x.ticks] == ["0.1", "1", "10", "100"]
    assert [x.place(value) for value in (0, 0.001, 0.01, 0.1, 1)] == pytest.approx([0, 0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("low", "begins"), [(0.0, 0.0), (0.5, 0.5), (0.83, 0.82), (0.97, 0.97), (0.999, 0.995)])
def test_an_axis_of_shares_begins_at_a_round_one_that_leaves_nothing_out(low: float, begins: float) -> None:
    axis = share_axis("y", low)
    assert axis.low == pytest.approx(begins) and axis.high == 1 and axis.place(low) >= 0
    assert all("." not in text or len(text) <= 4 for _, text in axis.ticks)


def test_a_curve_of_stairs_keeps_its_corners_alone() -> None:
    stairs = [(0, 0), (0, 1), (0, 2), (0, 2), (5, 2), (9, 2), (9, 4)]
    assert thinned(stairs) == [(0, 0), (0, 2), (9, 2), (9, 4)]


def test_a_long_curve_is_as_near_as_a_point_can_be_seen() -> None:
    x = np.linspace(0, 300, 20_000)
    curve = 300 * (x / 300) ** 3
    kept = thinned(list(zip(x.tolist(), curve.tolist(), strict=True)))
    assert len(kept) <= MOST_POINTS and kept[0] == (0, 0) and kept[-1] == (300, 300)
    assert np.abs(np.interp(x, *np.array(kept).T) - curve).max() < 0.3


def test_charts_of_a_page_have_ids_of_their_own_and_text_stays_text() -> None:
    drawer = Drawer()
    axes = (share_axis("x"), Axis("<y>", 0, 2, [(1, "<1>")]))
    first, second = (drawer.chart("<t>", "&", *axes, dots=[Dot(0.5, 1, "<d>")]) for _ in range(2))
    assert 'id="t1"' in first and 'id="t2"' in second
    for part in ("&lt;t&gt;", "&lt;y&gt;", "&lt;1&gt;", "&lt;d&gt;", '<desc id="d1">&amp;</desc>'):
        assert part in first
