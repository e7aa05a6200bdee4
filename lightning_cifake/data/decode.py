"""Files decoded once: every image of a source in one uint8 array on disk, opened again as a memory map.

All 120,000 images of CIFAKE from the author's zip take about 10 s on two cores; opening the result, a fraction of one.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.data.demo import DEMO_VERSION, make_demo
from lightning_cifake.data.encodings import ENCODING, encodings_of
from lightning_cifake.data.image_file import DecodedImage, read_image
from lightning_cifake.data.sources import CLASS_NAMES, Entry, Problem, Source, open_source, source_key
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores

DECODER_VERSION = 2  # raise it when the same files would give other pixels: it keys the cache
DEMO = "demo"
_PARTS = ("", "train", "val", "test")
_BLOCK = 512  # images a worker decodes before it hands them over


@dataclass(frozen=True)
class ImageSet:
    """Decoded images and what is known of them; N of them, in the source's order.

    Attributes:
        images: (N, S, S, 3) uint8, RGB, a memory map.
        paths: N paths relative to the source.
        labels: (N,) uint8, FAKE = 0, REAL = 1.
        parts: (N,) str, ``train``, ``val``, ``test`` or ``""``.
        object_classes: (N,) uint8, 1 to 10, 0 where unknown.
        groups: (N,) int64; images that share a number must stay on one side of a split: identical pixels, or in the
            demo the same region of a photograph.
        digest: hex digest of all paths and pixels: the same on every machine for the same images.
        problems: the files that were left out.
        name: what the user named: a path or ``demo``.
        encodings: (N,) :data:`~lightning_cifake.data.encodings.ENCODING`, how each file held its image; (0,) where
            there are no files.
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

    def __len__(self) -> int:
        return len(self.paths)


def load_images(root: Path | str = DEMO, image_size: int = 32, cache_dir: Path | None = None) -> ImageSet:
    """Opens a source's decoded images; decodes them first where the source is new or has changed.

    Args:
        root: a folder, a zip, or ``"demo"``.
        image_size: height and width of the result; larger and smaller images are resized as TensorFlow does (bilinear,
            half-pixel centres, no antialiasing) and rounded to whole values.
        cache_dir: where the array is kept; :func:`default_cache_dir` by default.

    Raises:
        UserError: the source is no dataset, none of its images can be read, or the disk is full.
    """
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    if image_size < 1:
        raise UserError(f"image_size: expected at least 1, came {image_size}")
    demo = str(root) == DEMO
    source_digest = f"demo {DEMO_VERSION}" if demo else source_key(Path(root))
    key = hashlib.sha256(f"{DECODER_VERSION}\0{image_size}\0{source_digest}".encode()).hexdigest()[:32]
    folder = cache / key
    stamp = _stamp(Path(root)) if not demo else ""
    found = _open_cached(folder, str(root), stamp)
    if found is not None:
        return found
    if demo and image_size != 32:
        raise UserError(f"the demo's images are 32x32: expected data.image_size 32, came {image_size}")
    with _new_folder(folder) as building:
        if demo:
            _store_demo(building)
        else:
            _store_source(open_source(Path(root)), building, image_size, stamp)
    found = _open_cached(folder, str(root), stamp)
    if found is None:
        raise UserError(f"cannot keep the decoded images in {folder}: remove what is there, or set --data.cache_dir")
    return found


def _stamp(root: Path) -> str:
    """Tells a damaged archive from its mended copy: they share the central directory, and so the key."""
    try:
        stat = root.stat()
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror or error}") from error
    return "" if root.is_dir() else f"{stat.st_size} {stat.st_mtime_ns}"


class _Blocks:
    """The source in blocks, as a map-style dataset: a torch DataLoader runs its workers."""

    def __init__(self, source: Source, image_size: int) -> None:
        self.source, self.image_size = source, image_size

    def __len__(self) -> int:
        return -(-len(self.source.entries) // _BLOCK)

    def __getitem__(self, block: int) -> tuple[np.ndarray, list[int], list[Problem], list[bytes], np.ndarray]:
        first = block * _BLOCK
        entries = self.source.entries[first : first + _BLOCK]
        pixels = np.empty((len(entries), self.image_size, self.image_size, 3), np.uint8)
        kept: list[int] = []
        problems: list[Problem] = []
        digests: list[bytes] = []
        decoded: list[DecodedImage] = []
        for offset, entry in enumerate(entries):
            try:
                content = self.source.read(entry.path)
                image = read_image(content, self.image_size)
            except (OSError, ValueError) as error:
                reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                problems.append(Problem(entry.path, reason))
                continue
            pixels[len(kept)] = image.pixels
            decoded.append(image._replace(pixels=pixels[:0]))
            digests.append(hashlib.blake2b(pixels[len(kept)].tobytes(), digest_size=16).digest())
            kept.append(first + offset)
        return pixels[: len(kept)], kept, problems, digests, encodings_of(decoded)


def _store_source(source: Source, folder: Path, image_size: int, stamp: str) -> None:
    import torch
    from rich.console import Console
    from rich.progress import track
    from torch.utils.data import DataLoader

    blocks = _Blocks(source, image_size)
    total = len(source.entries)
    workers = min(cores(), 16) if total > 4 * _BLOCK else 0
    # batch_size=None: the loader hands over each block as it is, in order. Its own generator: it would draw from
    # torch's, and a run that decodes would train otherwise than one that finds the images decoded.
    loader: Any = DataLoader(
        blocks,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    kept: list[int] = []
    problems = list(source.problems)
    digests: list[bytes] = []
    encodings: list[np.ndarray] = []
    console = Console(stderr=True)
    # written, not mapped: on a full disk a write is an error, a mapped page kills the process
    with (folder / "images.npy").open("wb") as file:
        _write_header(file, total, image_size)
        for pixels, indices, bad, block_digests, block_encodings in track(
            loader, f"decoding {total:,} images (once)", total=len(blocks), console=console, disable=total <= _BLOCK
        ):
            file.write(pixels.data)
            kept += indices
            problems += bad
            digests += block_digests
            encodings.append(block_encodings)
        file.seek(0)
        _write_header(file, len(kept), image_size)  # as long as before: numpy leaves room for any first dimension
    entries = [source.entries[i] for i in kept]
    for label, name in enumerate(CLASS_NAMES):
        if not any(entry.label == label for entry in entries):
            example = f", first {problems[0].path}: {problems[0].reason}" if problems else ""
            raise UserError(
                f"none of the images under {name}/ in {source.root} can be read ({len(problems)} problems{example})"
            )
    _, groups = np.unique(np.frombuffer(b"".join(digests), "S16").view("V16"), return_inverse=True)
    _write_index(folder, entries, groups.reshape(-1), digests, problems, stamp, np.concatenate(encodings))


def _as_it_is(block: Any) -> Any:
    return block


def _write_header(file: BinaryIO, count: int, image_size: int) -> None:
    shape = (count, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _store_demo(folder: Path) -> None:
    demo = make_demo()
    entries = [Entry(name, int(label), "", 0) for name, label in zip(demo.names, demo.labels, strict=True)]
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in demo.images]
    np.save(folder / "images.npy", demo.images)
    _write_index(folder, entries, demo.regions, digests, [], "", np.empty(0, ENCODING))


def _write_index(
    folder: Path,
    entries: list[Entry],
    groups: np.ndarray,
    digests: list[bytes],
    problems: list[Problem],
    stamp: str,
    encodings: np.ndarray,
) -> None:
    content = hashlib.sha256()
    for path, digest in sorted(zip((entry.path for entry in entries), digests, strict=True)):
        content.update(path.encode(errors="surrogateescape") + b"\0" + digest)
    np.savez(
        folder / "index.npz",
        paths=np.frombuffer("\0".join(e.path for e in entries).encode(errors="surrogateescape"), np.uint8),
        labels=np.array([entry.label for entry in entries], np.uint8),
        parts=np.array([_PARTS.index(entry.part) for entry in entries], np.uint8),
        object_classes=np.array([entry.object_class for entry in entries], np.uint8),
        groups=groups.astype(np.int64),
        digest=np.array(content.hexdigest()),
        problems=np.array(json.dumps([[problem.path, problem.reason] for problem in problems])),
        stamp=np.array(stamp),
        encodings=encodings,
    )


def _open_cached(folder: Path, name: str, stamp: str) -> ImageSet | None:
    """The array in a cache folder; None where there is none, or a damaged or outdated one, which is then removed."""
    try:
        if not folder.exists():
            return None
        # "c": writes would stay in memory; torch warns about arrays that cannot be written
        images = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
        with (folder / "index.npz").open("rb") as file, np.load(file, allow_pickle=False) as index:
            fields = {key: index[key] for key in index.files}
        paths = fields["paths"].tobytes().decode(errors="surrogateescape").split("\0")
        labels, parts, object_classes, groups = (fields[key] for key in ("labels", "parts", "object_classes", "groups"))
        if images.dtype != np.uint8 or any(
            len(paths) != len(each) for each in (images, labels, parts, object_classes, groups)
        ):
            raise ValueError("index and images differ")
        problems = [Problem(path, reason) for path, reason in json.loads(str(fields["problems"]))]
        if problems and str(fields.get("stamp", stamp)) != stamp:
            raise ValueError("files were left out of an archive that has been replaced since")
        digest, encodings = str(fields["digest"]), fields["encodings"]
        if encodings.dtype != ENCODING or len(encodings) not in (0, len(paths)):
            raise ValueError("index and images differ")
        named_parts = np.array(_PARTS)[parts]
        return ImageSet(images, paths, labels, named_parts, object_classes, groups, digest, problems, name, encodings)
    except (OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error):
        shutil.rmtree(folder, ignore_errors=True)
        return None


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling of ``folder`` that takes its name when all of it is written, and goes when anything fails."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the decoded images to {folder.parent} ({error.strerror}): name another folder with "
            "--data.cache_dir"
        ) from error
    try:
        yield building
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():  # another process was first: its copy is as good
                raise
    except OSError as error:
        raise UserError(
            f"cannot write the decoded images to {folder.parent} ({error.strerror or error}): free some space, or name "
            "another folder with --data.cache_dir"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
