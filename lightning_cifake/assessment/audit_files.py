"""How the files of a data set hold their images: bytes, sizes, formats, JPEG's tables and chroma, words beside them.

Only headers are read. Whatever differs here between the classes, a detector can learn in place of what images show.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.image_file import open_image
from lightning_cifake.data.sources import Source

_LISTED = 8  # values of a kind that are named before the rest is counted
_SAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0", -1: "other"}
_OF_PILLOW = ("exif", "icc_profile", "comment", "photoshop", "xmp", "adobe")  # what Pillow's info says of a JPEG
_OF_PNG = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"iCCP": "icc_profile", b"eXIf": "exif"}


class Header(NamedTuple):
    """One file, as far as its header tells.

    Attributes:
        bytes: of the file.
        width, height: in pixels.
        format, mode: Pillow's names.
        tables: JPEG's quantisation tables, as ``quality 75`` where they are libjpeg's, else a digest; "" of others.
        sampling: JPEG's chroma subsampling as ``4:2:0``; "" of others.
        beside: what is written beside the pixels, sorted: ``exif icc_profile progressive``.
    """

    bytes: int
    width: int
    height: int
    format: str
    mode: str
    tables: str
    sampling: str
    beside: str


def read_header(content: bytes) -> Header:
    """From one file's bytes.

    Raises:
        ValueError: no image.
    """
    with open_image(content) as image:
        beside = {name for name in _OF_PILLOW if name in image.info}
        tables = sampling = ""
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            beside |= {"progressive"} & set(image.info)
            tables = _named(tuple(tuple(table) for _, table in sorted(image.quantization.items())))
            grey = image.mode == "L"
            sampling = "grey" if grey else _SAMPLING.get(JpegImagePlugin.get_sampling(image), "other")
        elif image.format == "PNG":
            beside |= {_OF_PNG[kind] for kind in _chunks(content) if kind in _OF_PNG}
            beside |= {"interlaced"} if image.info.get("interlace") else set()
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        return Header(
            len(content), image.width, image.height, kind, image.mode, tables, sampling, " ".join(sorted(beside))
        )


def _chunks(content: bytes) -> set[bytes]:
    """The kinds of a PNG's chunks."""
    found, at = set(), 8
    while at + 8 <= len(content):
        found.add(content[at + 4 : at + 8])
        at += 12 + int.from_bytes(content[at : at + 4])
    return found


@cache
def _named(tables: tuple[tuple[int, ...], ...]) -> str:
    if (quality := _libjpeg().get(tables)) is not None:
        return f"quality {quality}"
    import hashlib

    digest = hashlib.sha256(repr(tables).encode()).hexdigest()[:8]
    return f"other {digest}"


@cache
def _libjpeg() -> dict[tuple[tuple[int, ...], ...], int]:
    """libjpeg's tables of each quality, as Pillow reads back what it has written; of colour, and of grey."""
    found: dict[tuple[tuple[int, ...], ...], int] = {}
    for mode in ("RGB", "L"):
        picture = Image.new(mode, (8, 8))
        for quality in range(1, 101):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            with Image.open(file) as image:
                tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))  # type: ignore[attr-defined]
            found.setdefault(tables, quality)
    return found


def read_headers(source: Source, paths: Iterable[str]) -> list[Header]:
    """Of images that were decoded before, in order.

    Raises:
        OSError, ValueError: a file has changed since.
    """
    return [read_header(source.read(path)) for path in paths]


def describe(headers: Sequence[Header], labels: np.ndarray) -> dict[str, Any]:
    """What each class's files have, for audit.json: counts of every value, and quantiles of the bytes.

    Args:
        headers: N.
        labels: (N,) FAKE = 0, REAL = 1.
    """
    found: dict[str, Any] = {}
    for label, name in enumerate(CLASS_NAMES):
        of_class = [header for header, own in zip(headers, labels, strict=True) if own == label]
        if not of_class:
            continue
        sizes = np.array([header.bytes for header in of_class])
        quantiles = np.quantile(sizes, [0, 0.05, 0.5, 0.95, 1]).round().astype(int).tolist()
        found[name] = {
            "images": len(of_class),
            "bytes": dict(zip(("least", "5 %", "median", "95 %", "most"), quantiles, strict=True)),
            "size": _counted(f"{header.width}x{header.height}" for header in of_class),
            "format": _counted(header.format for header in of_class),
            "mode": _counted(header.mode for header in of_class),
            "jpeg_tables": _counted(header.tables for header in of_class if header.tables),
            "jpeg_chroma": _counted(header.sampling for header in of_class if header.sampling),
            "beside": _counted(header.beside or "nothing" for header in of_class),
        }
    return found


def _counted(values: Iterable[str]) -> dict[str, int]:
    """The most frequent first; those beyond the first few in one sum."""
    counts = Counter(values)
    listed = dict(counts.most_common(_LISTED))
    rest = counts.total() - sum(listed.values())
    return {**listed, f"{len(counts) - _LISTED} others": rest} if rest else listed
