"""Which files are decoded and to which pixels: what test_decode.py does not say of formats."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lightning_cifake.data.image_file import decode_image, misnamed, read_image
from lightning_cifake.data.image_names import FORMATS, decodable_formats

ENCODED = [
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"quality": 70}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "L", {"compression": "packbits"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("AVIF", "RGB", {"quality": 60}),
    ("JPEG2000", "RGB", {}),
    ("PPM", "RGB", {}),
    ("PPM", "L", {}),
]


@pytest.mark.parametrize(("kind", "mode", "options"), ENCODED)
def test_every_format_decodes_to_pillows_pixels(madedata: Any, kind: str, mode: str, options: dict[str, Any]) -> None:
    if kind not in decodable_formats():
        pytest.skip(f"this Pillow knows no {kind}")
    content = madedata.encoded(1, kind, mode, size=40, **options)
    image = read_image(content, None)
    with Image.open(io.BytesIO(content)) as pillows:
        assert image[1:] == (kind, pillows.mode, 40, 40)
        assert np.array_equal(image.pixels, np.asarray(pillows.convert("RGB")))
    assert decode_image(content).shape == (32, 32, 3)


def test_a_jpeg_with_a_second_picture_behind_it_is_a_jpeg(madedata: Any) -> None:
    first, second = (Image.fromarray(madedata.pixels(number)) for number in (1, 2))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    assert read_image(file.getvalue()).format == "JPEG"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.jpg", "PNG", True),
        ("a.PNG", "JPEG", True),
        ("a.webp", "JPEG", True),
        ("a.JFIF", "JPEG", False),
        ("a.tiff", "TIFF", False),
        ("a", "PNG", False),
        ("a.dat", "PNG", False),
    ],
)
def test_a_name_that_says_another_format_is_known(name: str, kind: str, expected: bool) -> None:
    assert misnamed(name, kind) is expected


def test_no_format_is_tried_that_runs_a_program_or_is_no_picture(madedata: Any) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"  # Pillow itself would
    for content in (postscript, madedata.encoded(1, "ICO"), madedata.encoded(1, "TGA"), madedata.encoded(1, "PDF")):
        with pytest.raises(ValueError, match="not an image, or of a format that is not read"):
            decode_image(content)
    assert not {"EPS", "PDF", "PSD", "ICO", "WMF"} & set(FORMATS)


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes], at_end: bool = False) -> bytes:
    """A PNG with more chunks behind its header, or behind its pixels."""
    packed = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    at = png.index(b"IEND") - 4 if at_end else 33
    return png[:at] + packed + png[at:]


BLANK = bytes(2_000_000)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"prompt\0\0" + zlib.compress(BLANK))],
        [(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(BLANK))],
        [(b"iCCP", b"profile\0\0" + zlib.compress(BLANK))],
        [(b"tEXt", b"a\0" + b"x" * 9_000_000)] * 8,
    ],
    ids=["zTXt", "iTXt", "iCCP", "72 MB of tEXt"],
)
def test_a_png_with_more_text_than_pillow_takes_gives_its_pixels(
    madedata: Any, chunks: list[tuple[bytes, bytes]], at_end: bool
) -> None:
    plain = madedata.encoded(1, "PNG")
    content = with_chunks(plain, *chunks, at_end=at_end)
    with pytest.raises(ValueError, match="MAX_TEXT"):
        Image.open(io.BytesIO(content)).load()
    assert np.array_equal(decode_image(content), decode_image(plain))
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20 and PngImagePlugin.MAX_TEXT_MEMORY == 2**26  # as it was for others


def test_a_bomb_in_a_text_chunk_is_never_unpacked(madedata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []
    decompress = PngImagePlugin._safe_zlib_decompress
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda s: unpacked.append(len(s)) or decompress(s))
    bomb = zlib.compress(bytes(50_000_000), 9)
    content = with_chunks(madedata.encoded(1, "PNG"), *[(b"zTXt", b"a\0\0" + bomb)] * 5)
    assert decode_image(content).shape == (32, 32, 3)
    assert unpacked == []


def test_a_png_damaged_behind_its_text_is_still_refused(madedata: Any) -> None:
    content = with_chunks(madedata.encoded(1, "PNG"), (b"zTXt", b"a\0\0" + zlib.compress(BLANK)))
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_image(content[:-200])
    with pytest.raises(ValueError):
        decode_image(content[:60])


def test_a_tiffs_tags_and_a_webps_profile_raise_no_warning(madedata: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("TIFF", "WEBP"):
            content = bytearray(madedata.encoded(1, kind, icc_profile=b"no profile" * 9))
            for at in range(8, len(content), 97):
                content[at] ^= 0x55
                try:
                    decode_image(bytes(content))
                except ValueError as error:
                    assert str(error)
