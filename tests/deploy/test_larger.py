"""What is looked at of a larger picture: all of it scaled, its middle, or tiles whose mean logit decides."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data.resize import Picture, of_array, resize_square
from lightning_cifake.deploy.larger import LARGER, TILES, Tiled, under
from lightning_cifake.deploy.stream import stream
from lightning_cifake.errors import UserError

S = 32


def grey(level: int, height: int = S, width: int = S) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def logit(level: float) -> float:
    return 8 * (level / 255 - 0.5)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


class Edges:
    """Calls REAL what differs from pixel to pixel, as a photograph's grain does: scaling takes it away."""

    image_size, threshold = S, 0.5
    given = 0

    def prepare(self, picture: Picture) -> np.ndarray:
        return resize_square(picture, S)

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.given = max(self.given, len(images))
        return np.array([np.abs(np.diff(image.astype(float), axis=1)).mean() - 20 for image in images], np.float32)

    def prob_real(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return 1 / (1 + np.exp(-self.logits(images)))


@pytest.fixture
def detector(make_model: Callable[..., Path]) -> Detector:
    return Detector(make_model())


@pytest.mark.parametrize("larger", LARGER)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (33, 47), (20, 90), (31, 31), (100, 120)])
def test_a_constant_picture_has_one_answer_whatever_is_looked_at(
    larger: str, size: tuple[int, int], detector: Detector
) -> None:
    (answer,) = detector.predict(grey(200, *size), larger=larger)
    (alone,) = detector.predict(grey(200))
    assert answer.prob_real == pytest.approx(alone.prob_real, abs=1e-7)
    assert (answer.warning is None) == (size == (32, 32))


def test_the_answer_is_the_middle_s_or_of_the_mean_of_the_tiles_logits(detector: Detector) -> None:
    levels = [[250, 30, 200], [90, 140, 60], [10, 220, 180]]
    mosaic = np.block([[[grey(level)] for level in row] for row in levels])
    answers = {larger: detector.predict(mosaic, larger=larger)[0] for larger in LARGER}
    assert answers["crop"].prob_real == pytest.approx(sigmoid(logit(140)), abs=1e-6)
    assert answers["tiles"].prob_real == pytest.approx(sigmoid(np.mean([logit(x) for x in np.ravel(levels)])), abs=1e-6)
    assert answers["crop"].warning == "96x96, trained on 32x32: its middle alone is looked at"
    assert answers["tiles"].warning == "96x96, trained on 32x32: 9 tiles of that size vote"
    assert "scaled down" in str(answers["resize"].warning)


def test_what_scaling_takes_away_is_found_in_tiles_and_in_the_middle() -> None:
    """Mosaics of patches of one class, so that the right answer is known: of the grainy ones, and of the smooth."""
    draws = np.random.default_rng(0)
    checks = np.where(np.indices((8 * S, 8 * S)).sum(0) % 2, 40, -40)[..., None]
    smooth = [np.kron(draws.integers(40, 216, (8, 8, 3), np.uint8), np.ones((S, S, 1), np.uint8)) for _ in range(4)]
    grainy = [(each + checks).astype(np.uint8) for each in smooth]
    found = {larger: [each.verdict for each in stream(Edges(), [*grainy, *smooth], larger=larger)] for larger in LARGER}
    assert found["crop"] == found["tiles"] == ["REAL"] * 4 + ["AI"] * 4
    resized = [each.prob_real for each in stream(Edges(), [*grainy, *smooth], larger="resize")]
    assert resized[:4] == pytest.approx(resized[4:])  # the grain is gone


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (60, 100), (95, 65), (128, 128), (40, 250), (250, 40)])
def test_tiles_cover_a_picture_where_so_many_are_allowed(size: tuple[int, int]) -> None:
    rows, columns = Tiled(Edges(), TILES)._grid(*size) or ([], [])
    assert 0 < len(rows) * len(columns) <= TILES
    seen = np.zeros(size, bool)
    for top in rows:
        for left in columns:
            assert 0 <= top <= size[0] - S and 0 <= left <= size[1] - S
            seen[top : top + S, left : left + S] = True
    assert seen.all()


@pytest.mark.parametrize(("size", "grid"), [((3000, 3000), (4, 4)), ((1000, 4000), (2, 8)), ((4000, 64), (16, 1))])
def test_of_a_large_picture_sixteen_tiles_are_spread_evenly(size: tuple[int, int], grid: tuple[int, int]) -> None:
    found = Tiled(Edges(), TILES)._grid(*size)
    assert found is not None and tuple(map(len, found)) == grid
    for length, offsets in zip(size, found, strict=True):
        assert len({int(step) for step in np.diff(offsets)}) <= 2  # a pixel more or less
        assert abs(offsets[0] - (length - S - offsets[-1])) <= 1  # as far from either end


def test_a_picture_without_room_for_a_tile_is_scaled_and_says_so(detector: Detector) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 90, 3), np.uint8)
    resized, *others = (detector.predict(picture, larger=larger) for larger in LARGER)
    assert others == [resized] * 2 and "scaled up" in str(resized[0].warning)


def test_the_model_is_given_a_few_tiles_at_a_time_and_holds_no_picture() -> None:
    edges = Edges()
    band = np.random.default_rng(0).integers(0, 256, (S, 20_000, 3), np.uint8)
    read: list[int] = []

    def rows(first: int, end: int) -> np.ndarray:
        read.append(end - first)
        return band[: end - first]

    prepared = under(edges, "tiles").prepare(Picture(20_000, 20_000, rows))
    assert prepared.shape == (TILES, S, S, 3) and prepared.base is None
    assert sum(read) == 4 * S  # of 20,000 rows
    tracemalloc.start()
    answers = list(stream(edges, (band for _ in range(40)), batch_size=32, larger="tiles"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(answers) == 40 and edges.given <= 64
    assert peak < 3 * 2**20 + 32 * TILES * S * S * 3 + 64 * S * S * 3 * 8


def test_a_checkpoint_s_tiles_are_those_of_any_model(tiny_network: type) -> None:
    from lightning_cifake.deploy.predict import ClassifierModel
    from lightning_cifake.training.classifier import FakeImageClassifier

    model = ClassifierModel(FakeImageClassifier(tiny_network()))
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    tiles = [picture[top : top + S, left : left + S] for top in (0, 32) for left in (0, 32, 64)]
    expected = {
        "resize": model.prob_real([picture])[0],
        "crop": model.prob_real([picture[16:48, 32:64]])[0],
        "tiles": sigmoid(model.logits(tiles).mean()),
    }
    assert len({round(prob, 6) for prob in expected.values()}) == 3
    for larger, prob in expected.items():
        (answer,) = stream(model, picture, larger=larger)
        assert answer.prob_real == pytest.approx(prob, abs=1e-6)


def test_predict_takes_the_policy_and_refuses_another(
    workplace: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(make_model())
    mosaic = np.block([[[grey(250)], [grey(0)], [grey(0)]]] * 2 + [[[grey(0)], [grey(0)], [grey(250)]]])
    mosaic[S : 2 * S, S : 2 * S] = 250
    Image.fromarray(mosaic).save("mosaic.png")
    said = {}
    for larger in LARGER:
        assert main(["predict", "--model", model, "mosaic.png", "--larger", larger]) == 0
        said[larger] = capsys.readouterr().out.split("\t")[1]
    assert said == {"resize": "AI", "crop": "REAL", "tiles": "AI"}
    assert main(["predict", "--model", model, "mosaic.png", "--larger", "middle"]) == 2
    assert "expected one of resize, crop, tiles" in capsys.readouterr().err
    with pytest.raises(UserError, match="larger: expected one of resize, crop, tiles, got 'middle'"):
        Detector(model).predict(mosaic, larger="middle")


def test_an_array_s_pixels_are_those_that_were_there_at_the_call(detector: Detector) -> None:
    def refilled():
        array = grey(0, 64, 64)
        for level in (0, 100, 255):
            array[:] = level
            yield array

    answers = [answer.prob_real for answer in detector.predict(refilled(), larger="tiles")]
    assert answers == pytest.approx([sigmoid(logit(level)) for level in (0, 100, 255)], abs=1e-6)
    assert np.array_equal(under(Edges(), "crop").prepare(of_array(grey(7, 40, 40)))[0], grey(7))
