"""Which files of a folder or an archive are images, by their names: one rule for every command. Decodes nothing."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, features

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

KERAS_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # what image_dataset_from_directory takes

# Pillow's name of each format that is read -> the names of its files. Formats that run other programs (EPS) or hold
# something else than one picture (PSD, ICNS, PDF) are not among them.
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_NEEDS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # what Pillow can be built without
# what systems put beside the files: macOS into archives, network drives (thumbnails under each picture's name), Windows
_OF_THE_SYSTEM = ("@eadir", "$recycle.bin", "system volume information", "lost+found")
_LISTED_SUFFIXES = 8


@cache
def decodable_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that Pillow decodes here; HEIF with the extra ``heic``."""
    with suppress(ImportError, OSError):  # not there, or not for this system
        if find_spec("pillow_heif") is not None:
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return tuple(
        name for name in FORMATS if (name in Image.OPEN if name == "HEIF" else features.check(_NEEDS.get(name, "pil")))
    )


@cache
def image_suffixes() -> tuple[str, ...]:
    """How the names of files end that are taken for images, in small letters: ``.bmp``, ``.gif``, ``.jpeg``..."""
    return tuple(suffix for name in decodable_formats() for suffix in FORMATS[name])


def heif_suffixes() -> tuple[str, ...]:
    """Those of :func:`image_suffixes` that are there only where ``pillow_heif`` is installed."""
    return tuple(suffix for suffix in FORMATS["HEIF"] if suffix in image_suffixes())


def suffix_of(name: str) -> str:
    """What a file's name ends in, in small letters with its dot; ``""`` where it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million names: four times as fast as a Path


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image: what it holds is seen when it is decoded."""
    return suffix_of(name) in image_suffixes()


def is_hidden(name: str) -> bool:
    """Whether one component of a path is passed over, with all below it.

    Those are names that begin with a dot (``._photo.jpg``, ``.ipynb_checkpoints``), and what systems put beside the
    files (``__MACOSX``, ``@eaDir``).
    """
    return name.startswith(".") or name.lower().startswith("__macosx") or name.lower() in _OF_THE_SYSTEM


def count_by_suffix(names: Counter[str]) -> str:
    """Names that were passed over, counted by :func:`suffix_of`: ``12 .heic, 2 .txt, 1 without a suffix``."""
    parts = [
        f"{count:,} {printable(suffix) if suffix else 'without a suffix'}"
        for suffix, count in names.most_common(_LISTED_SUFFIXES)
    ]
    rest = names.total() - sum(count for _, count in names.most_common(_LISTED_SUFFIXES))
    return ", ".join([*parts, f"{rest:,} of other kinds"] if rest else parts)


def walk(folder: Path | str, unreadable: Callable[[str, OSError], None] | None = None) -> Iterator[tuple[str, str]]:
    """Everything below a folder that is no folder itself, as (relative path with forward slashes, its whole path).

    Comes as it is found: a folder's own files by code point, then those of the folders in it, in the same order. What
    :func:`is_hidden` names is passed over. Links are followed, to files and to folders, but not back into a folder that
    leads to them. A link to nothing or to itself, a pipe and a device are listed too, so that they can be reported.

    Args:
        folder: where to begin.
        unreadable: called with a folder that cannot be read, in place of an error; the others follow.

    Raises:
        UserError: a folder cannot be read; raised when it is come to.
    """
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(folder), "", frozenset())]
    while pending:
        path, prefix, above = pending.pop()
        try:
            stat = Path(path).stat()
            here = (stat.st_dev, stat.st_ino)
            if here in above:
                continue
            files: list[str] = []
            folders: list[str] = []
            with os.scandir(path) as entries:
                for entry in entries:
                    if not is_hidden(entry.name):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            if unreadable is not None:
                unreadable(path, error)
                continue
            raise UserError(f"cannot read the folder {printable(path)}: {reason_of(error)}") from error
        # names alone: of a million files they take a hundred megabytes, and what scandir gives three times as much
        files.sort()
        folders.sort(reverse=True)
        for name in files:
            yield prefix + name, os.path.join(path, name)  # noqa: PTH118 - a million of them
        pending += [(os.path.join(path, name), f"{prefix}{name}/", above | {here}) for name in folders]  # noqa: PTH118


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
