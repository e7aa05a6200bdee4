"""The bytes of one image file -> its pixels, exactly as training gets them; and nothing that is not an image.

Knows no framework: Pillow decodes, and OpenCV, imported only when it is needed, resizes.
"""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # 8000 x 8000; far past any photograph of a dataset, well below what fills memory
_FORMATS = {".bmp": {"BMP"}, ".gif": {"GIF"}, ".jpeg": {"JPEG", "MPO"}, ".jpg": {"JPEG", "MPO"}, ".png": {"PNG"}}
# what converts to RGB without a choice of colour space or bit depth
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
# what Pillow raises on a damaged file, beside ValueError
_PILLOW_ERRORS = (OSError, SyntaxError, EOFError, LookupError, OverflowError, TypeError, struct.error, zlib.error)


def decode_image(content: bytes, suffix: str, image_size: int | None = 32) -> np.ndarray:
    """Decodes one file's bytes to (S, S, 3) uint8 RGB, bit for bit as Pillow (and TensorFlow's INTEGER_ACCURATE) does.

    Transparency is dropped, grey repeated, EXIF rotation ignored, and of an animation the first frame taken, all as
    ``tf.io.decode_image`` does. ``image_size=None`` leaves the image at its own (H, W).

    Raises:
        ValueError: empty, truncated, no image, another format than ``suffix`` says, a mode that does not convert
            (CMYK, 16 bit), or more than :data:`MAX_PIXELS`.
    """
    if not content:
        raise ValueError("empty file")
    try:
        # Pillow warns of large images, odd palettes and damaged metadata: what matters of that is an error here
        with _quiet(), Image.open(io.BytesIO(content)) as image:
            if image.format not in _FORMATS.get(suffix.lower(), {image.format}):
                raise ValueError(f"named {suffix} but holds {image.format}")
            if image.mode not in _MODES:
                raise ValueError(f"mode {image.mode}: expected RGB, grey or palette of 8 bits")
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels: expected at most {MAX_PIXELS:,} in all")
            pixels = np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large to decode: expected at most {MAX_PIXELS:,} pixels") from error
    except _PILLOW_ERRORS as error:
        raise ValueError(f"cannot be decoded ({error})") from error
    return pixels if image_size is None else fit(pixels, image_size)


def fit(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (S, S, 3) uint8, rounded to whole values, as every image of training comes to its size."""
    if pixels.shape[:2] == (image_size, image_size):
        return pixels
    return np.rint(resize_bilinear(pixels, image_size)).astype(np.uint8)


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


def resize_bilinear(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 or float -> (S, S, 3) float32, as ``tf.image.resize`` with its defaults."""
    import cv2

    return cv2.resize(pixels.astype(np.float32), (image_size, image_size), interpolation=cv2.INTER_LINEAR)
