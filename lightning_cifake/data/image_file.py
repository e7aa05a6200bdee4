"""The bytes of one image file -> its pixels, exactly as training gets them; and nothing that is not an image.

Knows no framework: Pillow decodes, and :mod:`resize` brings large images to size without a copy of all their pixels.
"""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightning_cifake.data.resize import fit, of_pillow

# past the 108 megapixels (12000 x 9000) of today's phones; half a gigabyte, as Pillow holds four bytes a pixel
MAX_PIXELS = 128_000_000
MAX_FILE_BYTES = 256 * 2**20  # of a file, twice a byte for each pixel of the largest image
_FORMATS = {".bmp": {"BMP"}, ".gif": {"GIF"}, ".jpeg": {"JPEG", "MPO"}, ".jpg": {"JPEG", "MPO"}, ".png": {"PNG"}}
# what converts to RGB without a choice of colour space or bit depth
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
# what Pillow raises on a damaged file, beside ValueError
_PILLOW_ERRORS = (OSError, SyntaxError, EOFError, LookupError, OverflowError, TypeError, struct.error, zlib.error)


@contextmanager
def open_image(content: bytes | BinaryIO, suffix: str) -> Iterator[Image.Image]:
    """An image that is known by its header and checked, of which no pixel is decoded yet.

    What goes wrong with it inside the block is a ValueError too. Pillow's warnings, of large images, odd palettes and
    damaged metadata, are silent there: what matters of that is an error here.

    Args:
        content: the file's bytes, or the open file.
        suffix: of its name, or ``""``.

    Raises:
        ValueError: as :func:`decode_image`.
    """
    if isinstance(content, bytes):
        if not content:
            raise ValueError("empty file")
        content = io.BytesIO(content)
    try:
        with _quiet(), Image.open(content) as image:
            if image.format not in _FORMATS.get(suffix.lower(), {image.format}):
                raise ValueError(f"named {suffix} but holds {image.format}")
            if image.mode not in _MODES:
                raise ValueError(f"mode {image.mode}: expected RGB, grey or palette of 8 bits")
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels: expected at most {MAX_PIXELS:,} in all")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large to decode: expected at most {MAX_PIXELS:,} pixels") from error
    except _PILLOW_ERRORS as error:
        raise ValueError(f"cannot be decoded ({error})") from error


def decode_image(content: bytes | BinaryIO, suffix: str, image_size: int | None = 32) -> np.ndarray:
    """Decodes one file's bytes to (S, S, 3) uint8 RGB, bit for bit as Pillow (and TensorFlow's INTEGER_ACCURATE) does.

    Transparency is dropped, grey repeated, EXIF rotation ignored, and of an animation the first frame taken, all as
    ``tf.io.decode_image`` does. ``image_size=None`` leaves the image at its own (H, W).

    Raises:
        ValueError: empty, truncated, no image, another format than ``suffix`` says, a mode that does not convert
            (CMYK, 16 bit), or more than :data:`MAX_PIXELS`.
    """
    with open_image(content, suffix) as image:
        picture = of_pillow(image)
        return picture.rows(0, image.height) if image_size is None else fit(picture, image_size)


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
