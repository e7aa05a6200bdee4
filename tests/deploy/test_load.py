"""One image in every form that people hand over: its pixels, or one line that says what was expected."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from lightning_cifake import Detector
from lightning_cifake.deploy import load as loading
from lightning_cifake.deploy.load import load
from lightning_cifake.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
GREY = np.array(PICTURE.convert("L"))


def saved(format: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


class ArrayLike:
    """What TensorFlow's and jax's tensors have."""

    shape, dtype = PIXELS.shape, PIXELS.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return PIXELS


def forms(tmp_path: Path) -> dict[str, Any]:
    png = saved("PNG")
    (tmp_path / "a.png").write_bytes(png)
    return {
        "str": str(tmp_path / "a.png"),
        "Path": tmp_path / "a.png",
        "bytes": png,
        "bytearray": bytearray(png),
        "memoryview": memoryview(png),
        "BytesIO": io.BytesIO(png),
        "PIL": PICTURE.copy(),
        "PIL RGBA": PICTURE.convert("RGBA"),
        "PIL from a file, not decoded yet": Image.open(tmp_path / "a.png"),
        "array": PIXELS,
        "array RGBA": np.dstack([PIXELS, GREY]),
        "array, rows from below": PIXELS[::-1][::-1],
        "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
        "tensor of another order": torch.from_numpy(PIXELS),
        "what has __array__": ArrayLike(),
    }


def test_each_form_gives_the_same_pixels(tmp_path: Path) -> None:
    for name, image in forms(tmp_path).items():
        loaded = load(image, 3)
        assert loaded.error is None and np.array_equal(loaded.pixels, PIXELS), name  # type: ignore[arg-type]
        assert loaded.size == (40, 24), name
        if hasattr(image, "close"):
            image.close()


def test_grey_pixels_are_repeated_as_grey_files_are() -> None:
    for image in (GREY, GREY[..., None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None], PICTURE.convert("L")):
        assert np.array_equal(load(image).pixels, np.repeat(GREY[..., None], 3, 2))  # type: ignore[arg-type]


def test_an_open_file_is_read_from_where_it_stands_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"junk" + saved("PNG"))
    with path.open("rb") as file:
        file.seek(4)
        loaded = load(file)
    assert loaded.name == str(path) and np.array_equal(loaded.pixels, PIXELS)  # type: ignore[arg-type]
    assert load(file, 5).error == "read of closed file"
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(saved("PNG"))
        spooled.seek(0)
        assert load(spooled, 5).name == "file 5"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "got NoneType"),
        (3, "got int"),
        (PIXELS.astype(np.float32) / 255, r"got ndarray \(40, 24, 3\) float32; give floats of 0 to 1 as \(255 \* x\)"),
        (torch.rand(3, 4, 5), r"got Tensor \(3, 4, 5\) torch.float32; give floats"),
        (PIXELS.transpose(2, 0, 1), r"got ndarray \(3, 40, 24\) uint8; its channels come first"),
        (PIXELS > 9, r"\(40, 24, 3\) bool"),
        ([PIXELS], "got list"),
        (io.StringIO("text"), r"open for reading bytes \(mode rb\), got one that gives str"),
    ],
)
def test_what_is_no_image_is_one_line_that_names_its_type(image: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        load(image, 7)
    assert "image 7: expected" in str(error.value) and "\n" not in str(error.value)


def test_a_pil_image_that_files_are_refused_for_is_an_error() -> None:
    assert "mode F" in (load(PICTURE.convert("F")).error or "")
    truncated = saved("PNG")[:-400]
    with Image.open(io.BytesIO(truncated)) as image:
        assert "cannot be decoded" in (load(image).error or "")


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("WEBP", ["a.webp", "a.WEBP"]),
        ("TIFF", ["a.tif", "a.TIFF"]),
        ("JPEG", ["a.jfif", "a.JPE"]),
        ("AVIF", ["a.avif"]),
        ("PNG", ["a.png", "no suffix", "a.dat"]),
    ],
)
def test_formats_are_known_by_what_they_hold(tmp_path: Path, format: str, names: list[str]) -> None:
    if format in ("WEBP", "AVIF") and not features.check(format.lower()):
        pytest.skip(f"this Pillow was built without {format}")
    for name in names:
        (tmp_path / name).write_bytes(saved(format))
        loaded = load(tmp_path / name)
        assert loaded.error is None and loaded.warning is None and loaded.size == (40, 24)


def test_a_wrong_suffix_is_a_warning_in_the_answer(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(saved("PNG", Image.new("RGB", (32, 32), "white")))
    (tmp_path / "b.JPG").write_bytes(saved("PNG"))
    plain, other = detector.predict([tmp_path / "a.jpg", tmp_path / "b.JPG"])
    assert (plain.verdict, plain.warning) == ("REAL", "named .jpg but holds PNG")
    assert other.warning == "named .jpg but holds PNG; 24x40, trained on 32x32: scaled up, squeezed to a square"


def test_a_tiff_that_is_turned_has_the_size_it_is_shown_in() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load(saved("TIFF", exif=exif))
    assert loaded.pixels is not None and loaded.size == loaded.pixels.shape[:2] == (24, 40)


def test_a_large_file_is_read_by_its_decoder_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ["PNG", "JPEG", "BMP", "GIF", "TIFF"]
    formats += [each for each in ("WEBP", "AVIF") if features.check(each.lower())]
    small = {}
    for format in formats:
        (tmp_path / format).write_bytes(saved(format))
        small[format] = load(tmp_path / format)
    monkeypatch.setattr(loading, "_READ_AT_ONCE", 0)
    for format in formats:
        large = load(tmp_path / format)
        assert large.error is None and np.array_equal(large.pixels, small[format].pixels)  # type: ignore[arg-type]
    (tmp_path / "cut").write_bytes(saved("JPEG")[:-300])
    assert "cannot be decoded" in (load(tmp_path / "cut").error or "")


@pytest.fixture
def detector(make_model: Callable[..., Path]) -> Detector:
    return Detector(make_model(), threads=2)


def shade(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


def test_one_image_is_one_answer_and_several_are_as_many(detector: Detector, tmp_path: Path) -> None:
    Image.fromarray(shade(255)).save(tmp_path / "a.png")
    one = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        (tmp_path / "a.png").read_bytes(),
        shade(255),
        shade(255)[..., 0],
    ]
    one += [Image.fromarray(shade(255)), torch.from_numpy(shade(255)).permute(2, 0, 1), io.BytesIO(saved("PNG"))]
    for image in one:
        assert len(detector.predict(image)) == 1
    paths = np.array([str(tmp_path / "a.png")] * 3)
    stack = np.stack([shade(255)] * 3)
    several = [paths, list(paths), iter(paths), tuple(paths), stack, torch.from_numpy(stack).permute(0, 3, 1, 2)]
    for images in several:
        assert [answer.verdict for answer in detector.predict(images)] == ["REAL"] * 3
    for images in (None, 3, {"a.png": 1}):
        with pytest.raises(UserError, match=f"expected images, .* got {type(images).__name__}"):
            detector.predict(images)


def test_an_array_that_is_filled_anew_and_a_file_that_is_closed_were_taken_as_they_came(
    detector: Detector, tmp_path: Path
) -> None:
    Image.fromarray(shade(0)).save(tmp_path / "black.png")

    def images() -> Iterator[Any]:
        frame = shade(0)
        for level in (0, 255) * 20:
            frame[:] = level
            yield frame
        for _ in range(5):
            with (tmp_path / "black.png").open("rb") as file:
                yield file
            with Image.open(tmp_path / "black.png") as image:
                yield image

    answers = detector.predict(images())
    assert [answer.verdict for answer in answers] == ["AI", "REAL"] * 20 + ["AI"] * 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"uncertain": 0.5}, "uncertain: expected 0 <= LOW <= HIGH <= 1, got 0.5"),
        ({"uncertain": (0.8, 0.2)}, "uncertain: .* got 0.8 0.2"),
        ({"uncertain": (0.2, float("nan"))}, "uncertain: .* got 0.2 nan"),
        ({"uncertain": ("low", "high")}, "uncertain: .* got low high"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number, at least 1, got 2.5"),
        ({"batch_size": None}, "batch_size: .* got None"),
        ({"batch_size": True}, "batch_size: .* got True"),
    ],
)
def test_arguments_that_the_command_line_refuses_are_refused_from_python(
    detector: Detector, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        detector.predict([], **arguments)


def test_threads_below_one_are_refused(make_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="threads: expected at least 1, got 0"):
        Detector(make_model(), threads=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.25, 1.5])
def test_an_answer_that_is_no_probability_is_an_error(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(Detector, "prob_real", lambda self, images: np.array([0.25, value, 0.75], np.float32))
    answers = detector.predict([shade(0)] * 3)
    assert [answer.verdict for answer in answers] == ["AI", None, "REAL"]
    assert answers[1].prob_real is None and answers[1].error == f"the model's answer is no probability: {value}"
