"""Degradations are Pillow's and scipy's, for each image of a batch its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lightning_cifake.data import degrade
from lightning_cifake.data.augment import Augmentation, PublishedAugmentation
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.degrade import (
    FILTERS,
    KINDS,
    SIDES,
    Degradation,
    Kind,
    Scalings,
    add_noise,
    blur,
    rescale,
    to_whole,
)
from lightning_cifake.distributed import shard_of, use_shard


@pytest.fixture(scope="module")
def pixels(demo_cache: Path) -> np.ndarray:
    """(60, 32, 32, 3) uint8."""
    return np.array(load_images("demo", cache_dir=demo_cache).images[::33][:60])


@pytest.fixture(scope="module")
def images(pixels: np.ndarray) -> Tensor:
    return to_float(torch.from_numpy(pixels))


@given(st.lists(st.floats(0, 2), min_size=3, max_size=3), st.integers(5, 9), st.integers(5, 9))
def test_blur_is_scipy_s_gaussian_filter(sigmas: list[float], height: int, width: int) -> None:
    images = np.random.default_rng(0).random((3, 2, height, width))
    ours = blur(torch.from_numpy(images), torch.tensor(sigmas, dtype=torch.float64), radius=9)
    for image, sigma, result in zip(images, sigmas, ours.numpy(), strict=True):
        np.testing.assert_allclose(result, gaussian_filter(image, (0, sigma, sigma)), atol=1e-12)


def test_a_blur_s_radius_is_found_where_it_is_not_given(images: Tensor) -> None:
    sigma = torch.linspace(0, 1.5, len(images))
    torch.testing.assert_close(blur(images, sigma), blur(images, sigma, radius=12), atol=1e-6, rtol=0)


def test_blur_of_no_strength_leaves_an_image_as_it_is(images: Tensor) -> None:
    torch.testing.assert_close(blur(images, torch.zeros(len(images)), radius=7), images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [0, 8, 12])
@pytest.mark.parametrize(
    ("name", "filter"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_rescaling_is_pillow_s(
    pixels: np.ndarray, images: Tensor, name: str, filter: Image.Resampling, number: int
) -> None:
    """Measured: at most 2 levels apart, in at most 4 % of values, as Pillow's weights are whole numbers."""
    which = torch.full((len(images),), FILTERS.index(name) * len(SIDES) + number)
    result = rescale(images, Scalings.of(32), which, which).mul(255).round().permute(0, 2, 3, 1).numpy().astype(int)
    side = round(32 * SIDES[number])
    small = [Image.fromarray(image).resize((side, side), filter) for image in pixels]
    theirs = np.stack([np.asarray(image.resize((32, 32), filter)) for image in small]).astype(int)
    assert np.abs(result - theirs).max() <= 2 and (result != theirs).mean() < 0.06


def test_area_to_half_the_side_is_pillow_s_reduce(pixels: np.ndarray, images: Tensor) -> None:
    which = torch.full((len(images),), FILTERS.index("area") * len(SIDES))
    result = rescale(images, Scalings.of(32), which, which).mul(255).round().permute(0, 2, 3, 1).numpy()
    theirs = [np.asarray(Image.fromarray(image).reduce(2)).repeat(2, 0).repeat(2, 1) for image in pixels]
    assert np.abs(result - np.stack(theirs)).max() <= 1


@pytest.mark.parametrize("size", [8, 20, 33])
def test_an_even_surface_stays_even_at_any_size(size: int) -> None:
    flat, scalings = torch.full((1, 3, size, size), 51 / 255), Scalings.of(size)
    for which in range(len(FILTERS) * len(SIDES)):
        at = torch.tensor([which])
        torch.testing.assert_close(rescale(flat, scalings, at, at), flat, atol=1e-6, rtol=0)


def test_noise_has_the_deviation_it_is_given_and_goes_round_at_the_series_end() -> None:
    normals = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    images, deviation = torch.full((3, 3, 32, 32), 0.5, dtype=torch.float64), torch.tensor([0.0, 0.01, 0.05])
    noise = add_noise(images, normals, torch.tensor([0, 5, 19_000]), deviation) - images
    torch.testing.assert_close(noise.std((1, 2, 3)), deviation.double(), rtol=0.05, atol=0)
    expected = torch.cat([normals[19_000:], normals[:2072]]).double() * deviation[2].double()
    torch.testing.assert_close(noise[2].flatten(), expected)


@pytest.mark.parametrize("kinds", [KINDS, *((kind,) for kind in KINDS)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_degraded_batch_keeps_its_form_and_holds_whole_255ths(
    images: Tensor, kinds: tuple[Kind, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    given = images.to(dtype).contiguous(memory_format=layout)
    before = given.clone()
    result = Degradation(1, kinds)(given)
    assert result.shape == given.shape and result.dtype == dtype and result.is_contiguous(memory_format=layout)
    assert result.min() >= 0 and result.max() <= 1 and torch.equal(given, before)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(result, to_whole(result), atol=1e-6, rtol=0)
    assert (result != given).any(3).any(2).any(1).sum() > 0.8 * len(images)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_degraded_by_its_own_strength(images: Tensor, kind: Kind) -> None:
    result = Degradation(1, (kind,))(images[:1].expand(60, -1, -1, -1))
    assert len(result.contiguous().unique(dim=0)) > 25  # of 56 qualities, of 117 scalings


def test_as_many_are_degraded_as_was_asked_and_the_rest_is_left_alone() -> None:
    noise = torch.rand(4000, 3, 8, 8).mul(255).round() / 255
    for share in (0, 0.3, 1):
        changed = (Degradation(share)(noise) != noise).any(3).any(2).any(1)
        assert abs(changed.float().mean() - share) < 0.03  # some blur is too little to be seen


def test_each_kind_comes_as_often_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def counted(_: Degradation, kind: Kind, images: Tensor, drawn: Tensor) -> Tensor:
        assert drawn.shape == (len(images), 3)
        seen[kind] = len(images)
        return images

    monkeypatch.setattr(Degradation, "_change", counted)
    Degradation(0.5)(torch.zeros(8000, 3, 2, 2))
    assert set(seen) == set(KINDS) and all(abs(count - 1000) < 120 for count in seen.values())


def test_strengths_fill_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Tensor] = {}

    def noted(name: str) -> object:
        return lambda images, strength, **_: seen.setdefault(name, strength) is None or images

    monkeypatch.setattr(degrade, "blur", noted("blur"))
    monkeypatch.setattr(degrade, "jpeg", noted("jpeg"))
    Degradation(1, ("blur", "jpeg"))(torch.zeros(8000, 3, 2, 2))
    assert set(seen["jpeg"].tolist()) == set(range(40, 96))
    assert degrade.BLUR[0] <= seen["blur"].min() < 0.21 and 1.49 < seen["blur"].max() <= degrade.BLUR[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_shards_are_degraded_as_the_whole_batch_is(images: Tensor, processes: int) -> None:
    results = []
    for count in (1, processes):
        made = []
        for number in range(count):
            torch.manual_seed(4)
            with use_shard(shard := shard_of(len(images), number, count)):
                made.append(Degradation(0.8)(images if shard is None else shard.slice(images)))
        results.append(torch.cat(made))
    # a product over another number of images may round otherwise in its last bit, which may be a level
    assert ((results[0] - results[1]).abs() > 1e-6).double().mean() < 1e-4


def test_degradation_comes_before_the_published_changes_and_leaves_labels_alone(images: Tensor) -> None:
    labels = torch.arange(60.0).remainder(2)
    plain = PublishedAugmentation(flips="none", jitter=False)
    torch.manual_seed(1)
    result, answers = Augmentation(plain, degradation=Degradation(0.5))(images, labels)
    torch.manual_seed(1)
    assert torch.equal(result, Degradation(0.5)(images)) and torch.equal(answers, labels)
    torch.manual_seed(1)
    none, _ = Augmentation(plain, degradation=Degradation(0))(images, labels)
    assert torch.equal(none, images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for_and_gives_what_the_cpu_does(images: Tensor) -> None:
    augment = Augmentation(PublishedAugmentation(), crop=4, cutout=8, mixup=0.2, degradation=Degradation(0.5))
    labels, results = torch.arange(60.0).remainder(2), []
    for device in ("cpu", "cuda"):
        on_device = images.to(device), labels.to(device)
        augment(*on_device)  # brings its tables there
        torch.manual_seed(3)
        torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
        try:
            results.append(augment(*on_device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    (ours, answers), (theirs, expected) = results
    torch.testing.assert_close(answers, expected.cpu())
    apart = (ours - theirs.cpu()).abs()
    assert (apart > 1e-4).double().mean() < 0.01  # a sum that rounds otherwise turns a level, or a block of JPEG's


@pytest.mark.parametrize(
    ("settings", "says"),
    [((1.1,), "degrade: expected 0 to 1"), ((-0.1,), "degrade: expected"), ((float("nan"),), "degrade: expected")]
    + [((0.5, kinds), "degradations: expected some of blur, rescale") for kinds in ((), ("fog",))],
)
def test_impossible_settings_are_refused_by_name(settings: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Degradation(*settings)
