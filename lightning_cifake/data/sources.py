"""Where images lie: a folder or a zip with REAL/ and FAKE/, flat or with train, val and test; nothing is decoded here.

Official CIFAKE is such a source in each of its forms: unpacked, as Kaggle lays it out, or the author's zip.
"""

import hashlib
import logging
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightning_cifake.data.archive import MemberReader, add_directory, list_members
from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.data.image_names import heif_suffixes, image_suffixes, is_hidden, suffix_of, walk
from lightning_cifake.data.layout import Classes, Entry, arrange
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, read_bounded
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

_ORDER = b"by part, folder and name"  # in the key: what was cached in an older order of entries is decoded again
_QUIET_SECONDS = 2.0  # a walk that takes longer is reported
_MS_DOS = 0  # a zip's member as Windows writes it


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
            name, each by code point: a folder's own files come before those of the folders in it. Where there are
            parts, they come before the folders: see :class:`~lightning_cifake.data.layout.Layout`.
        skipped: files in the class folders that are not named like images, counted by suffix.
        notes: remarks on the layout, a line each.
        classes: the class folders' names as ``data.classes`` gives them; ``""`` for FAKE and REAL.
    """

    root: Path
    entries: list[Entry]
    _locations: dict[str, str | zipfile.ZipInfo] = field(repr=False)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    classes: str = ""
    _reader: MemberReader | None = field(default=None, repr=False)

    def read(self, path: str) -> bytes:
        """The bytes of one file. Safe to call from several processes.

        Raises:
            OSError: it cannot be read.
            ValueError: its archive member is damaged; it is larger than any image's file.
        """
        location = self._locations[path]
        if isinstance(location, str):
            return read_bounded(self.root / location, MAX_FILE_BYTES)
        if self._reader is None:
            self._reader = MemberReader(self.root)
        return self._reader.read(location)


@dataclass(frozen=True)
class Listing:
    """What lies in a source, before it is known what it stands for.

    Attributes:
        root: a folder or a zip.
        key: hex digest that changes when the source does, without the images being read: what a cache is keyed by. A
            zip is known by its central directory, which holds the CRC-32 of every member; a folder by the path, size
            and times of modification and change of every file.
        paths: of a folder's files, relative, as :func:`~lightning_cifake.data.image_names.walk` finds them. An
            archive's are listed when it is opened: its key does not need them.
    """

    root: Path
    key: str
    paths: list[str]


def list_source(root: Path | str) -> Listing:
    """Walks a folder, once, or reads an archive's directory.

    Raises:
        UserError: no such path, not a zip, or a folder that cannot be read.
    """
    if not str(root).strip():  # Path("") would be the current folder
        raise UserError(
            "data.root: expected a folder or a .zip with REAL/ and FAKE/ in it, or the word demo, got nothing"
        )
    root = expand_user(root)
    _require_source(root)
    # what Pillow decodes here decides which files count: HEIC's where there are any, as it can be installed at any time
    optional = heif_suffixes()
    always = [suffix for suffix in image_suffixes() if suffix not in optional]
    digest = hashlib.sha256(_ORDER + " ".join(always).encode())
    paths: list[str] = []
    try:
        if not root.is_dir():
            if add_directory(root, digest, optional):
                digest.update(" ".join(optional).encode())
            return Listing(root, digest.hexdigest(), [])
        for path, where in _with_progress(walk(root), root):
            paths.append(path)
            digest.update(f"{path}\0{stamp(where)}\0".encode(errors="surrogateescape"))
        if any(suffix_of(path) in optional for path in paths):
            digest.update(" ".join(optional).encode())
    except OSError as error:
        raise UserError(f"cannot read {printable(root)}: {reason_of(error)}") from error
    return Listing(root, digest.hexdigest(), paths)


def stamp(path: str) -> str:
    """Size and times of a file, which change when it does; ``gone`` where there is none."""
    for follow in (True, False):  # a link to nothing has its own
        try:
            stat = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - a hundred thousand of them
            return f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        except OSError:
            continue
    return "gone"


def _with_progress(found: Iterable[tuple[str, str]], root: Path) -> Iterator[tuple[str, str]]:
    """Passes files on, and reports how many there are where the walk takes long."""
    last_report = started = time.monotonic()
    terminal = sys.stderr is not None and sys.stderr.isatty()
    count = 0
    for count, each in enumerate(found, 1):
        if count % 1000 == 0 and time.monotonic() - last_report > _QUIET_SECONDS:
            if terminal:
                print(f"\rlisting {printable(root)}: {count:,} files", end="", file=sys.stderr, flush=True)
            elif last_report == started:
                log.info("listing %s, %s files so far", printable(root), f"{count:,}")
            last_report = time.monotonic()
        yield each
    if last_report != started:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        log.info("listed %s: %s files in %.0f s", printable(root), f"{count:,}", time.monotonic() - started)


def open_source(root: Path | str | Listing, classes: Classes | None = None, one_dataset: bool = True) -> Source:
    """Lists a folder's or an archive's images.

    Args:
        root: the source, or its listing where that has been made.
        classes: the names of the class folders; FAKE and REAL by default.
        one_dataset: refuses what is not one data set of both classes.

    Raises:
        UserError: no such path, not a zip, no images, only one of the two classes, or more than one dataset in it.
    """
    listing = root if isinstance(root, Listing) else list_source(root)
    locations: dict[str, str | zipfile.ZipInfo]
    locations = {path: path for path in listing.paths} if listing.root.is_dir() else _list_archive(listing.root)
    layout = arrange(listing.root, locations, classes, one_dataset)
    entries, prefix = layout.entries, layout.prefix
    kept = {entry.path: locations[prefix + entry.path] for entry in entries}
    named = "" if classes in (None, Classes()) else str(classes)
    return Source(listing.root, entries, kept, layout.skipped, layout.notes, named)


def _require_source(root: Path) -> None:
    shown = printable(root)
    try:
        exists = root.exists()
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        raise UserError(f"cannot read {shown}: {reason_of(error)}") from error
    if not exists:
        raise UserError(
            f"no data at {shown}: expected a folder or a .zip with REAL/ and FAKE/ in it, or the word demo "
            "(python -m lightning_cifake download fetches CIFAKE)"
        )
    if not root.is_dir() and not root.is_file():
        raise UserError(
            f"{shown} is neither a folder nor a file: expected a folder or a .zip with REAL/ and FAKE/ in it"
        )


def _list_archive(root: Path) -> dict[str, str | zipfile.ZipInfo]:
    found: dict[str, str | zipfile.ZipInfo] = {}
    for member in list_members(root):
        path = _path_of(member)
        if path.endswith("/") or any(is_hidden(name) for name in path.split("/")):
            continue
        if path in found:  # ``REAL/1.jpg`` and ``./REAL/1.jpg``: either could be meant
            raise UserError(
                f"{printable(root)}: expected each file once, got {printable(path)} twice; pack its files again"
            )
        found[path] = member
    return found


def _path_of(member: zipfile.ZipInfo) -> str:
    r"""A member's path with forward slashes; some programs on Windows write ``train\REAL\1.jpg``."""
    name = member.filename
    if "\\" in name and ("/" not in name or member.create_system == _MS_DOS):
        name = name.replace("\\", "/")
    return name.removeprefix("./").lstrip("/")
