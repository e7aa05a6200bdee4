"""Where images lie: a folder or a zip with REAL/ and FAKE/, flat or under train/val/test; nothing is decoded here.

Official CIFAKE is such a source in each of its forms: unpacked, as Kaggle lays it out, or the author's zip as it came.
"""

import hashlib
import os
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lightning_cifake.data.archive import MemberReader, add_directory, list_members
from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_bounded

FAKE, REAL = 0, 1  # the order of image_dataset_from_directory, so the output is P(REAL)
CLASS_NAMES = ("FAKE", "REAL")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # what image_dataset_from_directory takes
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
UNKNOWN_CLASS = 0
_ORDER = b"by folder, then by name"  # in the key: what was cached in an older order of entries is decoded again
_CIFAKE_NAME = re.compile(r"\d{1,4}(?: \((\d{1,2})\))?\.jpg")


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    Attributes:
        path: relative to the source, behind any common prefix, with forward slashes: ``train/FAKE/0 (2).jpg``.
        label: FAKE (0) or REAL (1).
        part: ``train``, ``val`` or ``test`` where the source says so, otherwise ``""``.
        object_class: 1 to 10 as CIFAKE's file names count (1 airplane ... 10 truck), 0 where the name does not say.
    """

    path: str
    label: int
    part: str
    object_class: int


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used, and why."""

    path: str
    reason: str


@dataclass
class Source:
    """A folder or a zip with images in it.

    Attributes:
        root: what the user named.
        entries: the images, sorted as image_dataset_from_directory sorts: FAKE before REAL, then by folder, then by
            name, each by code point: a folder's own files come before those of the folders in it.
        problems: files in the class folders that are not named like images.
    """

    root: Path
    entries: list[Entry]
    problems: list[Problem]
    _locations: dict[str, str | zipfile.ZipInfo] = field(repr=False)
    _reader: MemberReader | None = field(default=None, repr=False)

    def read(self, path: str) -> bytes:
        """The bytes of one file. Safe to call from several processes.

        Raises:
            OSError: it cannot be read.
            ValueError: its archive member is damaged; it is larger than any image's file.
        """
        location = self._locations[path]
        if isinstance(location, str):
            return read_bounded(Path(location), MAX_FILE_BYTES)
        if self._reader is None:
            self._reader = MemberReader(self.root)
        return self._reader.read(location)


def source_key(root: Path) -> str:
    """A digest that changes when the source does, without reading the images: what a cache is keyed by.

    A zip is known by its central directory, which holds the CRC-32 of every member; a folder by the path, size and
    times of modification and change of every file.
    """
    _require(root)
    digest = hashlib.sha256(_ORDER)
    try:
        if root.is_dir():
            for path, entry in _walk(root):
                stat = entry.stat(follow_symlinks=not _broken(entry))
                stamp = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0"
                digest.update(stamp.encode(errors="surrogateescape"))
        else:
            add_directory(root, digest)
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror or error}") from error
    return digest.hexdigest()


def open_source(root: Path) -> Source:
    """Lists a folder's or an archive's images.

    Raises:
        UserError: no such path, not a zip, no images, only one of the two classes, or more than one dataset in it.
    """
    _require(root)
    locations: dict[str, str | zipfile.ZipInfo]
    locations = {path: entry.path for path, entry in _walk(root)} if root.is_dir() else _list_archive(root)
    entries, problems, prefix = _sort_out(root, locations)
    for name, label in (("FAKE", FAKE), ("REAL", REAL)):
        if not any(entry.label == label for entry in entries):
            raise UserError(
                f"{root} holds no image under {name}/: expected both {name}/ and its twin, {_found(entries)}"
            )
    trimmed = {path[len(prefix) :]: location for path, location in locations.items() if path.startswith(prefix)}
    entries.sort(key=lambda entry: (entry.label, entry.path.rpartition("/")[::2]))
    problems.sort(key=lambda problem: problem.path)  # an archive lists its members in any order
    return Source(root, entries, problems, trimmed)


def _require(root: Path) -> None:
    try:
        exists = root.exists()
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        raise UserError(f"cannot read {root}: {error.strerror or error}") from error
    if not exists:
        raise UserError(
            f"no data at {root}: expected a folder or a .zip with REAL/ and FAKE/ in it, or the word demo "
            "(python -m lightning_cifake download fetches CIFAKE)"
        )
    if not root.is_dir() and not root.is_file():
        raise UserError(
            f"{root} is neither a folder nor a file: expected a folder or a .zip with REAL/ and FAKE/ in it"
        )


def _walk(root: Path) -> list[tuple[str, os.DirEntry[str]]]:
    """Every file below a folder as (relative path, entry), sorted; what :func:`_hidden` names is passed over.

    Links are followed, but not back into a folder that leads to them. A link to nothing counts as a file, so that it is
    reported as one that cannot be read.
    """
    found: list[tuple[str, os.DirEntry[str]]] = []
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(root), "", frozenset())]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            stat = Path(folder).stat()
            here = (stat.st_dev, stat.st_ino)
            if here in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _hidden(entry.name):
                        continue
                    broken = _broken(entry)
                    if not broken and entry.is_dir():
                        pending.append((entry.path, f"{prefix}{entry.name}/", above | {here}))
                    elif broken or entry.is_file():
                        found.append((prefix + entry.name, entry))
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    found.sort(key=lambda item: item[0])
    return found


def _broken(entry: os.DirEntry[str]) -> bool:
    """Whether this is a link to nothing, or to itself."""
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError:
        return True
    return False


def _list_archive(root: Path) -> dict[str, str | zipfile.ZipInfo]:
    named = ((member.filename.removeprefix("./"), member) for member in list_members(root) if not member.is_dir())
    return {path: member for path, member in named if not _hidden(path)}


def _hidden(path: str) -> bool:
    """Dot files, dot folders, and what macOS puts beside the files when it packs them."""
    return path.startswith((".", "__MACOSX")) or "/." in path or "/__MACOSX" in path


def _sort_out(root: Path, paths) -> tuple[list[Entry], list[Problem], str]:
    """Splits paths into images and others; the third value is the prefix that all class folders share."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    prefixes: Counter[str] = Counter()
    for path in paths:
        parts = path.split("/")
        at = next((i for i, part in enumerate(parts[:-1]) if part.upper() in CLASS_NAMES), None)
        if at is None:
            continue
        part = PARTS.get(parts[at - 1].lower(), "") if at else ""
        prefix = "/".join(parts[: at - 1 if part else at])
        prefix += "/" if prefix else ""
        relative = path[len(prefix) :]
        if not path.lower().endswith(IMAGE_SUFFIXES):
            problems.append(Problem(relative, f"not named like an image: expected {' '.join(IMAGE_SUFFIXES)}"))
            continue
        prefixes[prefix] += 1
        entries.append(Entry(relative, CLASS_NAMES.index(parts[at].upper()), part, _object_class(parts[-1])))
    if not entries:
        raise UserError(
            f"no images in {root}: expected {' '.join(IMAGE_SUFFIXES)} files below REAL/ and FAKE/, found none"
        )
    if len(prefixes) > 1:
        names = ", ".join(repr(prefix) for prefix, _ in prefixes.most_common(3))
        raise UserError(f"{root} holds {len(prefixes)} datasets ({names}): name one of them")
    return entries, problems, next(iter(prefixes))


def _object_class(name: str) -> int:
    match = _CIFAKE_NAME.fullmatch(name)
    if not match:
        return UNKNOWN_CLASS
    number = int(match[1] or 1)
    return number if 1 <= number <= 10 else UNKNOWN_CLASS


def _found(entries: list[Entry]) -> str:
    counts = Counter(CLASS_NAMES[entry.label] for entry in entries)
    return "found " + ", ".join(f"{count} under {name}/" for name, count in counts.items())
