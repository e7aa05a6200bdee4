"""JPEG in torch is what Pillow writes and reads, but for a level here and there."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifake.data.decode import load_images
from lightning_cifake.data.jpeg import CHROMINANCE, LUMINANCE, jpeg, quality_table

QUALITIES = (10, 40, 50, 70, 75, 90, 95, 100)
# A cosine that libjpeg's whole-number constants put on the other side of a half changes a block by up to half its
# divisor. Measured on the demo: .4 to 2.7 % of values differ, by .012 to .038 of a level on average; JPEG itself
# changes them by 2.4 to 14.
DIFFERENT, MEAN = 0.04, 0.06


@pytest.fixture(scope="module")
def patches(demo_cache: Path) -> np.ndarray:
    """(100, 32, 32, 3) uint8."""
    return np.array(load_images("demo", cache_dir=demo_cache).images[::20][:100])


def by_pillow(images: np.ndarray, quality: int) -> np.ndarray:
    results = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        results.append(np.asarray(Image.open(file)))
    return np.stack(results).astype(int)


def ours(images: np.ndarray, quality: int | list[int], dtype: torch.dtype = torch.float32) -> np.ndarray:
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(dtype) / 255
    qualities = torch.tensor(quality).expand(len(images))
    result = jpeg(batch, qualities) * 255
    assert result.dtype == dtype and result.shape == batch.shape
    assert (result - result.round()).abs().max() < 1e-4
    return result.round().permute(0, 2, 3, 1).numpy().astype(int)


@pytest.mark.parametrize("quality", QUALITIES)
def test_it_is_pillow_s_file_read_again(patches: np.ndarray, quality: int) -> None:
    apart = np.abs(ours(patches, quality) - by_pillow(patches, quality))
    assert (apart > 0).mean() < DIFFERENT and apart.mean() < MEAN


def test_other_sizes_end_as_libjpeg_s_do(patches: np.ndarray) -> None:
    """Blocks are filled up from the border. Blocks that are cut off make up much of such a small image."""
    odd = patches[:, :21, :27]
    apart = np.abs(ours(odd, 75) - by_pillow(odd, 75))
    assert (apart > 0).mean() < 0.12 and apart.mean() < 0.3
    edge = apart[:, -3:, -3:]
    assert edge.mean() < 0.3


def test_each_image_has_its_own_quality(patches: np.ndarray) -> None:
    qualities = [40 + i % 56 for i in range(len(patches))]
    together = ours(patches, qualities)
    for number in (0, 17, 55, 99):
        assert np.array_equal(together[number], ours(patches[number : number + 1], qualities[number])[0])


def test_float64_gives_the_same_bytes(patches: np.ndarray) -> None:
    assert (ours(patches, 75) != ours(patches, 75, torch.float64)).mean() < 1e-3


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 51, 75, 95, 100])
def test_the_tables_are_those_in_pillow_s_file(patches: np.ndarray, quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(patches[0]).save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization
    for number, base in enumerate((LUMINANCE, CHROMINANCE)):
        assert quality_table(base, torch.tensor([float(quality)])).flatten().tolist() == list(written[number])


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_an_even_grey_comes_back(level: int) -> None:
    image = np.full((1, 16, 16, 3), level, np.uint8)
    assert np.array_equal(ours(image, 100), image)
