import io
import itertools
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.data import sources
from lightning_cifake.data.sources import list_source, open_source
from lightning_cifake.errors import UserError

LAYOUTS = ("flat", "parts", "kaggle", "author")


def source_key(root: Path) -> str:
    return list_source(root).key


def raises_one_line(action: Any, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_and_its_zip_give_the_same_entries_problems_and_bytes(
    madedata: Any, tmp_path: Path, layout: str, packed: int
) -> None:
    files = madedata.files(layout)
    first = next(path for path in files if path.endswith("jpg"))
    files[first.replace(".jpg", ".txt")] = b"a note"
    files[first.replace(".jpg", ".ini")] = b"another"
    folder = open_source(madedata.folder(tmp_path / "folder", files))
    archive = open_source(madedata.zip(tmp_path / "a.zip", dict(reversed(files.items())), packed))
    assert folder.entries == archive.entries
    assert folder.skipped == archive.skipped == {".txt": 1, ".ini": 1}
    in_files = {
        entry.path: next(files[path] for path in files if path.endswith(entry.path)) for entry in folder.entries
    }
    for path, content in in_files.items():
        assert folder.read(path) == archive.read(path) == content


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fakes_come_first_then_code_points_decide(madedata: Any, tmp_path: Path, layout: str) -> None:
    entries = open_source(madedata.zip(tmp_path / "a.zip", madedata.files(layout, 12))).entries
    assert [entry.label for entry in entries] == sorted(entry.label for entry in entries)
    for _, of_label in itertools.groupby(entries, lambda entry: entry.label):
        paths = [entry.path for entry in of_label]
        assert paths == sorted(paths)


@pytest.mark.parametrize(
    ("layout", "parts"),
    [("flat", {""}), ("parts", {"train", "val", "test"}), ("kaggle", {"train", "test"}), ("author", {"train", "test"})],
)
def test_parts_and_labels_come_from_the_folders_and_the_common_prefix_goes(
    madedata: Any, tmp_path: Path, layout: str, parts: set[str]
) -> None:
    entries = open_source(madedata.folder(tmp_path, madedata.files(layout))).entries
    assert {entry.part for entry in entries} == parts
    for entry in entries:
        folder = ("FAKE/", "REAL/")[entry.label]
        assert entry.path.startswith(f"{entry.part}/{folder}" if entry.part else folder)


@pytest.mark.parametrize("name", ["training", "valid", "Validation", "TEST"])
def test_other_names_of_the_parts_and_small_letters_are_understood(madedata: Any, tmp_path: Path, name: str) -> None:
    files = {f"{name}/{label}/1.JPG": madedata.encoded(1) for label in ("real", "Fake")}
    entries = open_source(madedata.folder(tmp_path, files)).entries
    expected = {"training": "train", "valid": "val", "Validation": "val", "TEST": "test"}[name]
    assert [(entry.label, entry.part) for entry in entries] == [(0, expected), (1, expected)]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0000.jpg", 1),
        ("0.jpg", 1),
        ("999 (2).jpg", 2),
        ("4999 (10).jpg", 10),
        ("0 (11).jpg", 0),
        ("0 (0).jpg", 0),
        ("cat.jpg", 0),
        ("12345.jpg", 0),
        ("1.png", 0),
        ("1 (2).jpg.png", 0),
    ],
)
def test_object_classes_come_from_cifakes_file_names_alone(
    madedata: Any, tmp_path: Path, name: str, number: int
) -> None:
    source = open_source(madedata.folder(tmp_path, {f"{label}/{name}": b"x" for label in ("REAL", "FAKE")}))
    assert [entry.object_class for entry in source.entries] == [number, number]


def test_dot_files_dot_folders_and_macos_leftovers_are_passed_over(madedata: Any, tmp_path: Path) -> None:
    files = madedata.files("flat")
    plain = open_source(madedata.folder(tmp_path / "plain", files)).entries
    for extra in (
        ".hidden/REAL/1.jpg",
        "REAL/._0.jpg",
        "REAL/.cache/1.jpg",
        "__MACOSX/REAL/1.jpg",
        "FAKE/.ipynb_checkpoints/1-checkpoint.jpg",
        "REAL/@eaDir/1.jpg/thumb.jpg",
    ):
        files[extra] = b"x"
    for root in (madedata.folder(tmp_path / "more", files), madedata.zip(tmp_path / "more.zip", files)):
        source = open_source(root)
        assert source.entries == plain and not source.skipped and not source.notes


def test_members_that_begin_with_a_dot_and_a_slash_are_ordinary(madedata: Any, tmp_path: Path) -> None:
    files = madedata.files("kaggle")
    dotted = open_source(madedata.zip(tmp_path / "a.zip", {f"./{path}": content for path, content in files.items()}))
    assert dotted.entries == open_source(madedata.folder(tmp_path / "b", files)).entries
    assert dotted.read("train/FAKE/0.jpg") == files["train/FAKE/0.jpg"]


def test_what_is_no_dataset_is_one_clear_line(madedata: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.zip"
    text.write_text("not an archive, only called one\n" * 100)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(madedata.zip(tmp_path / "whole.zip", madedata.files("flat")).read_bytes()[:-200])
    nothing = tmp_path / "nothing.zip"
    nothing.write_bytes(b"")
    one = madedata.folder(tmp_path / "one", {"REAL/1.jpg": b"x"})
    two = madedata.folder(tmp_path / "two", {f"{a}/{b}/1.jpg": b"x" for a in "ab" for b in ("REAL", "FAKE")})
    named = madedata.folder(tmp_path / "named", {"REAL/1.txt": b"x", "FAKE/1.txt": b"x"})
    for root, *words in (
        (tmp_path / "missing", "no data at", "missing"),
        (text, "text.zip", "not a zip archive"),
        (cut, "cut.zip", "not a zip archive"),
        (nothing, "nothing.zip", "not a zip archive"),
        (empty, "no images in", "REAL/ and FAKE/"),
        (one, "no image under FAKE:", "got REAL/ (1 image)"),
        (two, "2 datasets", "a/ (2 images)", "b/ (2 images)"),
        (named, "no images in", ".jpg", "got 2 .txt"),
        (Path("x" * 5000), "cannot read"),
        (Path("a\0b"), "no data at a\\x00b"),
        ("", "got nothing"),
        (" ", "got nothing"),
        (Path(os.devnull), "neither a folder nor a file"),
    ):
        raises_one_line(lambda root=root: open_source(root), *words)
    for root in (tmp_path / "missing", text, cut, nothing, Path("x" * 5000)):
        raises_one_line(lambda root=root: source_key(root), root.name[:50])


def test_a_truncated_archive_never_ends_in_anything_but_a_user_error(madedata: Any, tmp_path: Path) -> None:
    whole = madedata.zip(tmp_path / "whole.zip", madedata.files("flat", 1)).read_bytes()
    cut = tmp_path / "cut.zip"
    directory = whole.index(b"PK\1\2")
    for length in range(1, len(whole), 1 + len(whole) // 150):
        cut.write_bytes(whole[:length])
        for action in (open_source, source_key):
            with pytest.raises(UserError):
                action(cut)
    for at in range(directory, len(whole)):  # a flipped byte may leave it readable, but nothing else may come of it
        cut.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        for action in (open_source, source_key):
            try:
                action(cut)
            except UserError as error:
                assert "cut.zip" in str(error)


def test_a_folder_or_an_archive_that_may_not_be_read_is_a_user_error(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = madedata.folder(tmp_path / "data", madedata.files("flat"))
    archive = madedata.zip(tmp_path / "data.zip", madedata.files("flat"))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    scan = os.scandir
    monkeypatch.setattr(sources.os, "scandir", lambda path: refuse() if str(path).endswith("REAL") else scan(path))
    raises_one_line(lambda: open_source(root), "REAL", "Permission denied")
    raises_one_line(lambda: source_key(root), "REAL", "Permission denied")
    monkeypatch.setattr(Path, "open", refuse)
    raises_one_line(lambda: source_key(archive), "data.zip", "Permission denied")
    monkeypatch.setattr(Path, "exists", refuse)
    raises_one_line(lambda: open_source(archive), "data.zip", "Permission denied")


@pytest.mark.parametrize("through_link", [False, True])
def test_links_are_followed_and_loops_end(madedata: Any, tmp_path: Path, through_link: bool) -> None:
    files = madedata.files("flat")
    root = madedata.folder(tmp_path / "data", {path: files[path] for path in files if path.startswith("REAL")})
    elsewhere = madedata.folder(tmp_path / "elsewhere", {path[5:]: files[path] for path in files if "FAKE" in path})
    (root / "FAKE").symlink_to(elsewhere)
    (root / "REAL" / "up").symlink_to(root)
    (root / "REAL" / "other").mkdir()
    (root / "REAL" / "other" / "back").symlink_to(root / "REAL")
    (elsewhere / "cross").symlink_to(root / "REAL")  # FAKE/cross/up/FAKE/cross/... if nobody stops it
    if through_link:
        (tmp_path / "named").symlink_to(root)
        root = tmp_path / "named"
    source = open_source(root)
    plain = open_source(madedata.folder(tmp_path / "plain", files)).entries
    assert set(plain) <= set(source.entries) and len(source.entries) < 40
    assert source_key(root) == source_key(root)


def test_a_link_to_nothing_or_to_itself_is_a_file_that_cannot_be_read(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path, madedata.files("flat"))
    (root / "REAL" / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "REAL" / "self.jpg").symlink_to("self.jpg")
    source = open_source(root)
    assert source_key(root)
    for name in ("REAL/gone.jpg", "REAL/self.jpg"):
        assert name in [entry.path for entry in source.entries]
        with pytest.raises(OSError):
            source.read(name)


def test_a_folders_key_changes_with_any_file_and_only_then(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path / "data", madedata.files("flat"))
    key = source_key(root)
    assert source_key(root) == key
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert source_key(root) == key
    file = root / "REAL" / "0.jpg"
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, and the old time put back
    keys = {key, source_key(root)}
    assert len(keys) == 2
    (root / "REAL" / "new.jpg").write_bytes(content)
    keys.add(source_key(root))
    (root / "FAKE" / "0.jpg").unlink()
    keys.add(source_key(root))
    (root / "FAKE" / "1.jpg").rename(root / "FAKE" / "9.jpg")
    keys.add(source_key(root))
    assert len(keys) == 5


def test_an_archives_key_follows_its_members_not_its_path_or_time(madedata: Any, tmp_path: Path) -> None:
    files = madedata.files("flat")
    key = source_key(madedata.zip(tmp_path / "a.zip", files))
    (tmp_path / "deeper").mkdir()
    copy = madedata.zip(tmp_path / "deeper" / "b.zip", files)
    os.utime(copy, (1, 1))
    assert source_key(copy) == key
    content = files["REAL/0.jpg"]
    changed = {**files, "REAL/0.jpg": content[:-1] + bytes([content[-1] ^ 1])}
    fewer = {path: files[path] for path in files if path != "REAL/0.jpg"}
    keys = {
        source_key(madedata.zip(tmp_path / "c.zip", each)) for each in (changed, fewer, {**files, "REAL/n.jpg": b""})
    }
    assert len(keys | {key}) == 4


def test_archives_with_a_comment_bytes_before_them_or_zip64_are_read_like_any_other(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = madedata.files("kaggle")
    plain = madedata.zip(tmp_path / "plain.zip", files)
    commented = madedata.zip(tmp_path / "commented.zip", files, comment=b"made for a test")
    prepended = tmp_path / "prepended.zip"
    prepended.write_bytes(b"#!/bin/sh\nexit\n" + plain.read_bytes())
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    large = madedata.zip(tmp_path / "zip64.zip", files)
    monkeypatch.undo()
    assert b"PK\6\6" in large.read_bytes()
    whole = open_source(plain)
    for path in (commented, prepended, large):
        source = open_source(path)
        assert source.entries == whole.entries
        assert all(source.read(entry.path) == whole.read(entry.path) for entry in whole.entries)
        key = source_key(path)
        path.rename(path.with_suffix(".other"))
        assert source_key(path.with_suffix(".other")) == key


def test_the_key_of_an_archive_with_bytes_before_it_still_follows_its_members(madedata: Any, tmp_path: Path) -> None:
    keys = set()
    for number in (1, 2):
        path = madedata.zip(tmp_path / f"{number}.zip", {**madedata.files("flat"), "REAL/0.jpg": bytes([number])})
        path.write_bytes(b"before" + path.read_bytes())
        keys.add(source_key(path))
    assert len(keys) == 2


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_damaged_byte_of_a_member_is_noticed(madedata: Any, tmp_path: Path, packed: int) -> None:
    path = madedata.zip(tmp_path / "a.zip", {"REAL/1.jpg": b"some content" * 20, "FAKE/1.jpg": b"x"}, packed)
    whole = path.read_bytes()
    member = zipfile.ZipFile(path).getinfo("REAL/1.jpg")
    start = member.header_offset + 30 + len(member.filename)
    for at in [0, *range(start, start + member.compress_size)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            open_source(path).read("REAL/1.jpg")


def test_a_member_that_unpacks_to_more_than_it_promised_is_not_unpacked_further(madedata: Any, tmp_path: Path) -> None:
    path = madedata.zip(tmp_path / "a.zip", {"REAL/1.jpg": bytes(50_000_000), "FAKE/1.jpg": b"x"}, zipfile.ZIP_DEFLATED)
    source = open_source(path)
    member = source._locations["REAL/1.jpg"]
    assert isinstance(member, zipfile.ZipInfo)
    member.file_size = 10
    with pytest.raises(ValueError, match="damaged"):
        source.read("REAL/1.jpg")


def test_encrypted_members_and_other_packings_are_refused_by_name(madedata: Any, tmp_path: Path) -> None:
    files = {"REAL/1.jpg": b"x", "FAKE/1.jpg": b"y" * 100}
    locked = bytearray(madedata.zip(tmp_path / "a.zip", files).read_bytes())
    locked[locked.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(ValueError, match="encrypted"):
        open_source(tmp_path / "locked.zip").read("REAL/1.jpg")
    with pytest.raises(ValueError, match="expected stored or deflated"):
        open_source(madedata.zip(tmp_path / "b.zip", files, zipfile.ZIP_BZIP2)).read("FAKE/1.jpg")


def test_a_source_goes_to_another_process_without_its_mapping(madedata: Any, tmp_path: Path) -> None:
    source = open_source(madedata.zip(tmp_path / "a.zip", madedata.files("flat")))
    content = source.read("REAL/0.jpg")
    buffer = io.BytesIO(pickle.dumps(source))
    assert pickle.load(buffer).read("REAL/0.jpg") == content
