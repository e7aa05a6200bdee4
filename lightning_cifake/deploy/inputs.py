"""Which images are meant, and their pixels: files, folders, globs, a list of paths, bytes and arrays."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.data.image_file import MAX_FILE_BYTES, decode_image
from lightning_cifake.data.sources import IMAGE_SUFFIXES
from lightning_cifake.errors import UserError

STDIN = "-"


class Loaded(NamedTuple):
    """An image's name, and its pixels (H, W, 3) uint8 or why there are none."""

    name: str
    pixels: np.ndarray | None
    error: str | None = None


Image = str | Path | bytes | np.ndarray | Loaded


def find_images(patterns: Sequence[str]) -> Iterator[Path]:
    """Files as given, the images below folders, and what globs match; sorted within each, none twice.

    Nothing is kept but what has been seen, and that only where several things are given: memory stays flat.

    Raises:
        UserError: something given does not exist, or matches nothing; raised when it is come to.
    """
    seen: set[str] = set()
    for pattern in patterns:
        found = False
        for path in _matches(pattern):
            found = True
            if len(patterns) > 1:
                if str(path) in seen:
                    continue
                seen.add(str(path))
            yield path
        if not found:
            what = "has no images in it" if Path(pattern).is_dir() else "is no file, no folder, and matches nothing"
            raise UserError(f"{pattern} {what}: expected files that end in {' '.join(IMAGE_SUFFIXES)}")


def _matches(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    if path.is_dir():
        yield from _below(path)
    elif os.path.lexists(path):  # a link loop, a pipe, a device: an answer with its error
        yield path
    else:
        yield from (Path(name) for name in sorted(glob.iglob(pattern, recursive=True)) if Path(name).is_file())  # noqa: PTH207


def _below(folder: Path) -> Iterator[Path]:
    """The images of a folder, then those of the folders in it; links to folders are not followed: they may loop."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror or error}") from error
    for entry in listed:
        # Path's is_dir, not the entry's: that one raises on a link to itself
        if not Path(entry.path).is_dir() and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield Path(entry.path)
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def read_paths(listing: str) -> Iterator[Path]:
    """The paths in a file, one a line; ``-``: those on standard input.

    Raises:
        UserError: the file cannot be read.
    """
    if listing == STDIN:
        yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        return
    try:
        with Path(listing).open(encoding="utf-8", errors="surrogateescape") as file:
            yield from (Path(line.rstrip("\n")) for line in file if line.strip())
    except OSError as error:
        raise UserError(f"cannot read the paths in {listing}: {error.strerror or error}") from error


def load(image: Image, number: int = 0) -> Loaded:
    """An image's pixels, at its own size. A file that cannot be read is an error, not an exception.

    Raises:
        UserError: an array that is no image: expected (H, W, 3) uint8.
    """
    if isinstance(image, Loaded):
        return image
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(
                f"expected an image as (H, W, 3) uint8 RGB, came array {number}: {image.shape} {image.dtype}"
            )
        return Loaded(f"array {number}", image)
    if isinstance(image, bytes):
        return _decoded(f"bytes {number}", image, "")
    path = Path(image)
    try:
        return _decoded(str(path), _read(path), path.suffix)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return Loaded(str(path), None, reason or str(error))


def _read(path: Path) -> bytes:
    """Opened without waiting: a pipe that takes a file's place would never end."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{size:,} bytes: expected at most {MAX_FILE_BYTES:,}")
        return file.read(MAX_FILE_BYTES)


def _decoded(name: str, content: bytes, suffix: str) -> Loaded:
    try:
        return Loaded(name, decode_image(content, None))
    except ValueError as error:
        return Loaded(name, None, str(error))
