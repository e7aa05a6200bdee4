import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import MixUp

from lightning_cifake.data import augment
from lightning_cifake.data.augment import (
    Augmentation,
    Flips,
    PublishedAugmentation,
    adjust_brightness,
    adjust_contrast,
    cut_out,
    flip,
    mix,
    rotate_and_zoom,
    shift,
)
from lightning_cifake.data.datamodule import to_float

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def pictures(count: int = 16, dtype: torch.dtype = torch.float32, size: int = 8) -> Tensor:
    """(N, 3, S, S) in [0, 1], channels last in memory, as the data module hands them over."""
    values = np.random.default_rng(0).random((count, size, size, 3))
    return torch.from_numpy(values).to(dtype).permute(0, 3, 1, 2)


def draws(images: Tensor, seed: int, per_image: bool) -> tuple[np.ndarray, ...]:
    """What the augmentation draws, drawn here: flips, brightness and contrast as arrays."""
    torch.manual_seed(seed)
    count = len(images)
    each = count if per_image else 1
    uniform = torch.rand(2 * count + 2 * each).double().numpy()
    left_right, up_down = uniform[:count] < 0.5, uniform[count : 2 * count] < 0.5
    return left_right, up_down, 0.2 * uniform[2 * count :][:each] - 0.1, 0.9 + 0.2 * uniform[-each:]


@dtypes
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_each_image_is_flipped_as_chosen(dtype: torch.dtype, choices: list[tuple[bool, bool]]) -> None:
    images = pictures(len(choices), dtype)
    flipped = flip(images, torch.tensor([c[0] for c in choices]), torch.tensor([c[1] for c in choices]))
    for image, result, (left_right, up_down) in zip(images.numpy(), flipped.numpy(), choices, strict=True):
        image = image[:, :, ::-1] if left_right else image
        assert np.array_equal(result, image[:, ::-1] if up_down else image)


@dtypes
def test_brightness_adds_and_does_not_clip(dtype: torch.dtype) -> None:
    images = pictures(4, dtype)
    for delta in ([0.1], [-0.1, 0.0, 0.05, 0.1]):
        ours = adjust_brightness(images, torch.tensor(delta, dtype=dtype))
        theirs = images.numpy() + np.array(delta, images.numpy().dtype).reshape(-1, 1, 1, 1)
        assert np.array_equal(ours.numpy(), theirs) and ours.dtype == dtype
    assert ours.max() > 1


@dtypes
def test_contrast_scales_about_each_images_mean_of_each_channel_and_does_not_clip(dtype: torch.dtype) -> None:
    images = pictures(4, dtype)
    images[0, 0, :4] = 1
    images[0, 0, 4:] = 0
    for factor in ([1.1], [0.9, 1.0, 1.05, 1.1], [1.1, 1.0, 1.05, 0.9]):
        ours = adjust_contrast(images, torch.tensor(factor, dtype=dtype)).numpy()
        exact = images.double().numpy()
        mean = exact.mean(axis=(2, 3), keepdims=True)
        theirs = (exact - mean) * np.array(factor).reshape(-1, 1, 1, 1) + mean
        np.testing.assert_allclose(ours, theirs, atol=1e-6 if dtype == torch.float32 else 1e-14)
        assert ours.dtype == images.numpy().dtype
    assert ours.min() < 0 and ours.max() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 5])
def test_images_that_lie_channels_last_get_the_bits_of_those_that_do_not(count: int, dtype: torch.dtype) -> None:
    images = pictures(count, dtype)
    other = images.clone(memory_format=torch.contiguous_format)
    generator = torch.Generator().manual_seed(count)
    choices = torch.rand(2, count, generator=generator) < 0.5
    assert torch.equal(flip(images, *choices), flip(other, *choices))
    for draws_of_factor in (1, count):
        factor = (torch.rand(draws_of_factor, generator=generator) * 0.2 + 0.9).to(dtype)
        means = images.mean(dim=(2, 3), keepdim=True)
        expected = (images - means) * factor[:, None, None, None] + means
        found = adjust_contrast(images, factor)
        assert torch.equal(found, expected) and found.stride() == expected.stride()


@dtypes
@pytest.mark.parametrize("per_image", [False, True])
def test_the_whole_is_flips_then_brightness_then_contrast(dtype: torch.dtype, per_image: bool) -> None:
    images = pictures(dtype=dtype)
    left_right, up_down, delta, factor = draws(images, 7, per_image)
    torch.manual_seed(7)
    ours = PublishedAugmentation(per_image)(images)
    theirs = images.double().numpy().copy()
    theirs[left_right] = theirs[left_right][..., ::-1]
    theirs[up_down] = theirs[up_down][..., ::-1, :]
    theirs += delta.reshape(-1, 1, 1, 1)
    mean = theirs.mean(axis=(2, 3), keepdims=True)
    theirs = (theirs - mean) * factor.reshape(-1, 1, 1, 1) + mean
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6 if dtype == torch.float32 else 1e-7)
    assert ours.dtype == dtype and ours.shape == images.shape


def shifts_and_scales(images: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness shift and contrast factor of each image: flips change neither mean nor deviation."""
    shift = result.mean((1, 2, 3)) - images.mean((1, 2, 3))
    return shift, result.std((2, 3))[:, 0] / images.std((2, 3))[:, 0]


@pytest.mark.parametrize("per_image", [False, True])
def test_brightness_and_contrast_are_one_draw_a_batch_unless_asked_per_image(per_image: bool) -> None:
    images = pictures(dtype=torch.float64)
    shift, scale = shifts_and_scales(images, PublishedAugmentation(per_image)(images))
    for values in (shift, scale):
        assert (values.std() > 1e-3) == per_image
        assert per_image or values.std() < 1e-9


def test_draws_fill_their_bounds_and_stay_inside() -> None:
    images = pictures(4000, torch.float64, size=4)
    shift, scale = shifts_and_scales(images, PublishedAugmentation(per_image=True)(images))
    for values, low, high in ((shift, -0.1, 0.1), (scale, 0.9, 1.1)):
        assert low - 1e-6 <= values.min() < low + 0.002 and high - 0.002 < values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 0.005


def test_each_image_draws_its_own_flips_and_all_four_kinds_come_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(augment, "flip", lambda images, *choices: seen.append(torch.stack(choices)) or images)
    PublishedAugmentation()(pictures(4000, size=1))
    kinds = np.bincount((seen[0][0] * 2 + seen[0][1]).numpy(), minlength=4)
    assert kinds.min() > 850 and len(kinds) == 4


@pytest.mark.parametrize("settings", [{}, {"per_image": True}, {"rotation": 20.0, "zoom": 0.1}])
def test_the_same_seed_augments_alike_and_another_does_not(settings: dict[str, float]) -> None:
    images, results = pictures(), []
    before = images.clone()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(PublishedAugmentation(**settings)(images))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(images, before)


@pytest.mark.parametrize("settings", [{}, {"per_image": True}, {"rotation": 20.0, "zoom": 0.1}])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@dtypes
def test_memory_layout_and_dtype_are_kept(
    settings: dict[str, float], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    images = pictures(dtype=dtype).contiguous(memory_format=layout)
    result = PublishedAugmentation(**settings)(images)
    assert result.is_contiguous(memory_format=layout) and result.dtype == dtype and result.shape == images.shape


def test_without_rotation_and_zoom_nothing_is_sampled_and_nothing_more_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(augment, "rotate_and_zoom", never)
    images = pictures()
    torch.manual_seed(4)
    PublishedAugmentation()(images)
    after = torch.rand(1)
    torch.manual_seed(4)
    torch.rand(2 * len(images) + 2)
    assert torch.equal(after, torch.rand(1))
    with pytest.raises(AssertionError, match="sampled"):
        PublishedAugmentation(rotation=1)(images)
    with pytest.raises(AssertionError, match="sampled"):
        PublishedAugmentation(zoom=0.1)(images)


@dtypes
@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1])
def test_turning_by_right_angles_moves_whole_pixels(dtype: torch.dtype, turns: int) -> None:
    images = pictures(3, dtype)
    angle = torch.full((3,), 90.0 * turns)
    turned = rotate_and_zoom(images, angle, torch.ones(3))
    torch.testing.assert_close(turned, torch.rot90(images, turns, (2, 3)), atol=1e-5, rtol=0)


def test_a_zoom_of_two_shows_the_middle_twice_as_large() -> None:
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 3, 64, 64)
    zoomed = rotate_and_zoom(ramp, torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64))
    middle = (63 / 2 + (torch.arange(64, dtype=torch.float64) - 63 / 2) / 2) / 63
    torch.testing.assert_close(zoomed[0, 0, 5], middle)


@given(st.floats(-180, 180), st.floats(0.5, 1.5), st.floats(0, 1))
def test_an_even_surface_stays_even_however_turned_and_zoomed(degrees: float, zoom: float, value: float) -> None:
    images = torch.full((1, 3, 8, 8), value)
    result = rotate_and_zoom(images, torch.tensor([degrees]), torch.tensor([zoom]))
    torch.testing.assert_close(result, images, atol=1e-5, rtol=1e-5)


def test_angles_and_zooms_are_drawn_for_each_image_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(augment, "rotate_and_zoom", lambda images, *drawn: seen.append(drawn) or images)
    PublishedAugmentation(rotation=20, zoom=0.2)(pictures(2000, size=1))
    for values, low, high in zip(seen[0], (-20, 0.8), (20, 1.2), strict=True):
        reach = (high - low) / 100
        assert low <= values.min() < low + reach and high - reach < values.max() <= high


@given(st.integers(4, 9), st.integers(4, 9), st.data())
def test_a_shift_is_a_crop_of_the_image_padded_by_reflection(height: int, width: int, data: st.DataObject) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
    by = data.draw(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=3))
    moved = shift(torch.from_numpy(images).permute(0, 3, 1, 2), *torch.tensor(by).unbind(1))
    for image, (down, right), result in zip(images, by, moved.permute(0, 2, 3, 1).numpy(), strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        assert np.array_equal(result, padded[3 - down : 3 - down + height, 3 - right : 3 - right + width])


def test_a_square_of_each_image_becomes_its_mean_and_the_rest_stays() -> None:
    images = pictures(3)
    row, column, side = torch.tensor([4, 0, 7]), torch.tensor([3, 0, 6]), 4
    result = cut_out(images, row, column, side)
    for number, (top, left) in enumerate([(2, 1), (-2, -2), (5, 4)]):
        expected = images[number].clone()
        square = expected[:, max(top, 0) : top + side, max(left, 0) : left + side]
        square[:] = images[number].mean((1, 2))[:, None, None]
        torch.testing.assert_close(result[number], expected)


def test_mixing_is_torchvisions_draw_for_draw() -> None:
    images, labels = pictures(6), torch.tensor([0.0, 1, 1, 0, 1, 0])
    plain = PublishedAugmentation(flips="none", jitter=False)
    for seed in range(4):
        torch.manual_seed(seed)
        torch.rand(2 * 6 + 2)  # of the published augmentation
        theirs = MixUp(alpha=0.2)(images, labels[:, None])
        torch.manual_seed(seed)
        ours = Augmentation(plain, mixup=0.2)(images, labels)
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(ours[1], theirs[1][:, 0], atol=1e-6, rtol=0)


@given(st.floats(0, 1))
def test_images_and_labels_are_mixed_by_one_share(share: float) -> None:
    images = torch.eye(3)[:, :, None, None]
    mixed, labels = mix(images, torch.tensor([1.0, 0.0, 0.0]), share)
    torch.testing.assert_close(mixed[:, 0, 0, 0], labels)
    torch.testing.assert_close(mixed.sum(1), torch.ones(3, 1, 1))


parts = pytest.mark.parametrize("settings", [{"crop": 3}, {"cutout": 4}, {"mixup": 0.3}])


@dtypes
@parts
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_crops_cutout_and_mixup_change_images_and_keep_their_form(
    settings: dict[str, float], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    images, labels = pictures(dtype=dtype).contiguous(memory_format=layout), torch.arange(16).remainder(2).to(dtype)
    result, answers = Augmentation(PublishedAugmentation(flips="none", jitter=False), **settings)(images, labels)
    assert result.shape == images.shape and result.dtype == dtype and result.is_contiguous(memory_format=layout)
    assert result.min() >= 0 and result.max() <= 1
    assert (result != images).any((1, 2, 3)).sum() > 12
    assert torch.equal(answers, labels) == ("mixup" not in settings) and answers.dtype == dtype


def test_each_image_draws_its_own_crop_and_cutout() -> None:
    images = pictures(1).expand(200, -1, -1, -1)
    for settings, kinds in (({"crop": 1}, 9), ({"cutout": 4}, 64)):
        result, _ = Augmentation(PublishedAugmentation(flips="none", jitter=False), **settings)(images, torch.ones(200))
        assert 0.8 * kinds < len(result.contiguous().unique(dim=0)) <= kinds


@pytest.mark.parametrize(
    ("flips", "kinds"),
    [("both", {(), (2,), (3,), (2, 3)}), ("horizontal", {(), (3,)}), ("none", {()})],
)
@pytest.mark.parametrize("jitter", [True, False])
def test_flips_and_jitter_are_chosen_one_by_one(flips: Flips, kinds: set[tuple[int, ...]], jitter: bool) -> None:
    images = pictures(40)
    result = PublishedAugmentation(flips=flips, jitter=jitter)(images)
    ranks = result.flatten(2).argsort(2)  # brightness and contrast keep the order of a channel's values
    same = {dims: (ranks == images.flip(dims).flatten(2).argsort(2)).all((1, 2)) for dims in [(), (2,), (3,), (2, 3)]}
    assert {dims for dims, rows in same.items() if rows.any()} == kinds
    assert torch.stack(list(same.values())).any(0).all()
    assert bool(torch.isin(result, images).all()) == (not jitter)


def test_a_batch_is_brought_and_augmented_by_as_many_calls_however_many_images_it_has() -> None:
    augmentation = PublishedAugmentation()

    def calls(count: int) -> int:
        pixels = torch.zeros(count, 32, 32, 3, dtype=torch.uint8)
        made = 0

        def counted(_: object, event: str, __: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(counted)
        try:
            augmentation(to_float(pixels[torch.arange(count)]))
        finally:
            sys.setprofile(None)
        return made

    calls(2)  # what is done once
    assert calls(300) == calls(3) < 150


def test_with_all_options_off_it_is_the_published_augmentation() -> None:
    images, labels = pictures(), torch.ones(16)
    results = []
    for change in (lambda x: Augmentation(PublishedAugmentation())(x, labels)[0], PublishedAugmentation()):
        torch.manual_seed(3)
        results.append(change(images))
    assert torch.equal(*results)


@pytest.mark.parametrize("settings", [{"crop": -1}, {"cutout": -1}, {"mixup": -0.1}, {"mixup": math.nan}])
def test_impossible_parts_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected"):
        Augmentation(PublishedAugmentation(), **settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"flips": "vertical"}, "flips"),
        ({"rotation": -1}, "rotation"),
        ({"rotation": 181}, "rotation"),
        ({"rotation": math.nan}, "rotation"),
        ({"zoom": -0.1}, "zoom"),
        ({"zoom": 1}, "zoom"),
        ({"zoom": math.nan}, "zoom"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        PublishedAugmentation(**settings)
