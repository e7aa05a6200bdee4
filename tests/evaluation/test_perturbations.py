"""Each change is what it is called: nothing at its identity, known values elsewhere, and training's degradations."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from lightning_cifake.data import degrade
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.evaluation import perturbations as made

ALL = made.perturbations()


def pictures(count: int = 6, height: int = 32, width: int = 32) -> np.ndarray:
    """(N, H, W, 3) uint8, smooth enough for a file of quality 50."""
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in small])


def changed(change: made.Change, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return change(image, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (5, 90), (33, 47)])
def test_every_change_keeps_an_image_s_form_and_leaves_the_image_given_alone(size: tuple[int, int]) -> None:
    (image,) = pictures(1, *size)
    image = image.copy()
    before = image.copy()
    same = []
    for each in ALL:
        result = changed(each.change, image)
        assert result.shape == image.shape and result.dtype == np.uint8, each
        assert np.array_equal(image, before), each
        if np.array_equal(result, image):
            same.append(each.name)
    assert same == ["png"] or size == (1, 1)


def test_saving_as_png_changes_no_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 30, 3), np.uint8)
    (png,) = (each for each in ALL if each.name == "png")
    for image in (*noise, *pictures()):
        assert np.array_equal(changed(png.change, image), image)


@pytest.mark.parametrize(
    "change",
    [
        *(made.blur(0), made.noise(0), made.rescale(1), made.crop(1)),
        *(made.brightness(1), made.contrast(1), made.saturation(1), made.hue(0)),
    ],
)
def test_a_strength_that_stands_for_no_change_changes_nothing(change: made.Change) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    assert np.array_equal(changed(change, image), image)


def test_a_combination_without_its_other_steps_is_the_saving_that_is_left_of_it() -> None:
    (image,) = pictures(1)
    assert np.array_equal(changed(made.edited(0), image), changed(made.saved("JPEG", quality=85), image))
    assert np.array_equal(changed(made.messenger(1), image), changed(made.saved("JPEG", quality=70), image))


def test_light_contrast_and_colour_are_what_a_pocket_calculator_says() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    image[1] = 200
    assert changed(made.brightness(0.5), image)[:, 0, 0].tolist() == [50, 100]
    assert changed(made.brightness(1.5), image)[:, 0, 0].tolist() == [150, 255]
    assert changed(made.contrast(0.5), image)[:, 0, 0].tolist() == [125, 175]  # the mean is 150
    red = np.full((1, 1, 3), (200, 40, 60), np.uint8)
    luma = round(0.299 * 200 + 0.587 * 40 + 0.114 * 60)
    assert changed(made.saturation(0), red).ravel().tolist() == [luma] * 3
    assert changed(made.saturation(0.5), red).ravel() == pytest.approx([(x + luma) / 2 for x in (200, 40, 60)], abs=1)


def test_turned_colours_keep_their_light_come_back_after_a_whole_turn_and_leave_grey_alone() -> None:
    muted = np.random.default_rng(0).integers(100, 156, (8, 8, 3), np.uint8)  # nothing is clipped
    weights = np.array([0.213, 0.715, 0.072])
    turned = changed(made.hue(30), muted)
    assert np.abs(turned @ weights - muted @ weights).max() < 1 and np.abs(turned.astype(int) - muted).mean() > 3
    assert np.abs(changed(made.hue(-30), turned).astype(int) - muted).max() <= 2
    assert np.array_equal(changed(made.hue(360), muted), muted)
    grey = np.full((2, 2, 3), 77, np.uint8)
    assert np.array_equal(changed(made.hue(90), grey), grey)


def test_flips_and_the_middle_are_those_of_numpy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(changed(made.flip("horizontal"), image), image[:, ::-1])
    assert np.array_equal(changed(made.flip("vertical"), image), image[::-1])
    assert np.array_equal(changed(made.flip("both"), image), image[::-1, ::-1])
    image[5:15, 8:22] = 90
    assert (changed(made.crop(0.4), image) == 90).all() and not (changed(made.crop(0.8), image) == 90).all()


def test_noise_is_seeded_and_of_its_deviation() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    first, again, other = (changed(made.noise(4), grey, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.astype(float).std() == pytest.approx(4, rel=0.05) and abs(first.mean() - 128) < 0.2


@pytest.mark.parametrize("name", ["jpeg", "webp", "blur", "noise", "rescale", "edited"])
def test_of_one_name_the_strengths_stand_from_mild_to_strong(name: str) -> None:
    images = pictures()
    means = [
        np.mean([np.abs(changed(each.change, image).astype(int) - image).mean() for image in images])
        for each in ALL
        if each.name == name
    ]
    assert len(means) >= 3 and means == sorted(means)


def test_training_s_degradations_are_these_to_a_level_here_and_there() -> None:
    """The two are separate code: that they agree says that both do what they are called."""
    images = pictures(20)
    batch = to_float(torch.from_numpy(images))
    scalings = degrade.Scalings.of(32)

    def scaled(name: str) -> torch.Tensor:
        which = torch.full((20,), degrade.FILTERS.index(name) * len(degrade.SIDES) + degrade.SIDES.index(0.75))
        return degrade.rescale(batch, scalings, which, which)

    pairs = [
        (degrade.jpeg(batch, torch.full((20,), 70)), made.saved("JPEG", quality=70)),
        (degrade.jpeg(batch, torch.full((20,), 50)), made.saved("JPEG", quality=50)),
        (degrade.to_whole(degrade.blur(batch, torch.ones(20))), made.blur(1)),
        (scaled("bilinear"), made.rescale(0.75, Resampling.BILINEAR)),
        (scaled("bicubic"), made.rescale(0.75)),
    ]
    for result, change in pairs:
        here = np.stack([changed(change, image) for image in images]).astype(int)
        apart = np.abs(result.mul(255).round().permute(0, 2, 3, 1).numpy().astype(int) - here)
        assert (apart > 0).mean() < 0.05 and apart.mean() < 0.05


def test_the_page_names_every_change_and_its_strengths() -> None:
    page = (
        (Path(__file__).parents[2] / "docs" / "robustness.md")
        .read_text(encoding="utf-8")
        .split("## Larger pictures")[0]
    )
    told = {name: cell for name, cell in re.findall(r"^\| `([a-z]+)` \|.*\| ?([^|]*?) ?\|$", page, re.MULTILINE)}
    for name, (_, strengths) in made.FAMILIES.items():
        values = re.findall(r"-?[\d.]*\d|horizontal|vertical|both", told[name])
        assert values == [str(each) for each in strengths if each is not None], name
