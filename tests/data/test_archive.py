"""Zips that are damaged or not meant well: nothing is mislabelled, nothing is missing unsaid, nothing fills memory."""

import hashlib
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.data import archive
from lightning_cifake.data.archive import MemberReader, add_directory, list_members
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.data.sources import Source, open_source
from lightning_cifake.errors import UserError

PACKED = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def refused(root: Path, *said: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(root)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(root))
    assert all(each in message for each in said), message


def directory_of(raw: bytes) -> int:
    return raw.index(b"PK\1\2")


def flipped(raw: bytes, at: int, bits: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]


def readings(source: Source) -> dict[tuple[str, int, str, int], bytes | None]:
    """Each entry with its content, None where it is refused."""
    found = {}
    for entry in source.entries:
        try:
            content = source.read(entry.path)
        except ValueError:
            content = None
        found[(entry.path, entry.label, entry.part, entry.object_class)] = content
    return found


@pytest.mark.parametrize("packed", PACKED)
def test_whatever_is_flipped_in_a_directory_no_image_changes_its_class_or_goes_missing_unsaid(
    madedata: Any, tmp_path: Path, packed: int
) -> None:
    files = madedata.files("kaggle", 2)
    files |= {"REAL/n\u00e4chste.jpg": b"x", "train/notes.txt": b"about"}
    files = {f"CIFAKE/{path}" if not path.startswith("REAL") else f"CIFAKE/train/{path}": files[path] for path in files}
    path = madedata.zip(tmp_path / "a.zip", files, packed)
    whole = path.read_bytes()
    right = readings(open_source(path))
    draw = random.Random(0)
    outcomes = {"refused": 0, "left out, and said": 0, "nothing changed": 0}
    for at in range(directory_of(whole), len(whole)):
        path.write_bytes(flipped(whole, at, 1 << draw.randrange(8)))
        try:
            found = readings(open_source(path))
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            outcomes["refused"] += 1
            continue
        assert found.keys() == right.keys(), at
        assert all(content in (right[key], None) for key, content in found.items()), at
        outcomes["nothing changed" if found == right else "left out, and said"] += 1
    assert all(outcomes.values()), outcomes


@pytest.mark.parametrize("packed", PACKED)
def test_a_name_in_the_directory_that_is_not_the_member_s_own_is_refused(
    madedata: Any, tmp_path: Path, packed: int
) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"), packed)
    raw = path.read_bytes()
    at = raw.index(b"REAL/1.jpg", directory_of(raw))
    path.write_bytes(raw[:at] + b"FAKE/9.jpg" + raw[at + 10 :])
    refused(path, "is damaged", "1 of 6 files", "'FAKE/9.jpg' what names itself 'REAL/1.jpg'")


def test_an_entry_that_is_swallowed_by_another_one_is_missed(madedata: Any, tmp_path: Path) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    raw = path.read_bytes()
    second = raw.index(b"PK\1\2", directory_of(raw) + 4)
    third = raw.index(b"PK\1\2", second + 4)
    first = directory_of(raw)
    longer = raw[: first + 32] + struct.pack("<H", third - second) + raw[first + 34 :]  # its comment takes in the next
    path.write_bytes(longer)
    assert len(zipfile.ZipFile(path).infolist()) == 5, "zipfile does not see it"
    refused(path, "a count of 6 files and lists 5")


def test_a_zip64_with_an_entry_missing_is_refused(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    raw = path.read_bytes()
    assert len(list_members(path)) == 6
    at = raw.index(b"PK\6\6") + 32
    path.write_bytes(raw[:at] + struct.pack("<Q", 7) + raw[at + 8 :])
    refused(path, "a count of 7 files and lists 6")


def test_over_65535_files_counted_as_macos_does_are_taken(madedata: Any, tmp_path: Path) -> None:
    names = [f"{label}/{i}.jpg" for label in ("REAL", "FAKE") for i in range(33_000)]
    path = madedata.zip(tmp_path / "a.zip", dict.fromkeys(names, b""))
    raw = path.read_bytes()
    at, end = raw.index(b"PK\6\6"), raw.index(b"PK\5\6")
    size, start = struct.unpack("<QQ", raw[at + 40 : at + 56])
    count = struct.pack("<HHLL", 66_000 % 65_536, 66_000 % 65_536, size, start)
    path.write_bytes(raw[:at] + raw[end : end + 8] + count + raw[end + 20 :])  # without the records of zip64
    assert len(open_source(path).entries) == 66_000
    path.write_bytes(raw[:at] + raw[end : end + 8] + b"\0\0\0\0" + count[4:] + raw[end + 20 :])
    refused(path, "a count of 0 files and lists 66,000")


@pytest.mark.parametrize("wide", [False, True])
def test_a_directory_that_would_fill_the_memory_is_refused_unread(tmp_path: Path, wide: bool) -> None:
    path = tmp_path / "a.zip"
    size = 0xF000_0000
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        if wide:
            file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, size, 0))
            file.write(struct.pack("<4sLQL", b"PK\6\7", 0, size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 0xFFFF_FFFF if wide else size, 0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive.zipfile, "ZipFile", lambda *_: pytest.fail("read"))
        for action in (list_members, lambda root: add_directory(root, hashlib.sha256())):
            with pytest.raises(UserError, match=r"a directory of 4,026,531,840 bytes: expected at most 536,870,912"):
                action(path)


def test_members_that_share_their_bytes_are_refused(madedata: Any, tmp_path: Path) -> None:
    """A bomb of overlapping members unpacks to terabytes, a member at a time."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(100_000)
    packed = kernel.compress(zeros) + kernel.flush()
    names = [b"REAL/1.jpg", b"FAKE/1.jpg", b"FAKE/2.jpg"]
    raw, offsets = b"", []
    for name in names:  # each one's content begins with the headers of those behind it
        offsets.append(len(raw))
        raw += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, zlib.crc32(zeros), len(packed), 100_000, 10, 0)
        raw += name
    raw += packed
    start = len(raw)
    for name, offset in zip(names, offsets, strict=True):
        raw += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 33, zlib.crc32(zeros), len(packed), 100_000, 10, 0, 0, 0, 0, 0,
            offset,
        ) + name  # fmt: skip
    raw += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(raw) - start, start, 0)
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    refused(path, "2 of its 3 files begin inside another one")


def test_a_name_that_is_there_twice_is_refused(madedata: Any, tmp_path: Path) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    with zipfile.ZipFile(path, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr("REAL/1.jpg", b"another")
    refused(path, "1 of its names stand for several files, first REAL/1.jpg")


@pytest.mark.parametrize("other", ["./REAL/1.jpg", "/REAL/1.jpg", "REAL\\1.jpg"])
def test_two_names_that_mean_the_same_file_are_refused(madedata: Any, tmp_path: Path, other: str) -> None:
    path = madedata.zip(tmp_path / "a.zip", {**madedata.files("flat"), other: b"another"})
    refused(path, "expected each file once, got REAL/1.jpg twice")


def test_a_folder_that_is_there_twice_is_no_fault(madedata: Any, tmp_path: Path) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    with zipfile.ZipFile(path, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr("REAL/", b"")
        made.writestr("REAL/", b"")
    assert len(open_source(path).entries) == 6


def test_names_that_lead_out_of_the_archive_reach_no_file(madedata: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"not for them")
    names = [f"REAL/../../{secret.name}", str(secret), "/REAL/1.jpg", "C:/REAL/2.jpg", "REAL/..", "FAKE/1.jpg"]
    path = madedata.zip(tmp_path / "a.zip", dict.fromkeys(names, b"inside"))
    try:
        source = open_source(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert {source.read(entry.path) for entry in source.entries} == {b"inside"}


def test_a_member_that_is_encrypted_or_packed_otherwise_is_left_out_and_named(madedata: Any, tmp_path: Path) -> None:
    files = madedata.files("flat")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content, zipfile.ZIP_LZMA if name == "FAKE/0.jpg" else zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    member = zipfile.ZipFile(path).getinfo("REAL/2.jpg")
    raw[member.header_offset + 6] |= 1
    raw[raw.index(b"REAL/2.jpg", directory_of(raw)) - 46 + 8] |= 1
    path.write_bytes(raw)
    images = load_images(path, cache_dir=tmp_path / "cache")
    reasons = {problem.path: problem.reason for problem in images.problems}
    assert len(images) == 4 and reasons.keys() == {"FAKE/0.jpg", "REAL/2.jpg"}
    assert "packed by method 14" in reasons["FAKE/0.jpg"] and "encrypted" in reasons["REAL/2.jpg"]


def zeros_member(path: Path, name: str, size: int) -> None:
    """Adds a member of zeros, without holding them."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        with made.open(member, "w", force_zip64=True) as file:
            for _ in range(size >> 22):
                file.write(bytes(1 << 22))


def test_a_member_that_says_it_is_larger_than_any_image_is_left_out_unread(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    zeros_member(path, "REAL/huge.jpg", MAX_FILE_BYTES + (1 << 22))
    monkeypatch.setattr(archive.zlib, "decompressobj", lambda *_: pytest.fail("unpacked"))
    images = load_images(path, cache_dir=tmp_path / "cache")
    assert [problem.path for problem in images.problems] == ["REAL/huge.jpg"]
    assert "272,629,760 bytes: expected at most 268,435,456" in images.problems[0].reason


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space")
def test_members_and_files_of_zeros_that_lie_about_their_size_stay_within_memory(
    madedata: Any, tmp_path: Path, warm: Any
) -> None:
    folder = madedata.folder(tmp_path / "folder", madedata.files("flat"))
    with (folder / "REAL" / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    zeros_member(path, "REAL/huge.jpg", 768 << 20)
    raw = path.read_bytes()
    at = raw.rindex(b"REAL/huge.jpg") - 46 + 24
    path.write_bytes(raw[:at] + struct.pack("<L", 1000) + raw[at + 4 :])  # says 1,000 bytes, unpacks to 768 MiB
    for root, bad in ((folder, "REAL/sparse.jpg"), (path, "REAL/huge.jpg")):
        asked = [str(root), str(tmp_path / "cache")]
        (done,) = warm.together({"call": "load_within_512_mib", "arguments": asked, "folder": str(tmp_path)})
        assert done.stdout.strip() == f"6 ['{bad}']", done.stderr


def test_a_pipe_in_the_place_of_an_image_does_not_end_the_wait_for_it(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    (root / "REAL" / "1.jpg").unlink()
    source = open_source(madedata.folder(tmp_path / "b", madedata.files("flat")))
    os.mkfifo(root / "REAL" / "1.jpg")
    source._locations["REAL/1.jpg"] = str(root / "REAL" / "1.jpg")  # it took the file's place after the listing
    with pytest.raises(OSError, match="not a file"):
        source.read("REAL/1.jpg")


CUT = """
import os, sys
from pathlib import Path
from lightning_cifake.data.sources import open_source
source = open_source(Path(sys.argv[1]))
first = source.read(source.entries[0].path)
os.truncate(sys.argv[1], 100)
for entry in source.entries:
    try:
        assert source.read(entry.path) == first
    except ValueError as error:
        print(error)
"""


def test_a_zip_that_is_cut_off_while_it_is_read_is_an_error_and_does_not_kill_the_process(
    madedata: Any, tmp_path: Path
) -> None:
    path = madedata.zip(tmp_path / "a.zip", {f"{label}/1.png": bytes(100_000) for label in ("REAL", "FAKE")})
    done = subprocess.run([sys.executable, "-c", CUT, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("damaged") == 2, (done.returncode, done.stderr)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_reader_holds_one_file_open_and_closes_it_with_itself(madedata: Any, tmp_path: Path) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    members = list_members(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        reader = MemberReader(path)
        for member in members:
            reader.read(member)
    del reader
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
