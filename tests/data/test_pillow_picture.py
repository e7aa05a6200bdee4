"""Orientation, colours, transparency, frames and depth: one policy, by known answers, in every format that holds it."""

import io
from typing import Any

import icc
import numpy as np
import pytest
from PIL import Image, ImageOps

from lightning_cifake.data.image_file import decode_image, open_image
from lightning_cifake.data.image_names import decodable_formats, is_image_name
from lightning_cifake.data.pillow_picture import of_pillow, remarks
from lightning_cifake.deploy.load import load

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}}
P3 = icc.profile(icc.DISPLAY_P3, None, "Display P3, made")
ADOBE = icc.profile(icc.ADOBE_RGB, icc.ADOBE_GAMMA, "Adobe RGB, made")


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


# where the stored picture's first row and first column lie in the upright one: EXIF 2.3, tag 0x0112
UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: PIXELS[::-1].transpose(1, 0, 2),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: PIXELS[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_upright_as_its_camera_says(number: int, kind: str) -> None:
    content = saved(PICTURE, kind, exif=orientation(number), **LOSSLESS[kind])
    assert np.array_equal(decode_image(content, None), UPRIGHT[number])
    answer = load(content)
    assert np.array_equal(answer.pixels, UPRIGHT[number]) and answer.size == UPRIGHT[number].shape[:2]


@pytest.mark.parametrize("number", UPRIGHT)
def test_a_jpeg_is_turned_as_pillow_turns_it_and_so_are_its_rows_a_few_at_a_time(number: int) -> None:
    content = saved(PICTURE, "JPEG", exif=orientation(number))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    with open_image(content) as image:
        picture = of_pillow(image)
        assert (picture.height, picture.width) == expected.shape[:2]
        for first, end in [(0, 1), (3, 9), (picture.height - 2, picture.height), (0, picture.height)]:
            assert np.array_equal(picture.rows(first, end), expected[first:end])


def test_an_avif_and_a_heic_are_turned_once() -> None:
    for kind in ("AVIF", "HEIF"):
        if kind not in decodable_formats():
            continue
        stored = Image.new("RGB", (48, 32), "black")
        stored.paste("white", (0, 0, 48, 16))  # the upper half
        content = saved(stored, kind, exif=orientation(6).tobytes(), quality=90)
        pixels = decode_image(content, None)
        assert pixels.shape == (48, 32, 3), kind
        assert pixels[:, 20:].mean() > 240 and pixels[:, :12].mean() < 15, "the upper half comes to the right"


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_orientation_that_is_nonsense_is_none(exif: bytes) -> None:
    assert np.array_equal(decode_image(saved(PICTURE, exif=exif), None), PIXELS)
    assert np.array_equal(decode_image(saved(PICTURE, exif=orientation(9)), None), PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize(
    ("profile", "primaries", "gamma"), [(P3, icc.DISPLAY_P3, None), (ADOBE, icc.ADOBE_RGB, icc.ADOBE_GAMMA)]
)
@pytest.mark.parametrize("colour", [(200, 100, 50), (90, 180, 120), (60, 60, 160), (128, 128, 128), (255, 255, 255)])
def test_a_patch_with_a_profile_has_the_colour_that_the_textbook_gives_it_in_srgb(
    kind: str, profile: bytes, primaries: Any, gamma: float | None, colour: tuple[int, int, int]
) -> None:
    patch, options = Image.new("RGB", (32, 32), colour), LOSSLESS.get(kind, {"quality": 100})
    stored = decode_image(saved(patch, kind, **options))[0, 0]  # lossy formats move the colour a little
    pixels = decode_image(saved(patch, kind, icc_profile=profile, **options))
    assert np.abs(stored.astype(int) - colour).max() <= (0 if kind in LOSSLESS else 3)
    # within one of 255, and its rounding
    assert np.abs(pixels.astype(float) - icc.in_srgb(tuple(stored), primaries, gamma)).max() <= 1.5


def test_a_profile_that_says_srgb_or_is_damaged_or_foreign_changes_no_bit() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, P3[:200], b"x" * 500, b""):
        for kind in ("PNG", "TIFF"):
            assert np.array_equal(decode_image(saved(PICTURE, kind, icc_profile=profile), None), PIXELS)
    assert not np.array_equal(decode_image(saved(PICTURE, icc_profile=P3), None), PIXELS), "the test can fail"


def test_grey_a_palette_and_transparency_are_converted_as_their_colours_are() -> None:
    colour = (200, 100, 50)
    expected = icc.in_srgb(colour, icc.DISPLAY_P3, None)
    clear = Image.new("RGBA", (32, 32), (*colour, 90))
    palette = Image.new("RGB", (32, 32), colour).quantize(4)
    for image in (clear, palette):
        pixels = decode_image(saved(image, icc_profile=P3))
        assert np.abs(pixels - expected).max() <= 1
    grey = Image.fromarray(PIXELS[..., 0])  # a profile of colours says nothing of grey
    assert np.array_equal(decode_image(saved(grey, icc_profile=P3), None)[..., 1], PIXELS[..., 0])


def test_a_picture_of_pil_is_turned_and_converted_as_its_file_is() -> None:
    content = saved(PICTURE, "PNG", exif=orientation(6), icc_profile=P3)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(load(image).pixels, load(content).pixels)


def test_sixteen_bits_are_their_upper_eight() -> None:
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) + 200
    for kind in ("PNG", "TIFF"):
        content = saved(Image.fromarray(deep), kind)
        assert np.array_equal(decode_image(content, None), np.dstack([PIXELS[..., 0]] * 3))
        assert load(content).warning == "has 16 bits a value: the upper 8 are looked at"


def test_one_bit_is_black_and_white() -> None:
    bits = PIXELS[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(decode_image(saved(Image.fromarray(bits), kind), None)[..., 0], bits * np.uint8(255))


def test_cmyk_is_shown_by_the_plain_formula_and_said_to_be_a_guess() -> None:
    ink = Image.new("CMYK", (32, 32), (0, 51, 204, 0))  # no key: red is all of 255, green four fifths, blue a fifth
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        answer = load(saved(ink, kind, **options))
        assert np.abs(answer.pixels.astype(int) - (255, 204, 51)).max() <= 3
        assert answer.warning == "is CMYK without a colour profile: its colours are a guess"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_frames_the_first_counts_and_that_is_said(kind: str) -> None:
    first, second = (Image.new("RGB", (32, 32), shade) for shade in ("black", "white"))
    answer = load(saved(first, kind, save_all=True, append_images=[second]))
    assert answer.pixels is not None and answer.pixels.max() < 8
    assert answer.warning == "has several frames: the first is looked at"
    assert load(saved(first, kind)).warning is None


def test_transparency_is_dropped_and_that_is_said_where_there_is_any() -> None:
    for alpha, said in ((255, None), (254, "is transparent in places: that is dropped, the colours beneath count")):
        for kind in ("PNG", "WEBP", "TIFF"):
            image = Image.fromarray(np.dstack([PIXELS, np.full((40, 24), alpha, np.uint8)]))
            options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
            answer = load(saved(image, kind, **options))
            assert np.array_equal(answer.pixels, PIXELS) and answer.warning == said
    palette = PICTURE.quantize(16)
    assert "transparent" in (load(saved(palette, transparency=0)).warning or "")


def test_a_photo_of_a_phone_with_more_behind_it_is_no_animation() -> None:
    content = saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE])
    with open_image(content) as image:
        assert image.format == "MPO" and remarks(image) == []


def test_a_damaged_second_frame_does_not_cost_the_first() -> None:
    content = saved(PICTURE.quantize(8), "GIF", save_all=True, append_images=[PICTURE.rotate(90).quantize(8)])
    assert load(content[: len(content) - 300]).pixels is not None


def test_heic_is_read_where_its_extra_is_installed() -> None:
    pytest.importorskip("pillow_heif")
    assert is_image_name("IMG_0001.HEIC")
    answer = load(saved(Image.new("RGB", (64, 48), (200, 100, 50)), "HEIF", quality=95))
    assert answer.pixels is not None and answer.pixels.shape == (48, 64, 3)
    assert np.abs(answer.pixels.astype(int) - (200, 100, 50)).max() <= 4 and answer.warning is None


def test_every_ending_counts_in_capitals_too() -> None:
    for name in ("a.WEBP", "b.AVIF", "c.TIFF", "d.TIF", "e.JPG", "f.JPEG", "g.Png", "h.GIF", "i.BMP", "j.JFIF"):
        assert is_image_name(name), name
