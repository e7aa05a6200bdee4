"""An image that Pillow has opened -> the pixels that count, by one policy for every command that reads a file.

===================  ===========================================================================================
what a file has      what becomes of it
===================  ===========================================================================================
EXIF orientation     the picture is turned upright
a colour profile     its colours are converted to sRGB; without one they are taken for sRGB
transparency         dropped: the colours beneath are taken as they stand
several frames       the first one
grey, palette, 1 bit each value as its colour, grey repeated
16 bits, grey        the upper 8 (Pillow itself gives the upper 8 of colours)
CMYK                 converted by its profile; without one by the plain formula
===================  ===========================================================================================

Browsers do the same when they draw a picture, but for transparency. TensorFlow's reader neither turns nor converts. An
image without any of this, as each of CIFAKE's, has the bits that its decoder gives.
"""

import io
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, features

from lightning_cifake.data.resize import Picture

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # EXIF's tag
_ALPHA = {"LA", "PA", "RGBA"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what makes the stored picture upright; EXIF 2.3, tag 0x0112."""
_FROM_THE_END = (3, 4, 7, 8)  # the first row of the upright picture is the last row, or column, of the stored one
_MAX_PROFILE = 2**22  # bytes; a printer's has one or two million

Convert = Callable[[Image.Image], Image.Image]


def of_pillow(image: Image.Image) -> Picture:
    """An image of any mode that is read here, asked for its rows as RGB; see the module for what is done to it.

    Nothing is turned or converted but the rows that are asked for.
    """
    image.load()  # a TIFF that says so is turned then, and has another height
    orientation = orientation_of(image)
    turn = _TURNS.get(orientation)
    across = orientation >= 5  # the stored picture lies on its side
    height, width = (image.width, image.height) if across else (image.height, image.width)
    to_rgb = _conversion(image)

    def rows(first: int, end: int) -> np.ndarray:
        part = image
        if (first, end) != (0, height):
            low, high = (height - end, height - first) if orientation in _FROM_THE_END else (first, end)
            box = (low, 0, high, image.height) if across else (0, low, image.width, high)
            part = image.crop(box)
        part = to_rgb(part)
        return np.asarray(part if turn is None else part.transpose(turn))

    return Picture(height, width, rows)


def orientation_of(image: Image.Image) -> int:
    """EXIF's, from 1 (upright) to 8; 1 where a file says none, or nonsense.

    Of TIFF and HEIF the picture is upright when it is loaded, and its EXIF says so.
    """
    if "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow raises of damaged EXIF: no pixel depends on the rest of it
        return 1
    return found if found in _TURNS else 1


def remarks(image: Image.Image) -> list[str]:
    """What of a file is not looked at, in words for whoever asks about it: frames, transparency, lost colours."""
    found = []
    if _has_frames(image):
        found.append("has several frames: the first is looked at")
    if _is_transparent(image):
        found.append("is transparent in places: that is dropped, the colours beneath count")
    if image.mode == "CMYK" and not _profile(image):
        found.append("is CMYK without a colour profile: its colours are a guess")
    if image.mode in SIXTEEN_BITS:
        found.append("has 16 bits a value: the upper 8 are looked at")
    return found


def _has_frames(image: Image.Image) -> bool:
    if image.format in ("MPO", None):  # MPO: a photo, and more of it behind
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of a second frame that is damaged: nobody looks at it
        return True


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in _ALPHA:
        lowest = image.getchannel("A").getextrema()[0]
        return isinstance(lowest, (int, float)) and lowest < 255
    return "transparency" in image.info


def _conversion(image: Image.Image) -> Convert:
    """To RGB, from what mode and profile the image has."""
    if image.mode in SIXTEEN_BITS:
        return _upper_bits
    profile = _profile(image)
    if profile is not None:
        # of colours the profile's; of grey its own kind; transparency and a palette know no profile
        mode = {"L": "L", "LA": "L", "1": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
        if (transform := _to_srgb(profile, mode)) is not None:
            return lambda part: transform(part if part.mode == mode else part.convert(mode))
    return lambda part: part if part.mode == "RGB" else part.convert("RGB")


def _upper_bits(part: Image.Image) -> Image.Image:
    grey = (np.asarray(part).astype(np.uint16) >> 8).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _profile(image: Image.Image) -> bytes | None:
    found = image.info.get("icc_profile")
    return found if isinstance(found, bytes) and 128 < len(found) <= _MAX_PROFILE else None


def _to_srgb(profile: bytes, mode: str) -> Convert | None:
    """None where the profile is sRGB, of another kind of image, damaged, or Pillow was built without littleCMS."""
    if not has_colour_management():
        return None
    from PIL import ImageCms

    try:
        opened: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # sRGB to sRGB would move values by a bit
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(opened).lower():
            return None
        made = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return made.apply


@cache
def has_colour_management() -> bool:
    """Whether Pillow can convert colours here: its own wheels can."""
    return bool(features.check("littlecms2"))


def png_profile(chunk: bytes) -> bytes | None:
    """The profile in a PNG's iCCP chunk, unpacked no further than a profile is large; None of a damaged one."""
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(chunk.partition(b"\0")[2][1:], _MAX_PROFILE)
    except zlib.error:
        return None
    return content if unpack.eof else None
