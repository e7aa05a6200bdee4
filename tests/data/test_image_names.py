import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, features

from lightning_cifake.data import image_names
from lightning_cifake.data.image_names import (
    KERAS_SUFFIXES,
    count_by_suffix,
    image_suffixes,
    is_hidden,
    is_image_name,
    suffix_of,
    walk,
)
from lightning_cifake.errors import UserError


def paths(root: Path) -> list[str]:
    return [path for path, _ in walk(root)]


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_all_that_keras_takes_is_an_image_and_what_pillow_here_decodes_beside_it() -> None:
    assert set(KERAS_SUFFIXES) < set(image_suffixes())
    assert {".jfif", ".jpe", ".tif", ".tiff"} < set(image_suffixes())
    assert (".webp" in image_suffixes()) == features.check("webp")
    assert (".avif" in image_suffixes()) == features.check("avif")
    assert not {".eps", ".pdf", ".psd", ".txt", ".h5", ""} & set(image_suffixes())


@pytest.mark.parametrize("broken", [False, True])
def test_heic_counts_where_the_package_that_reads_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def register() -> None:
        if broken:
            raise ImportError("libheif.so: wrong architecture")
        monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))

    monkeypatch.setattr(image_names, "find_spec", lambda name: object())
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # the real one may have been here
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))  # type: ignore[arg-type]
    for function in (image_names.decodable_formats, image_suffixes):
        function.cache_clear()
    try:
        assert is_image_name("IMG_0001.HEIC") is not broken
    finally:
        for function in (image_names.decodable_formats, image_suffixes):
            function.cache_clear()


def test_capital_letters_make_no_difference() -> None:
    for name in ("a.JPG", "b.Jpeg", "c.TIFF", "archive.tar.PNG"):
        assert is_image_name(name)
    for name in ("a.jpg.txt", "jpg", "a.", "a.jpgx", ""):
        assert not is_image_name(name)


@pytest.mark.parametrize(
    "name",
    ["._a.jpg", ".hidden", ".ipynb_checkpoints", "__MACOSX", "__macosx", "@eaDir", "$RECYCLE.BIN", "lost+found"],
)
def test_what_systems_leave_is_hidden(tmp_path: Path, name: str) -> None:
    assert is_hidden(name)
    made(tmp_path, "a.jpg", f"{name}/b.jpg", f"sub/{name}/c.jpg")
    assert paths(tmp_path) == ["a.jpg"]


def test_a_folders_files_come_before_its_folders_each_by_code_point(tmp_path: Path) -> None:
    made(tmp_path, "b.jpg", "B.jpg", "a/z.jpg", "a/0/x.jpg", "a-b/y.jpg", "é.jpg")
    assert paths(tmp_path) == ["B.jpg", "b.jpg", "é.jpg", "a/z.jpg", "a/0/x.jpg", "a-b/y.jpg"]


def test_links_to_files_and_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere", "c.jpg")
    root = made(tmp_path / "root", "a.jpg")
    (root / "b.jpg").symlink_to(elsewhere / "c.jpg")
    (root / "linked").symlink_to(elsewhere)
    (root / "up").symlink_to(root)
    (elsewhere / "back").symlink_to(root)
    assert paths(root) == ["a.jpg", "b.jpg", "linked/c.jpg"]


def test_what_cannot_be_read_is_listed_so_that_it_is_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert paths(tmp_path) == ["gone.jpg", "pipe.jpg", "self.jpg"]


def test_the_first_files_come_before_the_last_folder_is_read(tmp_path: Path) -> None:
    made(tmp_path, "a.jpg", "b/c.jpg")
    found = walk(tmp_path)
    assert next(found)[0] == "a.jpg"
    made(tmp_path, "b/a.jpg")
    assert [path for path, _ in found] == ["b/a.jpg", "b/c.jpg"]


def test_a_folder_that_is_not_there_is_one_harmless_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the folder .*\\x1b\[31m: No such file"):
        paths(tmp_path / "\x1b[31m")


def test_what_is_passed_over_is_counted_by_suffix() -> None:
    names = ["a.HEIC", "b.heic", "README", "c.txt", "d.\x1b[31m"]
    assert count_by_suffix(Counter(map(suffix_of, names))) == "2 .heic, 1 without a suffix, 1 .txt, 1 .\\x1b[31m"
    many = Counter({f".{i:02d}": 20 - i for i in range(10)})
    assert count_by_suffix(many).endswith("13 .07, 23 of other kinds")
