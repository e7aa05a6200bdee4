"""Which image trains, which validates, which tests: the published cut with its leak, a clean one, and CIFAKE's own.

| protocol    | train                     | validation            | test                  |
|-------------|---------------------------|-----------------------|-----------------------|
| `published` | every image, tests too    | batches 70 % to 90 %  | the batches after     |
| `clean`     | 70 % of the images        | 20 %                  | 10 %                  |
| `official`  | CIFAKE's train, less val  | 10 % carved from it   | CIFAKE's test         |

All are drawn with numpy's RandomState, whose stream is frozen: the same seed gives the same split on any machine. By
hand: scikit-learn's splitters promise no stream.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.decode import ImageSet
from lightning_cifake.data.exclude import EXCLUDED
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json, sealed_json, write_whole
from lightning_cifake.text import plural, printable, reason_of, shorten

log = logging.getLogger(__name__)

Protocol = Literal["published", "clean", "official"]
Pool = Literal["train", "all"]

PUBLISHED_BATCH = 32  # the paper cuts batches, not images: image_dataset_from_directory's default size
CLEAN_FRACTIONS = (0.7, 0.2, 0.1)
MAX_SPLIT_BYTES = 2**28  # some seven million images
LEAKING = {"published"}  # protocols that train on what they test on, and say so


@dataclass(frozen=True)
class Split:
    """Indices into an :class:`ImageSet`, each (n,) int64 in the order in which they were drawn."""

    protocol: str
    seed: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def published_batches(batches: int) -> tuple[int, int, int]:
    """How many of n batches the paper's take and skip give to (train, validation, test).

    Source: paper section 10.3; 625 -> (437, 125, 63). The test's ``int(n * .1) + 1`` can ask for more than is left.
    """
    train, val = int(batches * 0.7), int(batches * 0.2)
    return train, val, min(int(batches * 0.1) + 1, batches - train - val)


def make_split(
    images: ImageSet,
    protocol: Protocol = "clean",
    seed: int = 0,
    sample: int | None = None,
    pool: Pool = "train",
    val_fraction: float = 0.1,
) -> Split:
    """Splits a source.

    Args:
        images: the source.
        protocol: see the module's table.
        seed: of every draw here.
        sample: takes this many images first, the same number of each class (and of each object class, where known):
            from the pool, or from the training part where the protocol is ``official``.
        pool: for ``published`` and ``clean``: ``"train"`` leaves out what the source itself keeps as test, so that the
            official test set stays untouched; ``"all"`` takes everything.
        val_fraction: share of the training part that ``official`` validates on, where the source has no val part.

    Raises:
        UserError: the source has not what the protocol asks for, or too few images.
    """
    for name, value, known in (("protocol", protocol, get_args(Protocol)), ("pool", pool, get_args(Pool))):
        if value not in known:
            raise UserError(f"data.{name}: expected one of {', '.join(known)}, got {printable(value)}")
    if protocol == "official":
        split = _official(images, seed, sample, val_fraction)
    else:
        chosen = np.flatnonzero(images.parts != EXCLUDED)
        chosen = chosen if pool == "all" else chosen[images.parts[chosen] != "test"]
        if sample is not None:
            chosen = take_sample(images, chosen, sample, seed)
        split = _published(images, chosen, seed) if protocol == "published" else _clean(images, chosen, seed)
    for name, indices in (("train", split.train), ("val", split.val), ("test", split.test)):
        classes = len(np.unique(images.labels[indices]))
        if classes < 2:
            left = int((images.parts != EXCLUDED).sum())
            more = f"more images than {left}" if sample is None else f"a larger data.sample than {sample}"
            raise UserError(
                f"protocol {protocol} leaves the {name} split with {len(indices)} images of {classes} class(es): "
                f"expected both classes; give {more}"
            )
    return split


def take_sample(images: ImageSet, chosen: np.ndarray, sample: int, seed: int) -> np.ndarray:
    """``sample`` of the ``chosen`` indices, in source order: half of each class, even over the object classes."""
    if sample < 2 or sample % 2:
        raise UserError(f"data.sample: expected an even number of at least 2 (half for each class), got {sample}")
    rng = _rng(seed)
    taken: list[np.ndarray] = []
    for label in (0, 1):
        of_label = chosen[images.labels[chosen] == label]
        if len(of_label) < sample // 2:
            raise UserError(
                f"data.sample: {sample} asks for {sample // 2} images of each class, and there are only "
                f"{len(of_label)} of {CLASS_NAMES[label]} to draw from"
            )
        # a shuffle, then round-robin over the object classes: any number is as even as it can be
        of_label = of_label[rng.permutation(len(of_label))]
        rank = _rank_within(images.object_classes[of_label])
        taken.append(of_label[np.argsort(rank, kind="stable")[: sample // 2]])
    return np.sort(np.concatenate(taken))


def _rank_within(keys: np.ndarray) -> np.ndarray:
    """For each element, how many equal ones come before it."""
    order = np.argsort(keys, kind="stable")
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    return ranks


def _rng(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)  # its stream is frozen, a Generator's may change


def _published(images: ImageSet, chosen: np.ndarray, seed: int) -> Split:
    order = chosen.copy()
    _rng(seed).shuffle(order)  # as image_dataset_from_directory shuffles its sorted list of files
    train, val, test = published_batches(-(-len(order) // PUBLISHED_BATCH))
    val_at, test_at, end = (PUBLISHED_BATCH * n for n in (train, train + val, train + val + test))
    # the augmented set that the paper trains on is made from `data`, not from `train`: it holds every image
    return Split("published", seed, order, order[val_at:test_at], order[test_at:end])


def _clean(images: ImageSet, chosen: np.ndarray, seed: int) -> Split:
    train, val, test = stratified_parts(images, chosen, CLEAN_FRACTIONS, seed)
    return Split("clean", seed, train, val, test)


def _official(images: ImageSet, seed: int, sample: int | None, val_fraction: float) -> Split:
    train, val, test = (np.flatnonzero(images.parts == part) for part in ("train", "val", "test"))
    if not len(train) or not len(test):
        raise UserError(
            f"protocol official needs train/ and test/ in the source, and {printable(images.name)} has {len(train)} "
            f"images in train/ and {len(test)} in test/: use --data.protocol clean"
        )
    if sample is not None:
        train = take_sample(images, train, sample, seed)
    if not len(val):
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction: expected between 0 and 1, got {val_fraction}")
        train, val = stratified_parts(images, train, (1 - val_fraction, val_fraction), seed)
    return Split("official", seed, train, val, test)


def stratified_parts(images: ImageSet, chosen: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Cuts ``chosen`` into parts of the given shares, within each label and object class, whole groups at a time.

    Disjoint and complete. Within a stratum the first and the last part are off by at most half an image, one between by
    at most one; each cut moves by up to half a group more to keep the group whole.
    """
    rng = _rng(seed)
    _, first, group = np.unique(images.groups[chosen], return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    strata = images.labels[chosen].astype(np.int64) * 256 + images.object_classes[chosen]
    stratum = strata[first]  # of each group: its first image's
    part_of_group = np.empty(len(first), np.int64)
    shares = np.cumsum(fractions)[:-1]
    for key in np.unique(stratum):
        members = np.flatnonzero(stratum == key)
        members = members[rng.permutation(len(members))]
        ends = np.cumsum(sizes[members])
        cuts = np.rint(shares * ends[-1])
        middles = ends - sizes[members] / 2  # a group goes where most of it lies
        part_of_group[members] = np.searchsorted(cuts, middles, side="left")
    part = part_of_group[group]
    return [chosen[part == number] for number in range(len(fractions))]


def leak_audit(images: ImageSet, split: Split) -> dict[str, int]:
    """How many validation and test images were trained on: themselves, or as a twin (same pixels, other file)."""
    counts = {}
    for name, indices in (("val", split.val), ("test", split.test)):
        itself = np.isin(indices, split.train)
        counts[f"{name}_images_in_train"] = int(itself.sum())
        counts[f"{name}_images_with_twin_in_train"] = int((seen_in_training(images, split, indices) & ~itself).sum())
    return counts


def seen_in_training(images: ImageSet, split: Split, indices: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each image's group has a member that is trained on."""
    return np.isin(images.groups[indices], images.groups[split.train])


class SplitFile(NamedTuple):
    """What a split file says, before it is held against any images.

    Attributes:
        protocol, seed: as in :class:`Split`.
        data_digest: of the images that were split; ``""`` where the file does not say.
        parts: ``train``, ``val`` and ``test`` -> the images' paths, none twice within a part, none in two of them but
            where the protocol leaks by design.
        sealed: whether the file carried its digest, so that every byte of it was checked.
    """

    protocol: str
    seed: int
    data_digest: str
    parts: dict[str, list[str]]
    sealed: bool


def write_split(path: Path, images: ImageSet, split: Split) -> None:
    """Writes a split as JSON, by the images' paths, with its own digest; whole or not at all."""
    content = {
        "protocol": split.protocol,
        "seed": split.seed,
        "data_digest": images.digest,
        **{
            name: [images.paths[i] for i in indices]
            for name, indices in (("train", split.train), ("val", split.val), ("test", split.test))
        },
    }
    write_whole(path, sealed_json(content, indent=0))


def load_split(path: Path) -> SplitFile:
    """Reads what :func:`write_split` wrote, or another file of its form; needs no images.

    Raises:
        UserError: no such file, damaged, not a split, an empty part, an image named twice, or one that is trained on
            and tested on where the protocol does not say so. One line.
    """
    shown = printable(path)
    if not path.exists():
        raise UserError(f"there is no split file {shown}")
    try:
        content, sealed = read_json(path, MAX_SPLIT_BYTES)
    except UserError as error:
        reason = str(error).removeprefix(shown).removeprefix(": ").strip()
        raise UserError(f"{shown} is not a split file that can be used: it {reason}") from error
    try:
        parts = {part: _paths_of(content[part], part) for part in ("train", "val", "test")}
        protocol, seed, data_digest = content["protocol"], content["seed"], content.get("data_digest", "")
        if type(protocol) is not str or type(seed) is not int or type(data_digest) is not str:
            raise ValueError("protocol and data_digest are text, seed is a whole number")
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{shown} is not a split file: expected JSON with protocol, seed, train, val and test ({reason_of(error)})"
        ) from error
    _refuse_overlaps(shown, protocol, parts)
    return SplitFile(protocol, seed, data_digest, parts, sealed)


def _paths_of(listed: Any, part: str) -> list[str]:
    if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{part} is not a list of paths")
    return listed


def _refuse_overlaps(shown: str, protocol: str, parts: dict[str, list[str]]) -> None:
    """Figures on images that were counted twice, or trained on, would look like any others."""
    for part, listed in parts.items():
        if len(set(listed)) < len(listed):
            twice = next(path for path, count in Counter(listed).items() if count > 1)
            raise UserError(
                f"{shown}: expected each image once in {part}, got {len(listed) - len(set(listed)):,} repeated, first "
                f"{printable(twice)}"
            )
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if one == "train" and protocol in LEAKING:
            continue
        if shared := sorted(set(parts[one]) & set(parts[other])):
            raise UserError(
                f"{shown}: expected {one} and {other} without an image in common, as its protocol, "
                f"{shorten(printable(protocol), 40)}, is not {' or '.join(sorted(LEAKING))}; got {len(shared):,} in "
                f"both, first {printable(shared[0])}"
            )


def read_split(path: Path, images: ImageSet) -> Split:
    """A split file as indices into the images.

    Says so where the file carries no digest to be checked by, and where it is of other images of the same names. What
    ``data.exclude`` leaves out is left out of its parts too.

    Raises:
        UserError: as :func:`load_split`, or it names images that the source does not have, or all of a part is
            excluded.
    """
    found = load_split(path)
    position = {name: i for i, name in enumerate(images.paths)}
    missing = [name for part in found.parts.values() for name in part if name not in position]
    if missing:
        raise UserError(
            f"{printable(path)} names {plural(len(missing), 'image')} that {printable(images.name)} does not have, "
            f"first {printable(missing[0])}"
        )
    if not found.sealed:
        log.warning("%s carries no digest: that it is as it was written is not checked", printable(path))
    if found.data_digest not in ("", images.digest):
        log.warning(
            "%s was made for other images than those of %s: of the same names, but not the same in number or pixels",
            printable(path),
            printable(images.name),
        )
    indices = {part: np.array([position[name] for name in listed], np.int64) for part, listed in found.parts.items()}
    indices = {part: places[images.parts[places] != EXCLUDED] for part, places in indices.items()}
    if empty := [part for part, places in indices.items() if not len(places)]:
        raise UserError(f"{printable(path)}: data.exclude leaves its {empty[0]} part without an image")
    return Split(found.protocol, found.seed, indices["train"], indices["val"], indices["test"])


def spread(indices: np.ndarray, count: int | None) -> np.ndarray:
    """(n,) -> at most ``count`` of them: one of each of as many equal stretches, always the same.

    Drawn, not evenly spaced: names may count through what images show. CIFAKE's do, ten objects in turn, so that every
    tenth image shows the same.
    """
    if count is None or count >= len(indices):
        return indices
    edges = np.linspace(0, len(indices), count + 1).astype(int)
    return indices[np.random.default_rng(0).integers(edges[:-1], edges[1:])]
