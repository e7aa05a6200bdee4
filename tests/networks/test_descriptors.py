"""Each descriptor is what scikit-image, PyWavelets, numpy or scipy compute of the same images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_cifake.networks.descriptors import (
    DESCRIPTORS,
    CoOccurrence,
    histogram,
    lbp_codes,
    moments,
    noise_residual,
    planes,
    quantized,
    residual_steps,
    uniform_patterns,
)

feature = pytest.importorskip("skimage.feature")
pywt = pytest.importorskip("pywt")
stats = pytest.importorskip("scipy.stats")


@pytest.fixture(scope="module")
def levels() -> torch.Tensor:
    """(3, 3, 32, 32): two that are smooth with noise, as photographs are, and one of noise alone."""
    seeded = torch.Generator().manual_seed(0)
    small = torch.rand(3, 3, 5, 5, generator=seeded)
    smooth = nn.functional.interpolate(small, (32, 32), mode="bicubic")
    noise = torch.rand(3, 3, 32, 32, generator=seeded)
    mixed = torch.stack([smooth[0] + 0.02 * noise[0], smooth[1] + 0.1 * noise[1], noise[2]])
    return (mixed.clamp(0, 1) * 255).round().double()


@pytest.fixture(scope="module")
def seen(levels: torch.Tensor) -> np.ndarray:
    return planes(levels).numpy()


def described(name: str, levels: torch.Tensor) -> np.ndarray:
    return DESCRIPTORS[name](levels.shape[-1])(levels).numpy()


def figures(values: np.ndarray) -> list[float]:
    values = values.ravel()
    kurtosis = stats.kurtosis(values, fisher=False)
    return [values.mean(), np.log(values.var()), stats.skew(values), np.log(kurtosis)]


def test_the_planes_are_pillows_but_for_rounding(levels: torch.Tensor, seen: np.ndarray) -> None:
    for image, ours in zip(levels, seen, strict=True):
        pillows = np.asarray(Image.fromarray(image.permute(1, 2, 0).byte().numpy()).convert("YCbCr"))
        assert abs(ours.transpose(1, 2, 0) - pillows).max() < 1.01


def test_wavelet_statistics_are_those_of_pywavelets_bands(levels: torch.Tensor, seen: np.ndarray) -> None:
    found = described("wavelet", levels).reshape(3, 3, 3, 3, 4)  # image, level, band, plane, figure
    for image, plane in np.ndindex(3, 3):
        _, *details = pywt.wavedec2(seen[image, plane], "db2", "symmetric", 3)
        expected = [[figures(band) for band in bands] for bands in reversed(details)]
        np.testing.assert_allclose(found[image, :, :, plane], expected, rtol=2e-2, atol=5e-2)
        if (variance := details[-1][0].var()) > 50:
            np.testing.assert_allclose(found[image, 0, 0, plane, 1], np.log(variance), rtol=1e-4)


def test_binary_patterns_are_scikit_images(levels: torch.Tensor) -> None:
    """Of whole levels; scikit-image rounds where an interpolated neighbour is the same or nearly, TIE decides here."""
    ours, mapping = lbp_codes(levels).numpy(), torch.from_numpy(uniform_patterns())
    with pytest.warns(UserWarning, match="floating-point"):
        for codes, plane in zip(ours.reshape(9, 30, 30), levels.numpy().reshape(9, 32, 32), strict=True):
            expected = feature.local_binary_pattern(plane, 8, 1, "default")[1:-1, 1:-1].astype(int)
            assert (codes != expected).mean() < 0.02
            assert not (expected & ~codes).any()  # what differs is called equal here
            uniform = feature.local_binary_pattern(plane, 8, 1, "nri_uniform")[1:-1, 1:-1].astype(int)
            counts = np.bincount(uniform.ravel(), minlength=59)
            found = (histogram(torch.from_numpy(expected.ravel()), 256) @ mapping).numpy() * expected.size
            assert found[58] == pytest.approx(counts[58])
            np.testing.assert_allclose(np.sort(found[:58]), np.sort(counts[:58]), atol=1e-9)


def test_co_occurrence_figures_are_scikit_images(levels: torch.Tensor) -> None:
    found = described("glcm", levels).reshape(3, len(CoOccurrence.OFFSETS), 3, 6)
    steps = quantized(planes(levels)).numpy().astype(np.uint8)
    asked = {(0, 1): (1, 0), (1, 1): (1, np.pi / 4), (1, 0): (1, np.pi / 2), (1, -1): (1, 3 * np.pi / 4)}
    asked |= {(0, 2): (2, 0), (2, 0): (2, np.pi / 2)}
    names = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation", "entropy")
    for image, plane in np.ndindex(3, 3):
        for at, offset in enumerate(CoOccurrence.OFFSETS):
            distance, angle = asked[offset]
            matrix = feature.graycomatrix(steps[image, plane], [distance], [angle], 32, symmetric=True, normed=True)
            expected = [feature.graycoprops(matrix, name)[0, 0] for name in names]
            np.testing.assert_allclose(found[image, at, plane], expected, rtol=1e-3, atol=1e-6)


def test_gradients_are_scikit_images(levels: torch.Tensor, seen: np.ndarray) -> None:
    expected = [feature.hog(each[0], 9, (8, 8), (2, 2), "L2-Hys", feature_vector=False).ravel() for each in seen]
    np.testing.assert_allclose(described("hog", levels), expected, atol=1e-6)


def test_the_spectrum_is_numpys_and_its_slope_polyfits(levels: torch.Tensor, seen: np.ndarray) -> None:
    found = described("spectrum", levels).reshape(3, 3, 17)
    frequency = np.fft.fftfreq(32, 1 / 32)
    radius = np.rint(np.hypot(frequency[:, None], frequency))
    for image, plane in np.ndindex(3, 3):
        power = abs(np.fft.fft2(seen[image, plane])) ** 2 / 32**2
        rings = np.log([power[radius == each].mean() for each in range(1, 17)])
        np.testing.assert_allclose(found[image, plane, :16], rings, atol=2e-2)
        np.testing.assert_allclose(found[image, plane, 16], np.polyfit(np.log(range(1, 17)), rings, 1)[0], atol=2e-2)


def test_colour_moments_are_scipys(levels: torch.Tensor) -> None:
    found = described("colour", levels)
    for image, ours in zip(levels.numpy(), found, strict=True):
        np.testing.assert_allclose(ours[:12].reshape(3, 4), [figures(plane) for plane in image], rtol=1e-2, atol=1e-3)
        expected = np.corrcoef(image.reshape(3, -1))[np.triu_indices(3, 1)]
        np.testing.assert_allclose(ours[-3:], expected, atol=1e-4)


def test_the_residual_is_a_convolutions_and_its_triples_are_counted(levels: torch.Tensor) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    kernel = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    found = described("noise", levels)
    for image, ours in zip(levels, found, strict=True):
        residual = np.stack([ndimage.convolve(plane, kernel)[1:-1, 1:-1] for plane in image.numpy()])
        np.testing.assert_allclose(noise_residual(image[None])[0].numpy(), residual, atol=1e-9)
        np.testing.assert_allclose(ours[:12].reshape(3, 4), [figures(each) for each in residual], rtol=1e-2, atol=5e-3)
        steps = residual_steps(torch.from_numpy(residual)).numpy()
        across = np.stack([steps[..., :-2], steps[..., 1:-1], steps[..., 2:]], -1).reshape(-1, 3)
        down = np.stack([steps[:, :-2], steps[:, 1:-1], steps[:, 2:]], -1).reshape(-1, 3)
        for offset, triples in ((12, np.concatenate([across, down])), (137, steps.reshape(3, -1).T)):
            counts, _ = np.histogramdd(triples, bins=[np.arange(6) - 0.5] * 3)
            np.testing.assert_allclose(ours[offset : offset + 125], counts.ravel() / len(triples), atol=1e-12)


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("size", [16, 40])
def test_every_descriptor_is_finite_of_any_image_and_size(name: str, size: int) -> None:
    images = torch.zeros(3, 3, size, size, dtype=torch.float64)
    images[1], images[2, 0, 3, 3] = 255, 255
    found = DESCRIPTORS[name](size)(images)
    assert found.shape[0] == 3 and found.isfinite().all()


class Fractions(TorchDispatchMode):
    """Collects the numbers of Python's that operations are given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[float] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        for each in (*args, *(kwargs or {}).values()):
            scalar = isinstance(each, torch.Tensor) and each.dim() == 0 and each.is_floating_point()
            self.found |= {float(each)} if scalar or isinstance(each, float) else set()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_its_fractions_are_of_32_bits_which_an_exporter_keeps(name: str, levels: torch.Tensor) -> None:
    """torch's exporter rounds them, also in a graph of float64: with others, features differ from the sixth digit on,
    and trees answer otherwise."""
    module = DESCRIPTORS[name](32)
    with Fractions() as fractions:
        module(levels)
    assert [each for each in fractions.found if float(np.float32(each)) != each] == []
    assert fractions.found or name in ("lbp", "hog")


def test_moments_of_the_normal_distribution() -> None:
    values = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance, skewness, kurtosis = moments(10 * values).tolist()
    assert abs(mean) < 0.1 and abs(skewness) < 0.05
    assert variance == pytest.approx(np.log(100), abs=0.02) and kurtosis == pytest.approx(np.log(3), abs=0.02)
