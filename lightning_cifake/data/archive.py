"""A zip's members, listed and read without trust: its directory is held against what lies in the file.

The directory of a zip has no checksum of its own: one flipped bit in a name makes a REAL image a FAKE one. So every
name is compared with the one that the member itself begins with, and the number of entries with the one at the end.
Members are read by position, not through a memory map: of a file that is cut off while it is read that gives a short
read, where a map would end the process (SIGBUS).
"""

import os
import struct
import weakref
import zipfile
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

# what zipfile raises on opening a damaged or foreign file
_BAD_ZIP = (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, LookupError, OverflowError)
_LOCAL, _ENTRY, _END, _END64, _LOCATOR64 = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENCRYPTED, _UTF8 = 0x1, 0x800  # of a member's flags
_HEADER = 30  # bytes before a member's name
_CHUNK = 1 << 20
MAX_DIRECTORY_BYTES = 2**29  # some five million members, which take gigabytes once they are listed
_ROOM = 128  # bytes read beyond what the directory tells, for a local header's extra fields


def list_members(root: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip in the order of its directory; folders too.

    Raises:
        UserError: not a zip, or one whose directory does not agree with its members: damaged, or a bomb of members that
            share their bytes. One line.
    """
    try:
        with root.open("rb") as file, _opened(file) as archive:
            members = archive.infolist()
            counted = _miscounted(file, len(members))
    except _BAD_ZIP as error:
        raise _not_a_zip(root, error) from error
    except OSError as error:
        raise _unreadable(root, error) from error
    if counted is not None:
        raise _damaged(root, f"its directory ends with a count of {counted:,} files and lists {len(members):,}")
    names = Counter(member.filename for member in members if not member.is_dir())
    if twice := [name for name, count in names.items() if count > 1]:  # programs differ in which one they take
        raise _damaged(root, f"{len(twice):,} of its names stand for several files, first {printable(twice[0])}")
    try:
        _hold_against_headers(root, members)
    except OSError as error:
        raise _unreadable(root, error) from error
    return members


def add_directory(root: Path, digest: Any, endings: tuple[str, ...] = ()) -> bool:
    """Updates a digest with what lies behind the last member: names, sizes and CRC-32s of all members.

    Returns:
        Whether a name there has one of the endings in it, in small letters or capitals.

    Raises:
        OSError: it cannot be read.
        UserError: not a zip.
    """
    with root.open("rb") as file:
        try:
            file.seek(_directory_at(file))
        except _BAD_ZIP as error:
            raise _not_a_zip(root, error) from error
        found, before = False, b""
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            found = found or any(each.encode() in (before + chunk).lower() for each in endings)
            before = chunk[-max(map(len, endings), default=1) :]
    return found


def _directory_at(file: BinaryIO) -> int:
    length = file.seek(0, os.SEEK_END)
    end = _end_of(file)
    if end is not None and end.offset + end.size <= length <= end.offset + MAX_DIRECTORY_BYTES:
        file.seek(end.offset)
        if file.read(4) == _ENTRY:
            return end.offset
    # an empty archive, or bytes before it: zipfile knows these, but takes a second for 120,000 members
    with _opened(file) as archive:
        return archive.start_dir


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    """Raises what zipfile raises, and BadZipFile before it reads a directory that would fill the memory."""
    end = _end_of(file)
    if end is not None and end.size > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"a directory of {end.size:,} bytes: expected at most {MAX_DIRECTORY_BYTES:,}")
    return zipfile.ZipFile(file)


class _End(NamedTuple):
    """What stands at the end of a zip: of its directory, the number of entries, the bytes and where they begin."""

    entries: int
    size: int
    offset: int
    wide: bool  # zip64: the number is not cut off at 16 bits


def _end_of(file: BinaryIO) -> _End | None:
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 65_557 - 76))  # the longest comment, the end record, those of zip64 before it
    tail = file.read()
    at = len(tail) - 22  # as zipfile looks for it: without a comment, else the last one
    if tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
        at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        return None
    if at >= 76 and tail[at - 20 : at - 16] == _LOCATOR64 and tail[at - 76 : at - 72] == _END64:
        entries, size, offset = struct.unpack("<QQQ", tail[at - 44 : at - 20])
        return _End(entries, size, offset, wide=True)
    entries, size, offset = struct.unpack("<HII", tail[at + 10 : at + 20])
    return _End(entries, size, offset, wide=False)


def _miscounted(file: BinaryIO, entries: int) -> int | None:
    """What the end record counts where that is not this many entries; None where it is, or where it does not tell."""
    end = _end_of(file)
    if end is None or end.entries == entries:
        return None
    # macOS counts only so far, and begins again, where others would write the longer record of zip64
    return None if not end.wide and end.entries in (0xFFFF, entries % 0x10000) else end.entries


def _hold_against_headers(root: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuses a directory that gives members other names than they have, or two of them the same bytes.

    A member without a header of its own is left for whoever reads it.
    """
    reader = MemberReader(root)
    spans = []
    others = 0
    example = ""
    for member in members:
        name = _raw_name(member)
        header = reader.at(member.header_offset, _HEADER + len(name))
        if len(header) < _HEADER or header[:4] != _LOCAL:
            continue
        utf8, name_length, extra_length = _of_header(header)
        read_alike = name.isascii() or utf8 == bool(member.flag_bits & _UTF8)
        if name_length != len(name) or header[_HEADER:] != name or not read_alike:
            others += 1
            own = reader.at(member.header_offset + _HEADER, name_length).decode(errors="replace")
            example = example or f"{printable(member.orig_filename)!r} what names itself {printable(own)!r}"
        start = member.header_offset
        spans.append((start, start + _HEADER + name_length + extra_length + member.compress_size))
    if others:
        raise _damaged(root, f"its directory gives {others:,} of {len(members):,} files another name: {example}")
    spans.sort()
    if shared := sum(after[0] < before[1] for before, after in pairwise(spans)):
        raise _damaged(root, f"{shared:,} of its {len(members):,} files begin inside another one")


def _of_header(header: bytes) -> tuple[bool, int, int]:
    """Of a member's own header: whether its name is UTF-8, the length of the name, that of the extra fields."""
    name, extra = struct.unpack("<HH", header[26:_HEADER])
    return bool(int.from_bytes(header[6:8], "little") & _UTF8), name, extra


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    """The bytes that zipfile decoded into the name."""
    return member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")


def _not_a_zip(root: Path, error: Exception) -> UserError:
    shown = printable(root)
    return UserError(f"{shown} is not a zip archive that can be read ({reason_of(error)}): expected a folder or a .zip")


def _unreadable(root: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {printable(root)}: {reason_of(error)}")


def _damaged(root: Path, how: str) -> UserError:
    return UserError(f"{printable(root)} is damaged: {how}; copy or fetch it again, or pack its files again")


class MemberReader:
    """Reads members of a zip, from any thread; a copy in another process opens the file for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None}

    def at(self, offset: int, length: int) -> bytes:
        """Bytes from a position on; fewer where the file ends, none where there is no such position."""
        if not 0 <= offset < 2**62:
            return b""
        if not hasattr(os, "pread"):  # Windows
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
        return os.pread(self._descriptor, length, offset)

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """A member's content. zipfile does this with a lock and a shared file position, at three times the cost.

        Raises:
            OSError: it cannot be read.
            ValueError: damaged, encrypted, packed in another way, or larger than any image's file.
        """
        for size in (member.compress_size, member.file_size):
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{size:,} bytes: expected at most {MAX_FILE_BYTES:,}")
        name = _raw_name(member)
        content = self.at(member.header_offset, _HEADER + len(name) + _ROOM + member.compress_size)
        if len(content) < _HEADER or content[:4] != _LOCAL or member.flag_bits & _ENCRYPTED:
            raise ValueError("damaged or encrypted archive member")
        _, name_length, extra_length = _of_header(content)
        if content[_HEADER : _HEADER + name_length] != name:
            raise ValueError("damaged archive member: it has another name than in the directory")
        start = _HEADER + name_length + extra_length
        if start + member.compress_size > len(content):
            content = self.at(member.header_offset, start + member.compress_size)
        packed = content[start : start + member.compress_size]
        if len(packed) < member.compress_size:
            raise ValueError("damaged archive member: the file ends before it")
        return _unpacked(packed, member)


def _unpacked(packed: bytes, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type == zipfile.ZIP_DEFLATED:
        try:
            # no more than was promised: a small member can unpack to gigabytes
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.file_size + 1)
        except zlib.error as error:
            raise ValueError(f"damaged archive member ({error})") from error
    elif member.compress_type == zipfile.ZIP_STORED:
        content = packed
    else:
        raise ValueError(f"archive member packed by method {member.compress_type}: expected stored or deflated")
    if zlib.crc32(content) != member.CRC:
        raise ValueError("damaged archive member: its CRC-32 does not fit")
    return content
