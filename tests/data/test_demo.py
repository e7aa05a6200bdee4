import re
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_cifake.data import demo
from lightning_cifake.data.demo import CELL, DemoImages, make_demo
from lightning_cifake.errors import UserError


@pytest.fixture(scope="module")
def images() -> DemoImages:
    return make_demo()


def test_two_calls_give_the_same_bits_and_leave_the_global_random_state_alone(images: DemoImages) -> None:
    np.random.seed(5)  # noqa: NPY002 - the global state is what this test is about
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    again = make_demo()
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
    assert again.images.tobytes() == images.images.tobytes()
    assert again.labels.tobytes() == images.labels.tobytes()
    assert again.regions.tobytes() == images.regions.tobytes()
    assert again.names == images.names


def test_about_two_thousand_images_half_of_them_real(images: DemoImages) -> None:
    n = len(images.names)
    assert 1800 <= n <= 2200
    assert images.images.shape == (n, 32, 32, 3) and images.images.dtype == np.uint8
    assert images.labels.shape == (n,) and images.labels.dtype == np.uint8
    assert images.regions.shape == (n,) and images.regions.dtype == np.int64
    assert np.bincount(images.labels).tolist() == [n // 2, n // 2]


def test_names_are_unique_relative_paths_sorted_as_a_folder_is_and_say_the_label(images: DemoImages) -> None:
    assert len(set(images.names)) == len(images.names)
    assert images.names == sorted(images.names)
    assert all(re.fullmatch(r"(FAKE|REAL)/(china|flower|hopper)-r\d\d-c\d\d-\d\d\.png", name) for name in images.names)
    assert [name.startswith("REAL/") for name in images.names] == (images.labels == 1).tolist()


def test_no_two_images_are_the_same_picture(images: DemoImages) -> None:
    assert len({image.tobytes() for image in images.images}) == len(images.names)


def test_a_fake_lies_in_the_region_of_its_real_twin(images: DemoImages) -> None:
    region = dict(zip(images.names, images.regions.tolist(), strict=True))
    real = [name for name in images.names if name.startswith("REAL/")]
    assert all(region[name] == region[name.replace("REAL/", "FAKE/")] for name in real)


def test_a_region_is_one_cell_of_one_photo(images: DemoImages) -> None:
    cells = [name.split("/")[1].rsplit("-", 1)[0] for name in images.names]
    pairs = set(zip(cells, images.regions.tolist(), strict=True))
    assert len(pairs) == len(set(cells)) == len(set(images.regions.tolist()))


@pytest.mark.parametrize("shape", [(427, 640), (600, 512), (96, 96), (191, 97)])
def test_no_two_cells_share_a_pixel_of_the_photo(shape: tuple[int, int]) -> None:
    pixel_ids = np.arange(shape[0] * shape[1]).reshape(*shape, 1)
    cells = [cell.ravel().tolist() for _, cell in demo._cells(pixel_ids)]  # type: ignore[arg-type]
    assert len(cells) == (shape[0] // CELL) * (shape[1] // CELL)
    assert all(len(cell) == CELL * CELL for cell in cells)
    assert len({pixel for cell in cells for pixel in cell}) == len(cells) * CELL * CELL


def test_a_full_resolution_real_image_is_a_piece_of_its_cell_of_the_photograph(images: DemoImages) -> None:
    photo = next(
        p for p, f in zip(load_sample_images().images, load_sample_images().filenames, strict=True) if "china" in f
    )
    top, left = (427 - 4 * CELL) // 2 + 2 * CELL, (640 - 6 * CELL) // 2 + 3 * CELL
    image = images.images[images.names.index("REAL/china-r02-c03-04.png")]
    np.testing.assert_array_equal(image, photo[top + 32 : top + 64, left + 32 : left + 64])


def test_a_fake_is_made_from_its_twin_and_keeps_its_low_resolution(images: DemoImages) -> None:
    fake, real = (images.images[images.labels == label].astype(float) for label in (0, 1))
    far = np.abs(_block_means(fake, 8) - _block_means(real, 8)).mean(axis=(1, 2, 3))
    assert np.median(far) < 3  # grey levels
    assert np.abs(fake - real).mean(axis=(1, 2, 3)).min() > 1  # and yet no fake is its twin


def test_a_linear_model_on_raw_pixels_is_near_chance_on_held_out_regions(images: DemoImages) -> None:
    pixels = images.images.reshape(len(images.names), -1) / 255.0
    assert max(_held_out_accuracy(pixels, images, c) for c in (1e-4, 1e-2)) <= 0.65


def test_a_linear_model_on_the_logarithm_of_the_spectrum_tells_the_two_apart(images: DemoImages) -> None:
    assert _held_out_accuracy(_log_spectrum(images.images), images, 1.0) > 0.8


def test_the_photographs_are_those_that_their_packages_open() -> None:
    bunch = load_sample_images()
    expected = {Path(name).stem: image for name, image in zip(bunch.filenames, bunch.images, strict=True)}
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        expected["hopper"] = np.asarray(image.convert("RGB"))
    found = demo._photos()
    assert [*found] == [*expected]
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_photograph_that_is_not_installed_is_a_one_line_user_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder_of = demo._folder_of
    monkeypatch.setattr(demo, "_folder_of", lambda name: tmp_path if name == "matplotlib" else folder_of(name))
    with pytest.raises(UserError, match="grace_hopper") as caught:
        make_demo()
    assert "\n" not in str(caught.value)


def test_names_and_pixels_survive_being_written_as_files(images: DemoImages, tmp_path: Path) -> None:
    for i in (0, len(images.names) - 1):
        path = tmp_path / images.names[i]
        path.parent.mkdir()
        Image.fromarray(images.images[i]).save(path)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), images.images[i])


def _held_out_accuracy(features: np.ndarray, images: DemoImages, c: float) -> float:
    """Accuracy of logistic regression on the 30 % of the regions that it was not fitted to."""
    regions = np.random.default_rng(0).permutation(np.unique(images.regions))
    train = np.isin(images.regions, regions[: int(0.7 * len(regions))])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    model.fit(features[train], images.labels[train])
    return float(model.score(features[~train], images.labels[~train]))


def _log_spectrum(images: np.ndarray) -> np.ndarray:
    """(N, 22) log power of the grey image, averaged over rings of equal spatial frequency (Durall et al. 2020)."""
    grey = images.mean(axis=3)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) * np.outer(np.hanning(32), np.hanning(32))
    power = np.fft.fftshift(np.abs(np.fft.fft2(grey)) ** 2, axes=(1, 2))
    y, x = np.mgrid[-16:16, -16:16]
    ring = np.hypot(y, x).astype(int)
    return np.log1p(np.stack([power[:, ring == r].mean(axis=1) for r in range(22)], axis=1))


def _block_means(images: np.ndarray, size: int) -> np.ndarray:
    n = len(images)
    return images.reshape(n, 32 // size, size, 32 // size, size, 3).mean(axis=(2, 4))
