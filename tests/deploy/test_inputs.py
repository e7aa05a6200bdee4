"""Which images are meant, and what becomes of one that is none, or means harm."""

import io
import os
import struct
import threading
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.data.image_names import is_image_name
from lightning_cifake.deploy.inputs import find_images, read_paths
from lightning_cifake.deploy.load import Loaded, load
from lightning_cifake.errors import UserError


def names(patterns: list[Path | str]) -> list[str]:
    return [path.name for path in find_images([str(pattern) for pattern in patterns])]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def test_files_folders_and_globs_give_their_images_each_once(images: Path) -> None:
    assert names([images]) == ["a.JPG", "b.jpg", "d.png", "c.jpg"]
    assert names([images / "d.png", images]) == ["d.png", "a.JPG", "b.jpg", "c.jpg"]
    assert names([images / "*.jpg"]) == ["b.jpg"]
    assert names([images / "**" / "*.jpg"]) == ["b.jpg", "c.jpg"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(workplace: Path) -> None:
    (workplace / "photo[1].png").write_bytes(b"x")
    assert names(["photo[1].png"]) == ["photo[1].png"]


@pytest.mark.parametrize("missing", ["nowhere.png", "*.tiff", "empty"])
def test_what_matches_nothing_is_refused(workplace: Path, missing: str) -> None:
    (workplace / "empty").mkdir()
    with pytest.raises(UserError, match=r"is no file, no folder, and matches nothing|has no images in it"):
        names([missing])


def test_folders_are_searched_by_the_rule_of_training(images: Path) -> None:
    """Links are followed but in a loop, hidden files passed over; those not named like images are counted."""
    (images / "deep" / "up").symlink_to(images)
    (images / "linked").symlink_to(images / "deep")
    (images / "e.png").symlink_to(images / "e.png")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (images / hidden).mkdir()
        (images / hidden / "a.png").write_bytes(b"x")
    for name in ("._a.png", "f.WEBP", "g.jfif", "h.TIF", "i.heic", "j", "k.heic", "l.HEIC"):
        (images / name).write_bytes(b"x")
    passed_over: Counter[str] = Counter()
    found = [str(path.relative_to(images)) for path in find_images([str(images)], passed_over)]  # type: ignore[union-attr]
    ours = ["a.JPG", "b.jpg", "d.png", "e.png", "f.WEBP", "g.jfif", "h.TIF"]
    heic = ["i.heic", "k.heic", "l.HEIC"] if is_image_name("a.heic") else []
    assert found == [*ours, *heic, "deep/c.jpg", "linked/c.jpg"]
    assert passed_over == Counter({".txt": 1, "": 1} if heic else {".heic": 3, ".txt": 1, "": 1})
    assert "symbolic links" in (load(images / "e.png").error or "")


def test_stars_over_folders_do_not_go_round_in_a_loop_of_links(images: Path) -> None:
    for number in range(4):  # glob's own ** takes each of four ways forty times
        (images / "deep" / f"up{number}").symlink_to(images)
    assert names([images / "**" / "*.jpg"]) == ["b.jpg", "c.jpg"]
    assert names([images / "**" / "deep" / "*"]) == ["c.jpg"]
    assert names([images / "d*" / "**" / "c.*"]) == ["c.jpg"]
    assert sorted(names([images / "**"])) == ["a.JPG", "b.jpg", "c.jpg", "d.png", "notes.txt"]


def test_each_folder_is_listed_once_and_mistakes_come_before_the_first_image(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    original = os.scandir

    def counting(path: Any) -> Any:
        listed.append(str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", counting)
    found = find_images([str(images)])
    assert listed == [str(images)]  # is there an image at all: seen at the first that is met
    assert len(list(found)) == 4
    assert listed == [str(images), str(images), str(images / "deep")]
    with pytest.raises(UserError, match="nowhere is no file"):
        find_images([str(images), "nowhere"])  # and not when it is come to


def test_a_folder_that_cannot_be_read_is_an_error_among_the_others(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", refused)
    *found, last = find_images([str(images)], Counter())
    assert len(found) == 3
    assert last == Loaded(str(images / "deep"), None, "cannot read the folder: Permission denied")
    with pytest.raises(UserError, match=r"cannot read the folder .*deep: Permission denied"):
        list(find_images([str(images)]))
    with pytest.raises(UserError, match=r"cannot read the folder .*deep: Permission denied"):
        find_images([str(images / "deep")], Counter())


@pytest.mark.parametrize(
    "content",
    [
        "a b.png\r\n\r\nc\u00e9\u4e2d.png\r\n".encode("utf-8-sig"),
        "a b.png\nc\u00e9\u4e2d.png".encode(),
        "a b.png\r\nc\u00e9\u4e2d.png\r\n".encode("utf-16"),
        "\ufeffa b.png\nc\u00e9\u4e2d.png\n".encode("utf-16-be"),
        "a b.png\r\nc\u00e9\u4e2d.png\r\n".encode("utf-16-le"),
    ],
)
def test_a_list_of_paths_is_read_as_windows_writes_it(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    expected = [Path("a b.png"), Path("c\u00e9\u4e2d.png")]
    assert list(read_paths(str(tmp_path / "list.txt"))) == expected
    with (tmp_path / "list.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert list(read_paths("-")) == expected
        assert not stdin.closed and not stdin.buffer.closed


def test_a_name_that_ends_in_a_carriage_return_is_taken_where_it_exists(
    workplace: Path,
) -> None:
    (workplace / "a.png\r").write_bytes(b"x")
    (workplace / "list.txt").write_bytes(b"a.png\r\nb.png\r\n")
    assert list(read_paths("list.txt")) == [Path("a.png\r"), Path("b.png")]


def test_a_list_that_is_none_is_one_line_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_bytes("a.png\n".encode("utf-16") + b"\x00")
    with pytest.raises(UserError, match="it begins as UTF-16 and continues otherwise"):
        list(read_paths(str(tmp_path / "broken.txt")))
    for missing in (tmp_path, tmp_path / "nowhere.txt"):
        with pytest.raises(UserError, match="cannot read the paths in"):
            read_paths(str(missing))


def test_a_list_comes_through_a_pipe_line_by_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    lines = read_paths(str(tmp_path / "pipe"))

    def write() -> None:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(b"a.png\nb.png\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert list(lines) == [Path("a.png"), Path("b.png")]
    writer.join()


def test_paths_are_read_from_a_file_one_a_line_whatever_their_bytes(tmp_path: Path) -> None:
    listing = tmp_path / "paths.txt"
    listing.write_bytes(b"a b.png\n\n\xff.png\n")
    assert list(read_paths(str(listing))) == [Path("a b.png"), Path(os.fsdecode(b"\xff.png"))]
    with pytest.raises(UserError, match="cannot read the paths in"):
        list(read_paths(str(tmp_path / "nowhere.txt")))


def test_a_file_its_bytes_and_its_pixels_are_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(PICTURE, "PNG"))
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), saved(PICTURE, "PNG"), PIXELS):
        loaded = load(image, 7)
        assert loaded.error is None and loaded.pixels is not None and np.array_equal(loaded.pixels, PIXELS)
    assert load(PIXELS, 7).name == "array 7"


@pytest.mark.parametrize(
    "array", [PIXELS[0, 0], PIXELS / 255, PIXELS[..., :2], PIXELS[:0], PIXELS.astype(np.int64), PIXELS[None]]
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"image 3: expected a path, .* an array \(H, W, 3\) RGB, .* got ndarray"):
        load(array, 3)


@cache
def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name -> content, what the error says."""
    jpeg, whole_png = saved(PICTURE, "JPEG"), saved(PICTURE, "PNG")
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")  # 50 MB of bits that pack to 50 kB
    assert len(bomb) < 200_000
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    lying = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )
    return {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "truncated.png": (whole_png[: len(whole_png) // 2], "cannot be decoded"),
        "text.png": (b"not pixels but words" * 9, "not an image"),
        "empty.jpg": (b"", "empty file"),
        "deep.tif": (saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "mode F"),
        "lab.tif": (saved(PICTURE.convert("LAB"), "TIFF"), "mode LAB"),
        "bomb.png": (bomb, "at most 128,000,000 pixels"),
        "lying.png": (lying, "at most 128,000,000 pixels"),
        "script.gif": (b"GIF89a<script>", "not an image"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_file_is_an_error_that_says_why(tmp_path: Path, name: str) -> None:
    content, reason = bad_files()[name]
    (tmp_path / name).write_bytes(content)
    loaded = load(tmp_path / name)
    assert loaded.pixels is None and reason in (loaded.error or "") and "\n" not in (loaded.error or "")


def test_a_bomb_is_refused_by_its_size_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    contents = [bad_files()[name][0] for name in ("bomb.png", "lying.png")]
    for method in ("load", "convert"):
        monkeypatch.setattr(Image.Image, method, never)
    for content in contents:
        assert "at most 128,000,000 pixels" in (load(content).error or "")


@cache
def good_files() -> dict[str, tuple[bytes, np.ndarray]]:
    """Name -> content, its pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turned upright, as training turns it
    few = PICTURE.quantize(16)
    other = Image.fromarray(PIXELS[::-1].copy()).quantize(16)
    jpeg = saved(PICTURE, "JPEG", quality=100)
    return {
        "palette.png": (saved(few, "PNG"), np.asarray(few.convert("RGB"))),
        "animated.gif": (
            saved(few, "GIF", save_all=True, append_images=[other]),
            np.asarray(few.convert("RGB")),
        ),
        "turned.jpg": (
            saved(PICTURE, "JPEG", quality=100, exif=exif),
            np.rot90(np.asarray(Image.open(io.BytesIO(jpeg))), -1),
        ),
        "grey.png": (saved(PICTURE.convert("L"), "PNG"), np.repeat(np.asarray(PICTURE.convert("L"))[..., None], 3, 2)),
        "see-through.png": (saved(PICTURE.convert("RGBA"), "PNG"), PIXELS),
        "photo.BMP": (saved(PICTURE, "BMP"), PIXELS),
    }


@pytest.mark.parametrize("name", good_files())
def test_palettes_animations_and_turned_cameras_give_the_pixels_that_training_gets(tmp_path: Path, name: str) -> None:
    content, pixels = good_files()[name]
    (tmp_path / name).write_bytes(content)
    loaded = load(tmp_path / name)
    assert loaded.error is None and loaded.pixels is not None and np.array_equal(loaded.pixels, pixels)


def in_time(image: Path) -> str:
    """The error, within seconds: what blocks is found out."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(load(image).error or ""), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), f"{image} blocks"
    return said[0]


def test_pipes_devices_sockets_and_folders_are_no_files_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "pipe.png", tmp_path / "folder.png", Path("/dev/zero"), Path("/dev/stdin")):
        if path.exists():
            assert in_time(path) == "not a file"
    assert "No such file" in in_time(tmp_path / "nowhere.png")
    assert in_time(Path("a\0b.png"))


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # as it was when it was asked
    assert in_time(tmp_path / "pipe.png") == "empty file"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10 * 2**30)
    assert "10,737,418,240 bytes: expected at most" in (load(tmp_path / "huge.png").error or "")


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "secret.png").chmod(0)
    if os.access(tmp_path / "secret.png", os.R_OK):
        pytest.skip("this user may read everything")
    assert load(tmp_path / "secret.png").error == "Permission denied"
