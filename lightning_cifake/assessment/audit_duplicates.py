"""Duplicates over the parts and labels of a data set, and which images to leave out because of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cifake.assessment.audit_near import CANDIDATE, DETAIL, LIKENESS, SHIFT, THUMBNAIL, Pairs
from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.decode import ImageSet

_HELD_OUT = {"": 0, "train": 0, "val": 1, "test": 2}  # of two copies, the one that is held out further stays
HEAD = (
    "# Images that `audit` found. `fit --data.exclude` takes this file; lines that begin with # say nothing to it.",
    "# Of two copies the one that is held out further stays: test before val before train.",
)
BEHIND = "# Not left out: take the sign and the space away from those that should be."


@dataclass(frozen=True)
class Exact:
    """Groups of images with the same pixels.

    Attributes:
        images: what they are of.
        groups: places of two or more each; those of both labels first, then those over several parts.
    """

    images: ImageSet
    groups: list[np.ndarray]

    def of_both_labels(self, group: np.ndarray) -> bool:
        return len(np.unique(self.images.labels[group])) > 1

    def described(self, listed: int) -> dict[str, Any]:
        """For audit.json; the first ``listed`` groups by name."""
        within: Counter[str] = Counter()
        across: Counter[str] = Counter()
        for group in self.groups:
            counts = Counter(map(str, self.images.parts[group]))
            within.update({part or "all": count - 1 for part, count in counts.items() if count > 1})
            across.update({f"{one} in {other}": counts[one] for one, other in _crossings(counts)})
        return {
            "groups": len(self.groups),
            "images": sum(map(len, self.groups)),
            "copies_within": dict(within),
            "images_also_in": dict(across),
            "groups_of_both_labels": sum(map(self.of_both_labels, self.groups)),
            "listed": [[self.images.paths[at] for at in group] for group in self.groups[:listed]],
        }


def equal_pixels(images: ImageSet) -> np.ndarray:
    """(N,) int64, the same for images of the same pixels; the demo's own groups are of regions."""
    if len(images.encodings):
        return images.groups
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.images)
    return np.unique(np.frombuffer(digests, "S16").view("V16"), return_inverse=True)[1].reshape(-1)


def exact(images: ImageSet, equal: np.ndarray) -> Exact:
    """Of images and what :func:`equal_pixels` says of them."""
    order = np.argsort(equal, kind="stable")
    groups = [group for group in np.split(order, np.flatnonzero(np.diff(equal[order])) + 1) if len(group) > 1]
    found = Exact(images, groups)

    def rank(group: np.ndarray) -> tuple[bool, bool, int]:
        return not found.of_both_labels(group), len(np.unique(images.parts[group])) == 1, int(group[0])

    return Exact(images, sorted(groups, key=rank))


def near(images: ImageSet, equal: np.ndarray, pairs: Pairs, listed: int) -> dict[str, Any]:
    """Near-duplicates for audit.json; the most alike ``listed`` pairs by name, those over several parts first.

    An image that has copies counts with each of them.
    """
    members = _members(equal, np.concatenate([pairs.first, pairs.second]))
    within: Counter[str] = Counter()
    across: dict[str, set[int]] = {}
    crossing = np.zeros(len(pairs), bool)
    for number, (first, second) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        for a in members[equal[first]]:
            for b in members[equal[second]]:
                one, other = str(images.parts[a]), str(images.parts[b])
                if one == other:
                    within[one or "all"] += 1
                    continue
                crossing[number] = True
                held, less = (a, b) if _HELD_OUT[one] > _HELD_OUT[other] else (b, a)
                across.setdefault(f"{images.parts[held]} in {images.parts[less]}", set()).add(int(held))
    mixed = images.labels[pairs.first] != images.labels[pairs.second]
    order = np.lexsort((np.arange(len(pairs)), ~crossing, ~mixed))
    return {
        "pairs": len(pairs),
        "mirrored": int(pairs.mirrored.sum()),
        "pairs_within": dict(within),
        "images_also_in": {name: len(places) for name, places in across.items()},
        "pairs_of_both_labels": int(mixed.sum()),
        "candidates": pairs.candidates,
        "cut": pairs.cut,
        "rule": {
            "thumbnail_pixels": THUMBNAIL,
            "thumbnail_correlation_above": CANDIDATE,
            "detail_correlation_above": DETAIL,
            "quarter_detail_three_quarters_pixels_above": LIKENESS,
            "largest_shift": SHIFT,
        },
        "listed": [pair_of(images, pairs, int(at)) for at in order[:listed]],
    }


def pair_of(images: ImageSet, pairs: Pairs, at: int) -> dict[str, Any]:
    """One pair for audit.json."""
    both = (int(pairs.first[at]), int(pairs.second[at]))
    return {
        "names": [images.paths[place] for place in both],
        "labels": [CLASS_NAMES[int(images.labels[place])] for place in both],
        "mirrored": bool(pairs.mirrored[at]),
        "shift": [int(each) for each in pairs.shift[at]],
        "detail_correlation": round(float(pairs.detail[at]), 3),
        "pixel_correlation": round(float(pairs.pixels[at]), 3),
        "mean_difference": round(float(pairs.difference[at]), 1),
    }


def excluded(
    images: ImageSet, equal: np.ndarray, found: Exact, pairs: Pairs, suspects: np.ndarray
) -> tuple[list[str], int]:
    """The lines of excluded.txt, and how many images it leaves out.

    Left out are: images whose pixels stand under both labels; and, of copies and near-duplicates over several parts,
    those that are held out less. Without parts a protocol would put near-duplicates on several sides: one stays. Copies
    within a part and images that are likely wrongly labelled are listed behind, as comments.
    """
    wrong = {int(at) for group in found.groups if found.of_both_labels(group) for at in group}
    has_parts = bool((images.parts != "").any())
    less: set[int] = set()
    copies: set[int] = set()
    for component in _components(len(images), equal, pairs):
        held = np.array([_HELD_OUT[part] for part in images.parts[component]])
        stays = component[held == held.max()]
        less |= set(component[held < held.max()].tolist())
        (copies if has_parts else less).update(stays[1:].tolist())
    less -= wrong
    copies -= wrong | less
    lines = list(HEAD)
    lines += _listed(images, wrong, "# the same pixels under both labels")
    lines += _listed(images, less, "# copies and near-duplicates of images that stay")
    behind = _listed(images, copies, "# copies and near-duplicates of another image of the same part", "# ")
    behind += _listed(
        images, suspects.tolist(), "# labels that a classifier speaks against, the most suspicious first", "# "
    )
    return [*lines, *([BEHIND, *behind] if behind else [])], len(wrong | less)


def _listed(images: ImageSet, places: Iterable[int], heading: str, sign: str = "") -> list[str]:
    """A heading and names; sorted, where their order says nothing."""
    names = [images.paths[at] for at in places]
    if isinstance(places, set):
        names.sort()
    lines = [f"{sign}{name}" for name in names if "\n" not in name and "\r" not in name]  # no line can hold these
    return [f"{heading}: {len(lines):,}", *lines] if lines else []


def _crossings(counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Of the parts that are there, each with one that is held out less."""
    for one in counts:
        for other in counts:
            if _HELD_OUT[one] > _HELD_OUT[other]:
                yield one, other


def _members(equal: np.ndarray, places: np.ndarray) -> dict[int, np.ndarray]:
    """By the number that equal images share: the places of all of them, for those that are asked about."""
    wanted = np.flatnonzero(np.isin(equal, equal[places]))
    found: dict[int, list[int]] = {}
    for at in wanted:
        found.setdefault(int(equal[at]), []).append(int(at))
    return {key: np.array(value) for key, value in found.items()}


def _components(count: int, equal: np.ndarray, pairs: Pairs) -> list[np.ndarray]:
    """Places of images that copies and near-duplicates tie together, two or more each, in order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, first = np.unique(equal, return_index=True)
    of_equal = first[np.unique(equal, return_inverse=True)[1].reshape(-1)]  # the first image of the same pixels
    one = np.concatenate([np.arange(count), pairs.first])
    other = np.concatenate([of_equal, pairs.second])
    _, component = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)), directed=False)
    order = np.argsort(component, kind="stable")
    return [part for part in np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(part) > 1]
