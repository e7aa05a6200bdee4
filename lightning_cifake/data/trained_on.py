"""What a model was ever trained on: a record that its checkpoints carry, and that only grows.

An image is known by two digests, of its pixels and of its path within the source: pixels find it again in any source,
the path where it was decoded at another size.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_cifake.data.cifake_pixels import pixel_digests
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.data.decode import ImageSet
from lightning_cifake.data.protocols import load_split
from lightning_cifake.errors import UserError
from lightning_cifake.files import public_name
from lightning_cifake.run_folder import SPLIT
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

Record = list[dict[str, Any]]
"""One entry for each split that was trained on, in order, as a checkpoint holds it:

    split: digest of the images and of which of them trained, validated and tested; "" where that is not known.
    data_digest: of all the source's images, as :class:`ImageSet` gives it.
    image_size: height and width that they were decoded at; 0 where that is not known.
    asked: the arguments of the data that chose them, for messages.
    names, pixels: (n,) int64 each, of the n images that were trained on; pixels is empty where they are not known.
    unknown: the source of weights whose training images are not known, else "".
"""
KEY = "trained_on"  # of a checkpoint

CHOOSING = (
    "root", "protocol", "seed", "sample", "pool", "val_fraction", "split_file", "classes", "image_size", "exclude",
)  # fmt: skip
"""Arguments of the data that decide which images train, validate and test."""
OF_THE_EPOCH = ("batch_size", "seed")
"""Those that decide which of an epoch's images are still to come in the middle of it."""


def entry_of(data: CIFAKEDataModule) -> dict[str, Any]:
    """The entry for a data module that is set up."""
    assert data.images is not None and data.split is not None
    images, train = data.images, data.split.train
    return {
        **description_of(data),
        "names": torch.from_numpy(_digests_of_names(images.paths[i] for i in train)),
        "pixels": torch.from_numpy(_digests_of_pixels(images.images, train)),
        "unknown": "",
    }


def description_of(data: CIFAKEDataModule) -> dict[str, Any]:
    """An entry without its images: enough to tell one split from another."""
    assert data.images is not None and data.split is not None
    images, split = data.images, data.split
    asked = {name: getattr(data, name, None) for name in (*CHOOSING, "batch_size")}
    for name in ("root", "split_file"):
        if asked[name] is not None:
            asked[name] = public_name(str(asked[name]))
    asked["exclude"] = getattr(data, "exclusion", None)  # what is in the list counts, as a text that says so
    parts = {part: [images.paths[i] for i in getattr(split, part)] for part in ("train", "val", "test")}
    return {
        "split": split_digest(images.digest, parts),
        "data_digest": images.digest,
        "image_size": int(images.images.shape[1]),
        "asked": {name: value if isinstance(value, int | float) else _text(value) for name, value in asked.items()},
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def split_digest(data_digest: str, parts: Mapping[str, Sequence[str]]) -> str:
    """Of the images and of the order in which they were drawn into the parts."""
    digest = hashlib.sha256(data_digest.encode())
    for part in ("train", "val", "test"):
        digest.update(f"\0\0{part}\0".encode() + "\0".join(parts[part]).encode(errors="surrogateescape"))
    return digest.hexdigest()


def entry_of_images(images: ImageSet, indices: np.ndarray) -> dict[str, Any]:
    """The entry for images that something was fitted on beside a training, as an ensemble's weights."""
    paths = [images.paths[i] for i in indices]
    return {
        "split": split_digest(images.digest, {"train": paths, "val": [], "test": []}),
        "data_digest": images.digest,
        "image_size": int(images.images.shape[1]),
        "asked": {"root": public_name(images.name)},
        "names": torch.from_numpy(_digests_of_names(paths)),
        "pixels": torch.from_numpy(_digests_of_pixels(images.images, indices)),
        "unknown": "",
    }


def entry_of_split_file(path: Path) -> dict[str, Any] | None:
    """For a checkpoint of before there was a record, from split.json beside it; None where there is none.

    Raises:
        UserError: it is there, and damaged.
    """
    if not path.is_file():
        return None
    found = load_split(path)
    return {
        "split": split_digest(found.data_digest, found.parts),
        "data_digest": found.data_digest,
        "image_size": 0,
        "asked": {},
        "names": torch.from_numpy(_digests_of_names(found.parts["train"])),
        "pixels": torch.zeros(0, dtype=torch.int64),
        "unknown": "",
    }


def unknown_entry(source: str) -> dict[str, Any]:
    """For weights of which nothing tells what they were trained on."""
    empty = torch.zeros(0, dtype=torch.int64)
    entry = {"split": "", "data_digest": "", "image_size": 0, "asked": {}, "names": empty, "pixels": empty}
    return {**entry, "unknown": source}


def record_of(checkpoint: Mapping[str, Any], path: Path) -> Record:
    """The record in a checkpoint; what lies beside an old one; an entry that says that nothing is known.

    Raises:
        UserError: it is not what a record is.
    """
    if KEY in checkpoint:
        return checked(checkpoint[KEY], path)
    beside = entry_of_split_file(path.parent / SPLIT)
    return [unknown_entry(path.name) if beside is None else beside]


def checked(record: Any, path: Path | None = None) -> Record:
    """The record as read from a file.

    Raises:
        UserError: it is not what a record is.
    """
    right = isinstance(record, list) and all(isinstance(entry, dict) and _is_entry(entry) for entry in record)
    if not right:
        where = "the checkpoint" if path is None else printable(path)
        raise UserError(f"{where} is damaged or foreign: its record of what it was trained on cannot be read")
    return record


def _is_entry(entry: dict[str, Any]) -> bool:
    texts = all(isinstance(entry.get(name), str) for name in ("split", "data_digest", "unknown"))
    digests = all(
        isinstance(value := entry.get(name), Tensor) and value.dtype == torch.int64 and value.dim() == 1
        for name in ("names", "pixels")
    )
    return texts and digests and isinstance(entry.get("image_size"), int) and isinstance(entry.get("asked"), dict)


def grown(record: Record, entry: dict[str, Any]) -> Record:
    """The record with an entry at its end; one of the same split is not kept twice."""
    others = [each for each in record if not each["split"] or each["split"] != entry["split"]]
    return [*others, entry]


def joined(record: Record, other: Record) -> Record:
    """What two models were trained on: the entries of both, those of one split, or of one unknown source, once."""
    known = {(entry["split"], entry["unknown"]) for entry in record}
    return [*record, *(entry for entry in other if (entry["split"], entry["unknown"]) not in known)]


def seen_in_training(record: Record, images: ImageSet, indices: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each image, or another of its group, was ever trained on."""
    # only those that share a group with what is asked about
    near = np.flatnonzero(np.isin(images.groups, images.groups[indices]))
    trained = np.zeros(len(near), bool)
    names = _digests_of_names(images.paths[i] for i in near)
    pixels: np.ndarray | None = None
    for entry in record:
        same_size = entry["image_size"] == images.images.shape[1]
        if entry["data_digest"] != images.digest and same_size and len(entry["pixels"]):
            pixels = _digests_of_pixels(images.images, near) if pixels is None else pixels
            trained |= np.isin(pixels, entry["pixels"].numpy())
        else:
            trained |= np.isin(names, entry["names"].numpy())
    return np.isin(images.groups[indices], images.groups[near[trained]])


def warn_of_seen(before: Record, data: CIFAKEDataModule) -> None:
    """Says how many of the images to validate and test on were trained on before this data was."""
    assert data.images is not None and data.split is not None
    for part, indices in (("validation", data.split.val), ("test", data.split.test)):
        seen = int(seen_in_training(before, data.images, indices).sum()) if before else 0
        if seen:
            log.warning(
                "%s of the %s %s images were trained on before, themselves or as a twin: figures on them say nothing "
                "about new images", f"{seen:,}", f"{len(indices):,}", part,
            )  # fmt: skip


def covers(record: Record, images: ImageSet) -> bool:
    """Whether the record can tell of these images at all: it is of the same ones, or of pixels of the same size."""
    return any(
        entry["data_digest"] == images.digest
        or (entry["image_size"] == images.images.shape[1] and len(entry["pixels"]) > 0)
        for entry in record
    )


def unknown_sources(record: Record) -> list[str]:
    """The sources of weights whose training images are not known."""
    return [entry["unknown"] for entry in record if entry["unknown"]]


def _digests_of_names(names: Iterable[str]) -> np.ndarray:
    """(n,) int64."""
    return _digests(name.encode(errors="surrogateescape") for name in names)


def _digests_of_pixels(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (n,) int64."""
    return pixel_digests(images[i] for i in indices)


def _digests(contents: Iterable[bytes]) -> np.ndarray:
    joined = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(joined, "<i8").astype(np.int64)
