"""One image, in whatever form it is handed over, to the pixels that a model is given; knows no framework."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Condition
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as pil

from lightning_cifake.data.image_file import MAX_FILE_BYTES, check_image, misnamed, open_image
from lightning_cifake.data.image_names import suffix_of
from lightning_cifake.data.pillow_picture import of_pillow, remarks
from lightning_cifake.data.plain_jpeg import PLAIN_JPEG
from lightning_cifake.data.resize import Picture, of_array
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

FORMS = (
    "a path, a file's bytes, a file that is open for reading bytes, a PIL image, or uint8 pixels: an array (H, W, 3) "
    "RGB, (H, W) grey or (H, W, 4) RGBA, or a tensor (3, H, W)"
)
Image = Any  # one of FORMS, or Loaded: duck types, as nothing here imports the libraries that they come from
Prepare = Callable[[Picture], np.ndarray]
_READ_AT_ONCE = 4 * 2**20  # bytes of a file; a larger one is read by its decoder, piece by piece


class Loaded(NamedTuple):
    """An image's name, and its pixels or why there are none.

    Attributes:
        name: its path, or a name of the array or bytes.
        pixels: (H, W, 3) uint8, as :class:`Prepare` gave them; None with an error.
        error: why there are none.
        size: (height, width) in the file.
        warning: something about it that deserves less trust.
    """

    name: str
    pixels: np.ndarray | None
    error: str | None = None
    size: tuple[int, int] | None = None
    warning: str | None = None


class Encoded(NamedTuple):
    """A file's path or its bytes, for any thread to decode."""

    name: str
    content: Path | bytes


class Room:
    """What may be decoded at once: pixels of up to so many bytes, or one image that takes more."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken, self._changed = limit, 0, Condition()

    @contextmanager
    def of(self, need: int) -> Iterator[None]:
        with self._changed:
            while self._taken and self._taken + need > self._limit:
                self._changed.wait()
            self._taken += need
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need
                self._changed.notify_all()


def whole(picture: Picture) -> np.ndarray:
    """All pixels: what is prepared where nothing else is asked for."""
    return picture.rows(0, picture.height)


def is_one(images: Any) -> bool:
    """Whether this is one image, and not a list, a generator or an array of several."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Loaded, Encoded, pil.Image)) or _is_file(
        images
    ):
        return True
    return len(getattr(images, "shape", ())) in (2, 3)


def each_of(images: Any) -> Iterator[Image]:
    """One image or many as many.

    Raises:
        UserError: neither.
    """
    if is_one(images):
        return iter([images])
    try:
        if isinstance(images, dict):
            raise TypeError
        return iter(images)
    except TypeError as error:
        raise UserError(f"expected images, each as {FORMS}, or several of them, got {_described(images)}") from error


def load(image: Image, number: int = 0, prepare: Prepare = whole) -> Loaded:
    """An image's pixels. A file that cannot be read is an error, not an exception.

    Raises:
        UserError: something that is no image at all: expected one of :data:`FORMS`.
    """
    return decode(take(image, number, prepare), prepare)


def take(image: Image, number: int, prepare: Prepare) -> Loaded | Encoded:
    """Does at once what cannot wait, as the caller may close a file or fill an array anew; the rest is to decode.

    Raises:
        UserError: it is none of :data:`FORMS`.
    """
    if isinstance(image, (Loaded, Encoded)):
        return image
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        return Encoded(name, image if isinstance(image, Path) else Path(name))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return Encoded(f"bytes {number}", bytes(image))
    if isinstance(image, pil.Image):
        return _of_pil(image, number, prepare)
    if hasattr(image, "__array__"):
        return _of_pixels(image, number, prepare)
    if _is_file(image):
        return _of_file(image, number)
    raise _refused(image, number)


def decode(taken: Loaded | Encoded, prepare: Prepare = whole, room: Room | None = None) -> Loaded:
    """What :func:`take` left to do, in any thread, within the room there is."""
    if isinstance(taken, Loaded):
        return taken
    name, content = taken
    try:
        if isinstance(content, bytes):
            return _decoded(name, content, prepare, room)
        with _opened(content) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _READ_AT_ONCE:
                return _decoded(name, file, prepare, room)
            held = file.read(size) or b""
        return _decoded(name, held, prepare, room)
    except (OSError, ValueError) as error:
        return Loaded(name, None, reason_of(error))


def _decoded(name: str, content: Any, prepare: Prepare, room: Room | None) -> Loaded:
    plain = PLAIN_JPEG.decode(content) if isinstance(content, bytes) else None
    if plain is not None:
        warning = f"named {suffix_of(name)} but holds JPEG" if misnamed(name, "JPEG") else None
        return Loaded(name, prepare(of_array(plain)), size=plain.shape[:2], warning=warning)
    with open_image(content) as image:
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        with room.of(4 * image.width * image.height) if room else nullcontext():
            picture = of_pillow(image)
            pixels = prepare(picture)
            warnings = remarks(image)
            if isinstance(content, bytes):
                PLAIN_JPEG.compare(content, lambda: whole(picture))
    if misnamed(name, kind):
        warnings.insert(0, f"named {suffix_of(name)} but holds {kind}")
    return Loaded(name, pixels, size=(picture.height, picture.width), warning="; ".join(warnings) or None)


def _opened(path: Path) -> io.BufferedReader:
    """Opened without waiting: a pipe that takes a file's place would never end."""
    if not path.is_file():
        if path.exists():
            raise ValueError("not a file")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
            raise ValueError("an address: expected a file, download it first")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    size = os.fstat(descriptor).st_size
    if size > MAX_FILE_BYTES:
        file.close()
        raise ValueError(f"{size:,} bytes: expected at most {MAX_FILE_BYTES:,}")
    return file


def _is_file(image: Any) -> bool:
    return callable(getattr(image, "read", None))


def _of_file(file: Any, number: int) -> Loaded | Encoded:
    """From where it stands."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) and name else f"file {number}"
    try:
        content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        return Loaded(name, None, reason_of(error))
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise UserError(
            f"image {number}: expected a file that is open for reading bytes (mode rb), got one that gives "
            f"{type(content).__name__}: {printable(name)}"
        )
    if len(content) > MAX_FILE_BYTES:
        return Loaded(name, None, f"more than {MAX_FILE_BYTES:,} bytes")
    return Encoded(name, bytes(content))


def _of_pil(image: pil.Image, number: int, prepare: Prepare) -> Loaded:
    name = getattr(image, "filename", "")
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) and name else f"image {number}"
    try:
        with check_image(image):
            picture = of_pillow(image)
            return Loaded(name, _own(prepare(picture)), size=(picture.height, picture.width))
    except ValueError as error:
        return Loaded(name, None, reason_of(error))


def _of_pixels(image: Any, number: int, prepare: Prepare) -> Loaded:
    tensor = callable(getattr(image, "detach", None))
    pixels = np.asarray(image.detach().cpu() if tensor else image)
    if tensor and pixels.ndim == 3 and (pixels.shape[0] in (1, 3, 4) or pixels.shape[2] not in (1, 3, 4)):
        pixels = pixels.transpose(1, 2, 0)  # (C, H, W), as torchvision reads and shows images
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in pixels.shape:
        raise _refused(image, number)
    grey = channels == 1

    def rows(first: int, end: int) -> np.ndarray:
        part = pixels[first:end].reshape(end - first, -1, channels)
        return np.repeat(part, 3, 2) if grey else part[..., :3]

    picture = Picture(pixels.shape[0], pixels.shape[1], rows)
    return Loaded(
        f"{'tensor' if tensor else 'array'} {number}",
        _own(prepare(picture)),
        size=(picture.height, picture.width),
    )


def _own(pixels: np.ndarray) -> np.ndarray:
    """Not a view of what the caller may fill anew."""
    return pixels.copy() if pixels.base is not None else pixels


def _described(image: Any) -> str:
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        return f"{type(image).__name__} {tuple(image.shape)} {image.dtype}"
    return type(image).__name__


def _refused(image: Any, number: int) -> UserError:
    hint = ""
    shape = tuple(getattr(image, "shape", ()))
    if "float" in str(getattr(image, "dtype", "")):
        hint = "; give floats of 0 to 1 as (255 * x).round() in uint8"
    elif len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3, 4):
        hint = "; its channels come first: give x.transpose(1, 2, 0)"
    return UserError(f"image {number}: expected {FORMS}, got {_described(image)}{hint}")
