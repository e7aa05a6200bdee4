"""OpenCV decodes plain JPEG files bit for bit as Pillow does, and is not asked about any others."""

import io
import os
import random
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.data import plain_jpeg
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.plain_jpeg import BEFORE, TRIALS, PlainJPEG, is_plain


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def noise(number: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def smooth(number: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.asarray(Image.fromarray(noise(number, 4, 4)).resize((width, height), Image.Resampling.BICUBIC))


PLAIN = jpeg(smooth(0))


@pytest.fixture(scope="module")
def opencv() -> PlainJPEG:
    """One that has already been trusted."""
    found = PlainJPEG()
    for number in range(BEFORE + TRIALS):
        assert found.decode(PLAIN) is None and not found.trusted
        found.compare(PLAIN, lambda: decode_image(PLAIN, None))
        assert found._cv2 is None or number >= BEFORE  # its import is for those who ask about many
    assert found.trusted
    return found


def made_files() -> Iterator[bytes]:
    draw = random.Random(0)
    for number in range(400):
        height, width = draw.randrange(1, 80), draw.randrange(1, 80)
        pixels = (noise if number % 2 else smooth)(number, height, width)
        yield jpeg(pixels, quality=draw.randrange(1, 101), subsampling=number % 3, optimize=number % 5 == 0)


def test_each_size_quality_and_sampling_has_pillows_bits(opencv: PlainJPEG) -> None:
    for content in made_files():
        found = opencv.decode(content)
        assert found is not None and np.array_equal(found, decode_image(content, None))


def damaged(content: bytes, draw: random.Random, kind: int) -> bytes:
    data = bytearray(content)
    at = draw.randrange(len(data) - 40, len(data) - 2) if draw.random() < 0.5 else draw.randrange(620, len(data) - 2)
    if kind == 0:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        data[at:] = b"\xff\xd9"
    elif kind == 2:
        del data[at : min(at + draw.randrange(1, 20), len(data) - 2)]
    else:
        data[at:at] = bytes(draw.randrange(255) for _ in range(5))
    return bytes(data)


def test_a_damaged_file_has_pillows_bits_too_or_is_left_to_pillow(opencv: PlainJPEG) -> None:
    draw = random.Random(0)
    decoded = 0
    for number in range(600):
        content = damaged(jpeg(noise(number % 7)), draw, number % 4)
        found = opencv.decode(content)
        if found is not None:
            decoded += 1
            assert np.array_equal(found, decode_image(content, None))  # which would raise where Pillow refuses it
    assert decoded > 200


def test_whatever_more_than_pixels_is_in_a_file_is_pillows() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    others = {
        "orientation": jpeg(smooth(1), exif=exif.tobytes()),
        "profile": jpeg(smooth(1), icc_profile=b"\0" * 200),
        "progressive": jpeg(smooth(1), progressive=True),
        "grey": jpeg(smooth(1), "L"),
        "CMYK": jpeg(smooth(1), "CMYK"),
        "large": jpeg(smooth(1, 257, 256)),
        "RGB": jpeg(smooth(1), keep_rgb=True),
        "cut short": PLAIN[:-40],
        "more behind": PLAIN + b"\0",
        "joined": PLAIN + PLAIN,
        "restart": jpeg(smooth(1), restart_marker_blocks=1),
        "empty": b"",
        "PNG": b"\x89PNG\r\n\x1a\n" + PLAIN,
        "head alone": PLAIN[:3] + b"\xff\xd9",
    }
    assert [name for name, content in others.items() if is_plain(content)] == []
    assert is_plain(PLAIN) and is_plain(jpeg(smooth(2), comment=b"of a camera"))


def test_one_pixel_that_differs_leaves_all_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_jpeg, "BEFORE", 1)
    other = decode_image(PLAIN, None).copy()
    other[3, 4, 1] ^= 1
    found = PlainJPEG()
    found.compare(PLAIN, lambda: decode_image(PLAIN, None))
    found.compare(PLAIN, lambda: other)
    assert found.trusted is False
    for _ in range(2 * TRIALS):
        found.compare(PLAIN, lambda: decode_image(PLAIN, None))
    assert found.trusted is False and found.decode(PLAIN) is None


def test_without_opencv_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_jpeg, "BEFORE", 0)
    monkeypatch.setattr(plain_jpeg, "find_spec", lambda name: None)
    found = PlainJPEG()
    found.compare(PLAIN, lambda: decode_image(PLAIN, None))
    assert found.trusted is False and found.decode(PLAIN) is None


def test_headers_that_were_gone_through_are_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_jpeg, "_headers", {})
    for number in range(200):
        assert is_plain(jpeg(smooth(0, 8, 8), comment=str(number).encode()))
    assert len(plain_jpeg._headers) <= 64


@pytest.mark.skipif("CIFAKE_ROOT" not in os.environ, reason="needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
@pytest.mark.parametrize("every", [60, pytest.param(1, marks=pytest.mark.long)])
def test_cifakes_own_files_have_pillows_bits(opencv: PlainJPEG, every: int) -> None:
    if not zipfile.is_zipfile(os.environ["CIFAKE_ROOT"]):
        pytest.skip("CIFAKE_ROOT does not name CIFAKE's zip archive")
    with zipfile.ZipFile(os.environ["CIFAKE_ROOT"]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        assert len(names) == 120_000
        for name in names[::every]:
            content = archive.read(name)
            found = opencv.decode(content)
            assert found is not None and np.array_equal(found, decode_image(content, None)), name
