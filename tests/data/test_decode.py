import errno
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_cifake.data import cache, decode, sources, workers
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.image_names import decodable_formats
from lightning_cifake.errors import UserError


def never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("decoded again")


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def bmp(width: int, height: int) -> bytes:
    """A header that declares this size, and nothing behind it."""
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}]
)
def test_a_jpeg_decodes_bit_for_bit_as_pillow_does(madedata: Any, options: dict[str, Any]) -> None:
    for number in range(5):
        content = madedata.encoded(number, **options)
        ours = decode_image(content)
        assert ours.dtype == np.uint8 and ours.shape == (32, 32, 3)
        assert np.array_equal(ours, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_transparency_is_dropped_and_grey_repeated(madedata: Any) -> None:
    pixels = madedata.pixels(1)
    alpha = madedata.pixels(2)[..., :1]
    grey = pixels[..., 0]
    rgba = saved(Image.fromarray(np.concatenate([pixels, alpha], 2), "RGBA"), "PNG")
    assert np.array_equal(decode_image(rgba), pixels)
    for image in (Image.fromarray(grey), Image.fromarray(np.dstack([grey, alpha[..., 0]]), "LA")):
        assert np.array_equal(decode_image(saved(image, "PNG")), np.dstack([grey] * 3))
    bits = grey > 127
    assert np.array_equal(decode_image(saved(Image.fromarray(bits), "PNG"))[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("options", [{}, {"transparency": 3}, {"transparency": bytes(range(200))}])
def test_a_palette_gives_its_colours_whatever_is_transparent(madedata: Any, options: dict[str, Any]) -> None:
    image = Image.fromarray(madedata.pixels(1)).quantize(200)
    expected = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    assert np.array_equal(decode_image(saved(image, "PNG", **options)), expected)


def test_an_animation_gives_its_first_frame(madedata: Any) -> None:
    first, second = (Image.fromarray(np.full((32, 32, 3), value, np.uint8)).quantize(4) for value in (10, 200))
    content = saved(first, "GIF", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert np.array_equal(decode_image(content), np.full((32, 32, 3), 10, np.uint8))


@pytest.mark.parametrize("shape", [(64, 64), (33, 31), (20, 50), (1, 1), (100, 7), (32, 64)])
@pytest.mark.parametrize("size", [32, 8, 45])
def test_resizing_is_bilinear_with_half_pixel_centres_and_without_antialiasing(
    shape: tuple[int, int], size: int
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = decode_image(saved(Image.fromarray(pixels), "PNG"), size)
    nchw = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(nchw, (size, size), mode="bilinear", align_corners=False, antialias=False)
    theirs = exact[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 0.501  # rounded; a tie may go either way in float32
    clear = np.abs(theirs - np.floor(theirs) - 0.5) > 1e-3
    assert clear.mean() > 0.5 and np.array_equal(ours[clear], np.rint(theirs)[clear])


def test_without_a_size_the_image_keeps_its_own(madedata: Any) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(saved(Image.fromarray(pixels), "PNG"), None), pixels)


def bad_files(madedata: Any) -> dict[str, tuple[bytes, str]]:
    """Name -> (content, what the reason must say)."""
    jpeg, whole_png = madedata.encoded(1), madedata.encoded(1, "PNG")
    deep = Image.fromarray(np.arange(1024, dtype=np.float32).reshape(32, 32))
    return {
        "bomb.bmp": (bmp(12_000, 12_000), "12000x12000"),  # Pillow would warn only
        "bomb.png": (png(60_000, 60_000), "too large"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "cut.png": (whole_png[: len(whole_png) // 2], "cannot be decoded"),
        "deep.tif": (saved(deep, "TIFF"), "mode F"),
        "empty.jpg": (b"", "empty"),
        "head.jpg": (jpeg[:10], "cannot be decoded"),
        "over.png": (png(12_001, 12_000), "12001x12000"),  # below Pillow's own limit, above ours
        "text.jpg": (b"these are words, not pixels" * 9, "not an image"),
    }


def test_bad_bytes_are_a_value_error_that_says_why_and_no_warning_escapes(madedata: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content, reason in bad_files(madedata).values():
            with pytest.raises(ValueError, match=reason):
                decode_image(content)


def test_a_declared_size_that_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", never)
    for content in (bmp(12_000, 12_000), png(12_001, 12_000), png(60_000, 60_000)):
        with pytest.raises(ValueError, match="128,000,000"):
            decode_image(content)


ENCODINGS = [("JPEG", "RGB"), ("PNG", "P"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("WEBP", "RGB")]
ENCODINGS += [("AVIF", "RGB"), ("PPM", "RGB"), ("JPEG2000", "RGB")]
ENCODINGS = [(name, mode) for name, mode in ENCODINGS if name in decodable_formats()]


@settings(deadline=None)  # a machine that is short of memory takes a second for the first image
@given(st.sampled_from(ENCODINGS), st.integers(0), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4))
def test_whatever_is_flipped_or_cut_off_only_a_value_error_comes(
    madedata: Any, encoding: tuple[str, str], cut: int, flips: list[tuple[int, int]]
) -> None:
    format, mode = encoding
    content = bytearray(madedata.encoded(1, format, mode, size=8))
    for at, bits in flips:
        content[at % min(64, len(content))] ^= bits
    del content[len(content) - cut % 50 :]
    try:
        assert decode_image(bytes(content)).shape == (32, 32, 3)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("block", [2, 512])
def test_bad_files_are_listed_with_path_and_reason_and_the_others_kept_in_order(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_zip: bool, block: int
) -> None:
    monkeypatch.setattr(workers, "_BLOCK", block)
    monkeypatch.setattr(workers, "cores", lambda: 0)
    good = madedata.files("flat", 4)
    bad = {f"{label}/{name}": each for name, each in bad_files(madedata).items() for label in ("REAL", "FAKE")}
    files = {**{path: content for path, (content, _) in bad.items()}, **good, "REAL/notes.txt": b"x"}
    root = madedata.zip(tmp_path / "a.zip", files) if as_zip else madedata.folder(tmp_path / "a", files)
    images = load_images(root, cache_dir=tmp_path / "cache")
    assert images.paths == sorted(good)
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    for path, pixels in zip(images.paths, images.images, strict=True):
        assert np.array_equal(pixels, decode_image(good[path]))
    reasons = {problem.path: problem.reason for problem in images.problems}
    assert len(images.problems) == len(reasons) == len(bad)
    assert images.skipped == {".txt": 1}
    assert all(reason in reasons[path] for path, (_, reason) in bad.items())
    plain = load_images(madedata.folder(tmp_path / "plain", good), cache_dir=tmp_path / "cache")
    assert images.digest == plain.digest
    assert np.array_equal(images.encodings, plain.encodings) and set(images.encodings["format"]) == {b"JPEG"}


def test_a_file_that_cannot_be_read_is_left_out(madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    (root / "REAL" / "gone.jpg").symlink_to("nowhere.jpg")
    read = sources.read_bounded

    def refuse(path: Path, limit: int) -> bytes:
        if path.name == "1.jpg" and path.parent.name == "FAKE":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path, limit)

    monkeypatch.setattr(sources, "read_bounded", refuse)
    images = load_images(root, cache_dir=tmp_path / "cache")
    assert [(problem.path, problem.reason) for problem in images.problems] == [
        ("FAKE/1.jpg", "cannot be read (Permission denied)"),
        ("REAL/gone.jpg", "cannot be read (No such file or directory)"),
    ]


def test_a_damaged_archive_member_is_left_out_and_back_when_the_archive_is_repaired(
    madedata: Any, tmp_path: Path
) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    whole = path.read_bytes()
    at = zipfile.ZipFile(path).getinfo("REAL/1.jpg").header_offset + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    damaged = load_images(path, cache_dir=tmp_path / "cache")
    assert [(problem.path, "CRC" in problem.reason) for problem in damaged.problems] == [("REAL/1.jpg", True)]
    assert len(damaged) == 5
    (tmp_path / "repaired.zip").write_bytes(whole + b"")  # the same central directory, so the same key
    (tmp_path / "repaired.zip").replace(path)
    repaired = load_images(path, cache_dir=tmp_path / "cache")
    assert len(repaired) == 6 and repaired.problems == []


def test_a_second_load_does_not_decode_and_gives_the_same(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**madedata.files("kaggle"), "train/REAL/bad.jpg": b""}
    root = madedata.folder(tmp_path / "a", files)
    first = load_images(root, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(workers, "read_image", never)
    again = load_images(root, cache_dir=tmp_path / "cache")
    assert again.paths == first.paths and again.problems == first.problems and again.digest == first.digest
    for name in ("images", "labels", "parts", "object_classes", "groups", "encodings"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert set(again.parts) == {"train", "test"} and set(again.object_classes) == {1, 2, 3}
    assert isinstance(again.images, np.memmap)
    with pytest.raises(AssertionError, match="decoded again"):  # another size is another array
        load_images(root, 16, tmp_path / "cache")


def test_a_changed_source_is_noticed(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    before = load_images(root, cache_dir=tmp_path / "cache")
    (root / "REAL" / "1.jpg").write_bytes(madedata.encoded(99))
    after = load_images(root, cache_dir=tmp_path / "cache")
    assert after.digest != before.digest
    assert np.array_equal(after.images[after.paths.index("REAL/1.jpg")], decode_image(madedata.encoded(99)))


def overwrite(path: Path) -> None:
    path.write_bytes(b"rubbish" * 100)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(byte ^ 0xFF for byte in content[middle : middle + 40])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in ("index.npz", "images.npy") for damage in (overwrite, halve, Path.unlink, Path.touch)]
    + [("index.npz", flip_the_middle), ("index.npz", lambda path: path.write_bytes(b""))],
)
def test_a_damaged_cache_is_made_again(
    madedata: Any, tmp_path: Path, name: str, damage: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    first = load_images(root, cache_dir=tmp_path / "cache")
    pixels = np.array(first.images)
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder / name)
    again = load_images(root, cache_dir=tmp_path / "cache")
    assert again.digest == first.digest and np.array_equal(again.images, pixels)
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [folder.name]
    monkeypatch.setattr(workers, "read_image", never)
    assert load_images(root, cache_dir=tmp_path / "cache").digest == first.digest


def test_a_cache_that_cannot_be_written_is_a_user_error(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=r"cannot write the decoded images.*--data\.cache_dir"):
            load_images(root, cache_dir=place)
    assert (tmp_path / "file").read_text() == "in the way"
    load_images(root, cache_dir=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    folder.rename(tmp_path / "other")
    folder.write_text("a file where the cache's folder would be")
    with pytest.raises(UserError, match="cannot keep the decoded images"):
        load_images(root, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("function", ["_header", "sealed_json", "temporary_folder"])
def test_a_full_disk_is_a_user_error_and_leaves_nothing(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, function, full)
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        load_images(root, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_pixels_that_do_not_fit_on_the_disk_are_a_user_error_not_a_killed_process(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path_open = Path.open

    def to_a_full_disk(path: Path, *mode: Any, **options: Any) -> Any:
        return path_open(Path("/dev/full") if path.name == "images.npy" else path, *mode, **options)

    monkeypatch.setattr(Path, "open", to_a_full_disk)
    root = madedata.folder(tmp_path / "a", madedata.files("flat", 20))
    with pytest.raises(UserError, match="No space left on device"):
        load_images(root, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_any_failure_midway_leaves_no_folder(madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "read_image", interrupted)
    root = madedata.folder(tmp_path / "a", madedata.files("flat"))
    with pytest.raises(KeyboardInterrupt):
        load_images(root, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_class_of_which_nothing_can_be_read_is_a_user_error(madedata: Any, tmp_path: Path) -> None:
    root = madedata.folder(tmp_path / "a", {"REAL/1.jpg": madedata.encoded(1), "FAKE/1.jpg": b"", "FAKE/2.jpg": b"x"})
    with pytest.raises(UserError, match=r"none of the images under FAKE/.*2 problems, first FAKE/1\.jpg: empty file"):
        load_images(root, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_digest_and_the_groups_follow_paths_and_pixels_not_the_place(madedata: Any, tmp_path: Path) -> None:
    files = madedata.files("author")
    cache = tmp_path / "cache"
    folder = load_images(madedata.folder(tmp_path / "a" / "b", files), cache_dir=cache)
    archive = load_images(madedata.zip(tmp_path / "a.zip", files), cache_dir=cache)
    bare = {
        path.removeprefix("CIFAKE-e112a942/DATASET/"): content
        for path, content in files.items()
        if "README" not in path
    }
    kaggle = load_images(madedata.folder(tmp_path / "c", bare), cache_dir=cache)
    assert folder.digest == archive.digest == kaggle.digest
    assert np.array_equal(folder.groups, archive.groups) and np.array_equal(folder.groups, kaggle.groups)
    bare["train/REAL/0000.jpg"] = madedata.encoded(77)
    assert load_images(madedata.folder(tmp_path / "d", bare), cache_dir=cache).digest != folder.digest


def test_identical_pixels_share_a_group_and_others_do_not(madedata: Any, tmp_path: Path) -> None:
    same = Image.fromarray(madedata.pixels(1))
    files = madedata.files("flat", 5)
    files |= {"REAL/a.png": saved(same, "PNG"), "FAKE/b.bmp": saved(same, "BMP"), "FAKE/c.png": saved(same, "PNG")}
    images = load_images(madedata.folder(tmp_path / "a", files), cache_dir=tmp_path / "cache")
    for i, path in enumerate(images.paths):
        group = {images.paths[j] for j in np.flatnonzero(images.groups == images.groups[i])}
        assert group == ({"REAL/a.png", "FAKE/b.bmp", "FAKE/c.png"} if path[5] in "abc" else {path})


def test_workers_give_the_same_as_none_and_draw_nothing_from_torch(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [madedata.encoded(number, "PNG", size=8) for number in range(50)]
    files = {f"{label}/{i}.png": contents[(i * 7) % 50] for i in range(1050) for label in ("REAL", "FAKE")}
    files["REAL/600.png"] = b""
    root = madedata.zip(tmp_path / "a.zip", files)
    state = torch.get_rng_state()
    monkeypatch.setattr(workers, "cores", lambda: 2)
    several = load_images(root, 8, tmp_path / "several")
    monkeypatch.setattr(workers, "cores", lambda: 0)
    alone = load_images(root, 8, tmp_path / "alone")
    assert torch.equal(torch.get_rng_state(), state)  # a run that decodes must train as one that does not
    assert len(several) == 2099 and several.problems == alone.problems and len(alone.problems) == 1
    assert several.paths == alone.paths and several.digest == alone.digest
    assert np.array_equal(several.images, alone.images) and np.array_equal(several.groups, alone.groups)


def test_the_demo_is_cached_too_and_has_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_images(cache_dir=tmp_path)
    monkeypatch.setattr(decode, "make_demo", never)
    assert load_images("demo", cache_dir=tmp_path).digest == first.digest and first.name == "demo"
    with pytest.raises(UserError, match=r"32x32.*got 64"):
        load_images("demo", 64, tmp_path)
    with pytest.raises(UserError, match="1 to 1024, got 0"):
        load_images("demo", 0, tmp_path)
