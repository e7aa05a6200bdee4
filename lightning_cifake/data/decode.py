"""Files decoded once: every image of a source in one uint8 array on disk, opened again as a memory map.

All 120,000 images of CIFAKE from the author's zip take about 10 s on two cores; opening the result, a fraction of one.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path

import numpy as np

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data import cache
from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.data.demo import DEMO_VERSION, make_demo
from lightning_cifake.data.encodings import ENCODING
from lightning_cifake.data.image_file import misnamed
from lightning_cifake.data.layout import Classes, Entry, NotOneDataset, parse_classes
from lightning_cifake.data.sources import Listing, Problem, Source, list_source, open_source
from lightning_cifake.data.workers import decoding
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.text import plural, printable, reason_of

log = logging.getLogger(__name__)

DECODER_VERSION = 3  # raise it when the same files would give other pixels: it keys the cache
DEMO = "demo"
_PARTS = ("", "train", "val", "test")


@dataclass(frozen=True)
class ImageSet:
    """Decoded images and what is known of them; N of them, in the source's order.

    Attributes:
        images: (N, S, S, 3) uint8, RGB, a memory map.
        paths: N paths relative to the source.
        labels: (N,) uint8, FAKE = 0, REAL = 1.
        parts: (N,) str, ``train``, ``val``, ``test`` or ``""``; ``excluded`` of what ``data.exclude`` leaves out.
        object_classes: (N,) uint8, 1 to 10, 0 where unknown.
        groups: (N,) int64; images that share a number must stay on one side of a split: identical pixels, or in the
            demo the same region of a photograph.
        digest: hex digest of all paths and pixels: the same on every machine for the same images.
        problems: the images that cannot be used, and were left out.
        name: what the user named: a path or ``demo``.
        encodings: (N,) :data:`~lightning_cifake.data.encodings.ENCODING`, how each file held its image; (0,) where
            there are no files.
        skipped: files that are not named like images, counted by suffix; they were left out too.
        notes: remarks on how the source is laid out, a line each.
        classes: the class folders' names as ``data.classes`` gives them; ``""`` for FAKE and REAL.
    """

    images: np.ndarray
    paths: list[str]
    labels: np.ndarray
    parts: np.ndarray
    object_classes: np.ndarray
    groups: np.ndarray
    digest: str
    problems: list[Problem]
    name: str
    encodings: np.ndarray = field(default_factory=lambda: np.empty(0, ENCODING))
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    classes: str = ""

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Origin:
    """Where images come from, before any is decoded.

    Attributes:
        name: what the user named.
        key: of what is decoded: other images, or another layout of them, have another one.
        open: lists the images; None: the built-in data.
        current_key: reads the key once more: whether anything has changed in between.
        both_classes: an image of each class must be among those that can be read.
    """

    name: str
    key: str
    open: Callable[[], Source] | None
    current_key: Callable[[], str]
    both_classes: bool = True


def load_images(
    root: Path | str = DEMO,
    image_size: int = 32,
    cache_dir: Path | str | None = None,
    classes: str | None = None,
    one_dataset: bool = True,
) -> ImageSet:
    """Opens a source's decoded images; decodes them first where the source is new or has changed.

    Args:
        root: a folder, a zip, or ``"demo"``, the built-in data (a folder of that name is ``"./demo"``, or a Path).
        image_size: height and width of the result; larger and smaller images are resized as TensorFlow does (bilinear,
            half-pixel centres, no antialiasing) and rounded to whole values.
        cache_dir: where the array is kept; :func:`default_cache_dir` by default.
        classes: the names of the class folders, as ``fake=ai,real=nature``; FAKE and REAL by default.
        one_dataset: refuses what cannot be trained on: one class only, several data sets side by side.

    Raises:
        NotOneDataset: with ``one_dataset``, the source is not that.
        UserError: the source is no dataset, none of its images can be read, or the disk is full.
    """
    return load_origin(origin_of(root, parse_classes(classes), one_dataset), image_size, cache_dir)


def origin_of(root: Path | str, classes: Classes, one_dataset: bool = True) -> Origin:
    """A folder, a zip or the demo, listed but not opened. Arguments as :func:`load_images`.

    Raises:
        UserError: no such path, or one that cannot be read.
    """
    if is_demo(root):
        return Origin(DEMO, f"demo {DEMO_VERSION}", None, lambda: f"demo {DEMO_VERSION}")
    listing = list_source(root)

    def key_of(listing: Listing) -> str:
        return f"{listing.key}\0{classes}" + ("" if one_dataset else "\0any")

    return Origin(
        str(root) if isinstance(root, str) or str(root) != DEMO else f"./{root}",
        key_of(listing),
        lambda: open_source(listing, classes, one_dataset),
        lambda: key_of(list_source(root)),
        one_dataset,
    )


def load_origin(origin: Origin, image_size: int, cache_dir: Path | str | None = None) -> ImageSet:
    """As :func:`load_images`, of images that were listed by other means.

    Raises:
        UserError: as there.
    """
    parent = expand_user(cache_dir) if cache_dir else default_cache_dir()
    if not 1 <= image_size <= LARGEST_IMAGE:
        raise UserError(f"image_size: expected 1 to {LARGEST_IMAGE}, got {image_size}")
    what = f"{DECODER_VERSION}\0{image_size}\0{origin.key}"
    folder = parent / hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()[:32]
    cache.sweep(parent)
    found = _open_cached(folder, origin, say=False)
    if found is not None:
        return found
    if origin.open is None and image_size != 32:
        raise UserError(f"the demo's images are 32x32: expected data.image_size 32, got {image_size}")
    with cache.locked(folder):
        found = _open_cached(folder, origin)  # another process may have been first
        if found is None:
            _decode_into(folder, origin, image_size)
            found = _open_cached(folder, origin)
    if found is None:
        raise UserError(
            f"the decoded images in {printable(folder)} are not what was written a moment ago: this disk, or the "
            "memory, cannot be relied on; name another folder with --data.cache_dir"
        )
    return found


def _decode_into(folder: Path, origin: Origin, image_size: int) -> None:
    """Makes the cache folder again; the caller holds its lock."""
    cache.remove(folder)
    if os.path.lexists(folder):
        raise UserError(
            f"cannot keep the decoded images in {printable(folder)}: remove what is there, or set --data.cache_dir"
        )
    with cache.building(folder) as made:
        if origin.open is None:
            _store_demo(made)
            return
        _store_source(origin.open(), made, image_size, origin.both_classes)
        if origin.current_key() != origin.key:
            raise UserError(
                f"{printable(origin.name)} has changed while its images were decoded: nothing was kept; run the same "
                "command again once it stays as it is"
            )


def is_demo(root: Path | str) -> bool:
    """Whether the built-in data are meant; says so, once, where a folder of that name could be."""
    if not isinstance(root, str) or root != DEMO:
        return False
    if Path(DEMO).is_dir():
        _say_demo(Path.cwd())
    return True


@once
def _say_demo(folder: Path) -> None:
    log.info("data: demo is the built-in data, not the folder demo/ that is here; that one is ./demo")


def _store_source(source: Source, folder: Path, image_size: int, both_classes: bool) -> None:
    kept: list[int] = []
    problems: list[Problem] = []
    unread: list[str] = []
    digests: list[bytes] = []
    encodings: list[np.ndarray] = []
    with cache.Writer(folder, image_size, len(source.entries)) as writer:
        with decoding(source, image_size) as blocks:
            for block in blocks:
                writer.append(block.pixels)
                kept += block.kept
                problems += block.problems
                unread += block.unread
                digests += block.digests
                encodings.append(block.encodings)
        entries = [source.entries[i] for i in kept]
        _require_readable(source, entries, problems, both_classes)
        _, groups = np.unique(np.frombuffer(b"".join(digests), "S16").view("V16"), return_inverse=True)
        known = _index(entries, groups.reshape(-1), digests, problems, unread, np.concatenate(encodings))
        notes = source.notes + _misnamed(entries, known["encodings"])
        layout = {"skipped": source.skipped, "notes": notes, "classes": source.classes}
        writer.finish({**known, "layout": np.array(json.dumps(layout))})


def _require_readable(source: Source, entries: list[Entry], problems: list[Problem], both_classes: bool) -> None:
    labels = {entry.label for entry in entries}
    missing = [f"under {name}/ " for label, name in enumerate(CLASS_NAMES) if both_classes and label not in labels]
    if not labels:
        missing = missing[:1] or [""]
    if missing:
        example = f", first {printable(problems[0].path)}: {problems[0].reason}" if problems else ""
        error = UserError if not labels else NotOneDataset
        raise error(
            f"none of the images {missing[0]}in {printable(source.root)} can be read ({len(problems)} "
            f"problems{example})"
        )


def _misnamed(entries: list[Entry], encodings: np.ndarray) -> list[str]:
    """A note on files whose names say another format than they hold; TensorFlow decodes these too."""
    kinds = encodings["format"].tolist()
    wrong = [
        (entry.path, kind.decode())
        for entry, kind in zip(entries, kinds, strict=True)
        if misnamed(entry.path, kind.decode())
    ]
    if not wrong:
        return []
    path, kind = wrong[0]
    return [
        f"{plural(len(wrong), 'file')} named for another format than what is in it, first {printable(path)}, which is "
        f"{kind}: decoded by its content"
    ]


def _store_demo(folder: Path) -> None:
    demo = make_demo()
    entries = [Entry(name, int(label), "", 0) for name, label in zip(demo.names, demo.labels, strict=True)]
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in demo.images]
    with cache.Writer(folder, demo.images.shape[1], len(entries)) as writer:
        writer.append(demo.images)
        writer.finish(_index(entries, demo.regions, digests, [], [], np.empty(0, ENCODING)))


def _index(
    entries: list[Entry],
    groups: np.ndarray,
    digests: list[bytes],
    problems: list[Problem],
    unread: list[str],
    encodings: np.ndarray,
) -> dict[str, np.ndarray]:
    content = hashlib.sha256()
    for path, digest in sorted(zip((entry.path for entry in entries), digests, strict=True)):
        content.update(path.encode(errors="surrogateescape") + b"\0" + digest)
    return {
        "paths": np.frombuffer("\0".join(e.path for e in entries).encode(errors="surrogateescape"), np.uint8),
        "labels": np.array([entry.label for entry in entries], np.uint8),
        "parts": np.array([_PARTS.index(entry.part) for entry in entries], np.uint8),
        "object_classes": np.array([entry.object_class for entry in entries], np.uint8),
        "groups": groups.astype(np.int64),
        "digest": np.array(content.hexdigest()),
        "problems": np.array(json.dumps([[problem.path, problem.reason] for problem in problems])),
        "unread": np.array(json.dumps(unread)),
        "encodings": encodings,
    }


def _open_cached(folder: Path, origin: Origin, say: bool = True) -> ImageSet | None:
    """What a cache folder holds; None where there is none, or one that is damaged or outdated, which is said."""
    try:
        found = cache.open_cached(folder)
        if found is None:
            return None
        images = _image_set(found, origin.name)
        again = _first_readable_again(json.loads(str(found.known["unread"])), origin)
        if again is None:
            return images
        reason = f"lack {printable(again)}, which could not be read then and can be now"
    except cache.Unsealed as error:
        reason = str(error)
    except (cache.Damaged, ValueError, LookupError, TypeError) as error:
        reason = f"are damaged ({reason_of(error)})"
    if say:
        log.warning("the decoded images kept for %s %s: decoding them again", printable(origin.name), reason)
    return None


def _image_set(found: cache.CachedArrays, name: str) -> ImageSet:
    """Raises ValueError, LookupError or TypeError where the arrays do not fit together."""
    images, fields = found
    paths = fields["paths"].tobytes().decode(errors="surrogateescape").split("\0")
    labels, parts, object_classes, groups = (fields[key] for key in ("labels", "parts", "object_classes", "groups"))
    if any(len(paths) != len(each) for each in (images, labels, parts, object_classes, groups)):
        raise ValueError("index and images differ")
    problems = [Problem(path, reason) for path, reason in json.loads(str(fields["problems"]))]
    digest, encodings = str(fields["digest"]), fields["encodings"]
    if encodings.dtype != ENCODING or len(encodings) not in (0, len(paths)):
        raise ValueError("index and images differ")
    named_parts = np.array(_PARTS)[parts]
    layout = json.loads(str(fields["layout"])) if "layout" in fields else {}
    return ImageSet(
        images, paths, labels, named_parts, object_classes, groups, digest, problems, name, encodings, **layout
    )


def _first_readable_again(unread: list[str], origin: Origin) -> str | None:
    """The first of the files that could not be read when the source was decoded and can be now; None without one.

    Neither a zip's directory nor a folder's listing, which the cache is keyed by, changes when a damaged archive is
    repaired or a disk answers again.
    """
    if not unread or origin.open is None:
        return None
    source = origin.open()
    for path in unread:
        try:
            source.read(path)
        except (OSError, ValueError, LookupError):
            continue
        return path
    return None
