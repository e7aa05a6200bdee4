"""A large image comes to its size with little memory, and to the same bits as one that is resized whole."""

import io
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifake.data import resize
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.deploy import graph

RNG = np.random.default_rng(0)


def pixels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def whole(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)


SIZES = [(1, 1), (31, 33), (64, 64), (65, 200), (127, 128), (129, 1000), (777, 501), (500, 1200), (1500, 224)]


@pytest.mark.parametrize("size", [7, 32, 48, 224])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_in_parts_the_bits_are_those_of_one_go(
    size: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pixels(height, width)
    expected = whole(image, size)
    monkeypatch.setattr(resize, "_AT_ONCE", 1500)  # rows by ones and twos
    found = resize.resize_bilinear(image, size)
    if width >= size:
        assert np.array_equal(found, expected)
    else:  # OpenCV adds up otherwise where it makes rows longer; a large image is never that narrow
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("size", [32, 48, 50])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (4032, 300), (128, 3024), (1999, 2001)])
def test_an_exported_graph_makes_the_same_of_the_thinned_image(size: int, height: int, width: int) -> None:
    image = pixels(height, width)
    thinned = resize.thin(image, size)
    assert max(thinned.shape) < 4 * size
    for kind in (image, image.astype(np.float32) / 255):
        small = thinned if kind.dtype == np.uint8 else thinned.astype(np.float32) / 255
        of_all, of_thinned = (graph.resize(torch.from_numpy(each[None]), size) for each in (kind, small))
        assert torch.equal(of_all, of_thinned)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_a_file_is_read_in_rows_whatever_its_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(pixels(300, 400)).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    decoded = np.asarray(image.convert("RGB"))
    expected = np.rint(whole(decoded, 32)).astype(np.uint8)
    monkeypatch.setattr(resize, "_AT_ONCE", 4000)
    assert np.array_equal(decode_image(file.getvalue(), 32), expected)
    assert np.array_equal(decode_image(file.getvalue(), None), decoded)


@pytest.mark.parametrize("size", [32, 224])
def test_a_large_image_costs_little_beside_itself(size: int) -> None:
    image = np.zeros((6000, 8000, 3), np.uint8)
    resize.resize_square(image[:1200, :1200], size)  # imports
    tracemalloc.start()
    fitted, thinned = resize.resize_square(image, size), resize.thin(image, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitted.shape == (size, size, 3) and thinned.max() == 0
    assert peak < 12 * 2**20 + 6000 * size * 3 * 4, peak  # whole, in floats: 576 MB
