"""The bytes of one image file -> its pixels, exactly as training gets them; and nothing that is not an image.

Knows no framework: Pillow decodes, and :mod:`resize` brings large images to size without a copy of all their pixels.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightning_cifake.data.image_names import FORMATS, decodable_formats, image_suffixes, suffix_of
from lightning_cifake.data.pillow_picture import SIXTEEN_BITS, of_pillow, png_profile
from lightning_cifake.data.resize import resize_square
from lightning_cifake.text import reason_of

# past the 108 megapixels (12000 x 9000) of today's phones; half a gigabyte, as Pillow holds four bytes a pixel
MAX_PIXELS = 128_000_000
MAX_FILE_BYTES = 256 * 2**20  # of a file, twice a byte for each pixel of the largest image
# what pillow_picture makes RGB; not numbers of 32 bits, whose range nothing tells, and not Lab
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", *SIXTEEN_BITS}
_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_PIXELS = (b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG that no pixel depends on: words
_PROFILE = b"iCCP"
_MAX_PACKED = 2**22  # bytes of a profile's chunk


class DecodedImage(NamedTuple):
    """An image and how its file held it.

    Attributes:
        pixels: (S, S, 3) or (H, W, 3) uint8, RGB.
        format: Pillow's name of it, one of :data:`~lightning_cifake.data.image_names.FORMATS`.
        mode: Pillow's, before it was made RGB: ``RGB``, ``RGBA``, ``L``, ``P``...
        width, height: in the file, in pixels.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int


def decode_image(content: bytes | BinaryIO, image_size: int | None = 32) -> np.ndarray:
    """Decodes one file's bytes to (S, S, 3) uint8 RGB, bit for bit as Pillow (and TensorFlow's INTEGER_ACCURATE) does.

    What becomes of orientation, colour profiles, transparency and frames is said in
    :mod:`~lightning_cifake.data.pillow_picture`. ``image_size=None`` leaves the image at its own (H, W). What the bytes
    hold decides, whatever their file is called.

    Raises:
        ValueError: empty, truncated, no image, a format that is not read here, a mode that does not convert (32 bit,
            Lab), or more than :data:`MAX_PIXELS`.
    """
    return read_image(content, image_size).pixels


def read_image(content: bytes | BinaryIO, image_size: int | None = 32) -> DecodedImage:
    """As :func:`decode_image`, with how the file held the image.

    Raises:
        ValueError: as :func:`decode_image`.
    """
    with open_image(content) as image:
        kind, mode, width, height = image.format or "", image.mode, image.width, image.height
        picture = of_pillow(image)
        pixels = picture.rows(0, picture.height) if image_size is None else resize_square(picture, image_size)
    return DecodedImage(pixels, "JPEG" if kind == "MPO" else kind, mode, width, height)  # MPO: a JPEG and more behind


@contextmanager
def open_image(content: bytes | BinaryIO) -> Iterator[Image.Image]:
    """An image that is known by its header and checked, of which no pixel is decoded yet.

    What goes wrong with it inside the block is a ValueError too. Pillow's warnings, of large images, odd palettes and
    damaged metadata, are silent there: what matters of that is an error here.

    Args:
        content: the file's bytes, or the open file, at its beginning.

    Raises:
        ValueError: as :func:`decode_image`.
    """
    if isinstance(content, bytes):
        if not content:
            raise ValueError("empty file")
        content = io.BytesIO(content)
    with _value_errors():
        plain, profile = _without_text(content)
        with Image.open(plain, formats=decodable_formats()) as image:
            if profile is not None:
                image.info["icc_profile"] = profile
            _check(image)
            yield image


@contextmanager
def check_image(image: Image.Image) -> Iterator[None]:
    """As :func:`open_image`, for an image that is open already, of any format; it stays open.

    Raises:
        ValueError: as :func:`decode_image`.
    """
    with _value_errors():
        _check(image)
        yield


def _check(image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise ValueError(f"mode {image.mode}: expected RGB, CMYK, grey or a palette, of 8 or 16 bits")
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels: expected at most {MAX_PIXELS:,} in all")


@contextmanager
def _value_errors() -> Iterator[None]:
    """What Pillow raises of damaged or foreign bytes becomes a ValueError, and what it warns of is silent."""
    try:
        with _quiet():
            yield
    except UnidentifiedImageError as error:
        raise ValueError("not an image, or of a format that is not read here") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large to decode: expected at most {MAX_PIXELS:,} pixels") from error
    except ValueError:
        raise
    except Exception as error:  # whatever a decoder raises
        raise ValueError(f"cannot be decoded ({reason_of(error)})") from error


def _without_text(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """A PNG without its texts and its colour profile, and that profile; anything else as it is.

    Pillow unpacks those as it opens a PNG, and refuses the image where they are large, as a guard against bombs. No
    pixel depends on the texts; a profile that cannot be unpacked, or that is too large for one, is none.
    """
    if file.read(len(_PNG)) != _PNG:
        file.seek(0)
        return file, None
    kept: list[tuple[int, int]] = []  # ranges between the chunks that are left out
    start = at = len(_PNG)
    profile = None
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[:4])
        end = at + 12 + length
        if header[4:] in (*_NOT_PIXELS, _PROFILE):
            if header[4:] == _PROFILE and profile is None and length <= _MAX_PACKED:
                profile = png_profile(file.read(length))
            kept.append((start, at))
            start = end
        at = file.seek(end)
    file.seek(0)
    if not kept:
        return file, None
    pieces = [file.read(len(_PNG))]
    for first, last in [*kept, (start, -1)]:
        file.seek(first)
        pieces.append(file.read(last - first if last >= 0 else -1))
    return io.BytesIO(b"".join(pieces)), profile


def misnamed(name: str, kind: str) -> bool:
    """Whether a file's name says another format than the one that was found in it: ``a.jpg`` that holds a PNG."""
    suffix = suffix_of(name)
    return suffix in image_suffixes() and suffix not in FORMATS.get(kind, ())


if "PILLOW_BLOCK_SIZE" not in os.environ:
    # of Pillow's own blocks of 16 MB malloc keeps some for the thread that asked; past 32 MB it gives all of them back,
    # so that two threads that decode one after the other do not hold two photographs
    Image.core.set_block_size(64 * 2**20)

_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings(action="ignore")


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings while any thread is in here: ``warnings.catch_warnings`` alone is not safe between threads."""
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            _quiet_filters = warnings.catch_warnings(action="ignore")
            _quiet_filters.__enter__()
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
