"""Decoded images on disk: written once, checked by checksums each time they are opened, then mapped into memory.

A folder holds ``images.npy`` (the pixels), ``index.npz`` (what is known of each image) and ``seal.json`` (checksums of
both, and its own digest). Every byte is read and checked before any pixel is used: at two gigabytes a second and core
that takes a fraction of a second for CIFAKE, and brings the pixels into memory, where they are wanted next. CRC-32
finds what disks and stray writes do; whoever may write here needs no forgery to change what is computed.
"""

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.errors import UserError
from lightning_cifake.files import (
    FileLock,
    exclusive,
    read_bounded,
    read_json,
    remove_abandoned,
    sealed_json,
    temporary_folder,
)
from lightning_cifake.machine import MACHINE_ERRORS, cores
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

_IMAGES, _INDEX, _SEAL = "images.npy", "index.npz", "seal.json"
_CHUNK_BYTES = 1 << 20  # bytes read at once to be checked
_PROGRESS_BYTES = 4 << 30  # bytes from which checking takes long enough for a bar
_LEFTOVER = re.compile(r"\.([0-9a-f]{32})(?:\..+\.tmp|\.lock|-\w+)")  # temporaries and locks, of 0.1.0 too
_ABANDONED_SECONDS = 3600.0  # seconds without a write, after which version 0.1.0, which held no lock, is taken for dead


class CachedArrays(NamedTuple):
    """What a cache folder holds: images (N, S, S, 3) uint8, a memory map, and what is known of them, by name."""

    images: np.ndarray
    known: dict[str, np.ndarray]


class Damaged(Exception):
    """A cache folder that cannot be used; says why."""


class Unsealed(Damaged):
    """One that an earlier version wrote, without checksums."""


class Writer:
    """Writes a cache folder: the pixels as they come, then :meth:`finish`.

    Args:
        folder: as :func:`building` makes it.
        image_size: S of (n, S, S, 3).
        most: no more images than this will come.

    Raises:
        UserError: the disk refuses it; from every method.
    """

    def __init__(self, folder: Path, image_size: int, most: int) -> None:
        self.folder, self.image_size, self.count = folder, image_size, 0
        self._cache = folder.parent.parent
        self._blocks: list[tuple[int, int]] = []  # images, CRC-32
        with _disk_errors(self._cache):
            header = _header(most, image_size)
            # written, not mapped: on a full disk a write is an error, a mapped page kills the process
            self._file = (folder / _IMAGES).open("wb")
            self._file.write(header)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what is still to be written: whoever comes here without finish() throws it away
            self._file.close()

    def append(self, pixels: np.ndarray) -> None:
        """Adds (n, S, S, 3) uint8."""
        if len(pixels):
            raw = np.ascontiguousarray(pixels).data.cast("B")
            self._blocks.append((len(pixels), zlib.crc32(raw)))
            with _disk_errors(self._cache):
                self._file.write(raw)
            self.count += len(pixels)

    def finish(self, known: dict[str, np.ndarray]) -> None:
        """Writes the index and the seal; nothing can be appended any more."""
        packed = io.BytesIO()
        np.savez(packed, **known)  # type: ignore[arg-type]
        seal = {
            "images": self.count,
            "image_size": self.image_size,
            "blocks": self._blocks,
            "index_bytes": packed.tell(),
            "index_sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
        }
        with _disk_errors(self._cache):
            self._file.seek(0)
            self._file.write(_header(self.count, self.image_size))  # as long: numpy leaves room for any number
            self._file.close()
            (self.folder / _INDEX).write_bytes(packed.getvalue())
            (self.folder / _SEAL).write_text(sealed_json(seal, indent=None))


def _header(count: int, image_size: int) -> bytes:
    """Of an .npy file; as long for any count."""
    header = io.BytesIO()
    shape = (count, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def open_cached(folder: Path) -> CachedArrays | None:
    """Opens a cache folder after every byte of it was checked; None where there is none.

    Raises:
        Damaged: it is not what was written, or cannot be read.
        UserError: the machine lacks what reading it takes; it may be sound.
    """
    try:
        if not folder.exists():
            return None
        if not (folder / _SEAL).exists() and (folder / _INDEX).exists():
            raise Unsealed("carry no checksums")
        seal, sealed = read_json(folder / _SEAL)
        if not sealed:
            raise Damaged("the seal lost its digest")
        packed = read_bounded(folder / _INDEX, seal["index_bytes"])
        if hashlib.sha256(packed).hexdigest() != seal["index_sha256"]:
            raise Damaged("the index is not what was written")
        size, count = seal["image_size"], seal["images"]
        header = _header(count, size)
        _check(folder / _IMAGES, header, size * size * 3, seal["blocks"])
        # "c": writes would stay in memory; torch warns about arrays that cannot be written
        images = np.memmap(folder / _IMAGES, np.uint8, "c", offset=len(header), shape=(count, size, size, 3))
        with np.load(io.BytesIO(packed), allow_pickle=False) as index:
            return CachedArrays(images, {name: index[name] for name in index.files})
    except (UserError, OSError, ValueError, LookupError, TypeError) as error:
        for each in (error, error.__cause__):
            if isinstance(each, OSError) and each.errno in MACHINE_ERRORS:
                raise UserError(f"cannot open the decoded images in {printable(folder)}: {reason_of(each)}") from error
        raise Damaged(reason_of(error)) from error


def _check(path: Path, header: bytes, image_bytes: int, blocks: list[list[int]]) -> None:
    """Holds the pixels against their checksums, on all cores: zlib and reading leave Python to other threads."""
    expected = len(header) + image_bytes * sum(images for images, _ in blocks)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise Damaged("the pixels' header is not what was written")
        if (found := file.seek(0, 2)) != expected:
            raise Damaged(f"the pixels have {found:,} bytes: expected {expected:,}")
    places = []
    at = len(header)
    for images, checksum in blocks:
        places.append((at, images * image_bytes, checksum))
        at += images * image_bytes
    local = threading.local()

    def check(place: tuple[int, int, int]) -> bool:
        start, length, checksum = place
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(bytearray(_CHUNK_BYTES))
        found = 0
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while length:
                got = file.readinto(local.buffer[: min(_CHUNK_BYTES, length)])
                if not got:
                    return False
                found = zlib.crc32(local.buffer[:got], found)
                length -= got
        return found == checksum

    pool = ThreadPoolExecutor(min(cores(), 16))
    try:
        try:
            checked = pool.map(check, places)
        except RuntimeError:  # this process may have no more threads
            checked = map(check, places)
        for number, right in enumerate(_with_progress_bar(checked, len(places), expected)):
            if not right:
                raise Damaged(f"block {number + 1:,} of {len(places):,} of the pixels is not what was written")
    finally:
        pool.shutdown(cancel_futures=True)  # found damaged, or interrupted: the rest need not be read


def _with_progress_bar(checked: Iterator[bool], blocks: int, size: int) -> Iterator[bool]:
    if size < _PROGRESS_BYTES:
        return checked
    from rich.console import Console
    from rich.progress import track

    return iter(track(checked, "checking the decoded images", total=blocks, console=Console(stderr=True)))


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes ``folder``'s name when all of it is written, and goes when anything fails.

    Raises:
        UserError: it cannot be made, or cannot take the name.
    """
    with ExitStack() as stack:
        with _disk_errors(folder.parent):
            made = stack.enter_context(temporary_folder(folder.parent, folder.name)) / "made"
            made.mkdir()
        yield made
        with _disk_errors(folder.parent):
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process was first, on a disk without locks: its copy is as good
                    raise


@contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """What the disk refuses, as one line; nothing else may happen in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise UserError(f"cannot write the decoded images to {printable(cache)}: {reason_of(error)}") from error
        what = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make that possible"
        raise UserError(
            f"cannot write the decoded images to {printable(cache)} ({reason_of(error)}): {what}, or name another "
            "folder with --data.cache_dir"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process makes this cache folder, and keeps others waiting until the block ends.

    Raises:
        UserError: nothing can be written there.
    """
    with ExitStack() as stack:
        with _disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(folder.parent / f".{folder.name}.lock", _say_waiting))
        yield


def _say_waiting() -> None:
    log.warning("another process decodes the same images: waiting for it")


def remove(folder: Path) -> None:
    """Removes a cache folder; a map of it that another process has open stays whole."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep(cache: Path) -> None:
    """Removes what killed processes left in the cache, whatever they decoded; never a living one's."""
    with suppress(OSError):
        with os.scandir(cache) as entries:  # there may be many other things
            names = [entry.name for entry in entries if entry.name.startswith(".")]
        for found in filter(None, map(_LEFTOVER.fullmatch, names)):
            path = cache / found[0]
            if path.name.endswith(".tmp"):
                remove_abandoned(cache, found[1])
            elif path.name.endswith(".lock"):
                _remove_lock(path)
            elif _seconds_idle(path) > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _remove_lock(path: Path) -> None:
    lock = FileLock(path)
    if lock.acquire():
        lock.release(remove=True)


def _seconds_idle(folder: Path) -> float:
    """Seconds since anything in a folder was last written."""
    return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
