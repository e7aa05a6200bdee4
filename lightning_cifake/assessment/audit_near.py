"""Near-duplicates: the same picture saved again, brightened, shifted by a pixel or mirrored.

In two steps, because a hundred thousand images make seven billion pairs, and because at 32 pixels what is cheap is not
sharp: perceptual hashes of unrelated skies agree.

1. Candidates: pairs whose 8x8 thumbnails correlate, whatever their brightness and contrast. Every pair is looked at, in
   products of matrices, of the images and of their mirror images.
2. Confirmation on the pixels, at the best shift by up to two of them: they must correlate, and so must their fine
   detail, which is what is left when the mean of the neighbourhood is taken away. Two pictures of one kind share their
   large shapes, and not their noise, edges and textures.

The bounds are set on CIFAKE, where a photograph and a generated image are hardly ever the same picture: how many pairs
of one of each pass tells how many of the others do by chance. A changed scale is not seen, nor a crop of more than the
shift: people find more in CIFAR-10 (Barz and Denzler, Do We Train on Test Data?, Journal of Imaging 6, 2020).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

THUMBNAIL = 8
CANDIDATE = 0.9  # correlation of two thumbnails
DETAIL = 0.5  # correlation of two images' fine detail, at the best shift
LIKENESS = 0.86  # a quarter of that, and three quarters of the correlation of their pixels there
SHIFT = 2  # pixels, either way
FLAT = 2.0  # standard deviation in levels, below which an image has nothing to tell it by
_COMPONENTS = 64
_ROWS, _COLUMNS = 1024, 4096  # of a block of pairs: its correlations stay in the processor's cache
_CHUNK = 2048  # pairs that are confirmed at once
MOST_PAIRS = 2_000_000  # candidates that are confirmed: past it the least alike are left out, and that is said

Tick = Callable[[int], None]
"""Told of work that is done, for a bar."""


class Pairs(NamedTuple):
    """Near-duplicates, the most alike first.

    Attributes:
        first, second: (n,) int64 places, first < second.
        mirrored: (n,) bool: the second is like the first's mirror image.
        detail: (n,) float32, correlation of fine detail at the best shift.
        pixels: (n,) float32, correlation of pixels there.
        difference: (n,) float32, mean absolute difference of pixels there, in levels, as the images are.
        shift: (n, 2) int64: how far the second lies down and to the right.
        candidates: how many pairs of thumbnails were alike.
        cut: whether there were more, of which the least alike were left out.
    """

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    detail: np.ndarray
    pixels: np.ndarray
    difference: np.ndarray
    shift: np.ndarray
    candidates: int
    cut: bool

    def __len__(self) -> int:
        return len(self.first)


def blocks_of(count: int) -> int:
    """How many blocks of pairs :func:`near_duplicates` ticks for N images."""
    return 2 * sum(-(-(count - row // _COLUMNS * _COLUMNS) // _COLUMNS) for row in range(0, count, _ROWS))


def near_duplicates(images: np.ndarray, groups: np.ndarray, tick: Tick = lambda done: None) -> Pairs:
    """All pairs that are near, but for those of the same pixels; of equal images, the first stands for all.

    Args:
        images: (N, S, S, 3) uint8, S from 8 on, or a memory map.
        groups: (N,) int64, the same for equal images.
        tick: called with 1 after each block.
    """
    _, unique = np.unique(groups, return_index=True)
    unique = np.sort(unique)
    thumbnails = _thumbnails(images, unique)
    vectors, spread = _unit(thumbnails)
    usable = spread >= FLAT
    unique, vectors = unique[usable], vectors[usable]
    mirrors, _ = _unit(thumbnails[usable][:, :, ::-1])
    basis = _principal(vectors, mirrors)
    first, second, mirrored, alike = _candidates(vectors, mirrors, basis, tick)
    candidates, cut = len(first), len(first) > MOST_PAIRS
    if cut:
        kept = np.argpartition(-alike, MOST_PAIRS)[:MOST_PAIRS]
        first, second, mirrored = first[kept], second[kept], mirrored[kept]
    found = [
        _confirmed(
            images, unique[first[at : at + _CHUNK]], unique[second[at : at + _CHUNK]], mirrored[at : at + _CHUNK]
        )
        for at in range(0, len(first), _CHUNK)
    ]
    return _ordered(found, candidates, cut)


def _thumbnails(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n, 8, 8, 3) float32: means over the image's cells, which differ by a row where its side is no multiple of 8."""
    edges = np.linspace(0, images.shape[1], THUMBNAIL + 1).round().astype(int)[:-1]
    sizes = np.diff([*edges, images.shape[1]])
    found = np.empty((len(places), THUMBNAIL, THUMBNAIL, 3), np.float32)
    for at in range(0, len(places), _CHUNK):
        rows = np.add.reduceat(images[places[at : at + _CHUNK]], edges, axis=1, dtype=np.float32)
        found[at : at + _CHUNK] = np.add.reduceat(rows, edges, axis=2)
    return found / (sizes[:, None, None] * sizes[:, None])


def _unit(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8, 8, 3) -> (n, 192) of mean 0 and length 1, and (n,) the standard deviation that each had."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1)
    return flat / np.maximum(length, 1e-6)[:, None], length / np.sqrt(flat.shape[1])


def _principal(vectors: np.ndarray, mirrors: np.ndarray) -> np.ndarray:
    """(192, 64): orthonormal, from the images and their mirror images alike."""
    moments = vectors.T @ vectors + mirrors.T @ mirrors
    return np.linalg.eigh(moments)[1][:, ::-1][:, :_COMPONENTS].astype(np.float32)


def _candidates(
    vectors: np.ndarray, mirrors: np.ndarray, basis: np.ndarray, tick: Tick
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places of pairs, whether mirrored, and how alike their thumbnails are."""
    short = _shortened(vectors, basis)
    found: list[tuple[np.ndarray, ...]] = []
    for mirrored, others in ((False, vectors), (True, mirrors)):
        other = _shortened(others, basis)
        for row in range(0, len(short), _ROWS):
            for column in range(row // _COLUMNS * _COLUMNS, len(short), _COLUMNS):
                at_most = short[row : row + _ROWS] @ other[column : column + _COLUMNS].T
                first, second = np.divmod(np.flatnonzero(at_most > CANDIDATE), at_most.shape[1])
                tick(1)
                first, second = first + row, second + column
                kept = first < second
                first, second = first[kept], second[kept]
                alike = np.einsum("ij,ij->i", vectors[first], others[second])
                kept = alike > CANDIDATE
                found.append((first[kept], second[kept], np.full(int(kept.sum()), mirrored), alike[kept]))
    first, second, mirror, alike = (np.concatenate(each) for each in zip(*found, strict=True))
    return first, second, mirror, alike


def _shortened(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(n, 192) of length 1 -> (n, 65): their principal components, and the length of what these leave out.

    The product of two is never below that of the whole vectors: no pair is lost by it.
    """
    short = vectors @ basis
    rest = np.sqrt(np.maximum(1 - (short**2).sum(1, keepdims=True), 0))
    return np.ascontiguousarray(np.concatenate([short, rest], 1))


def _confirmed(images: np.ndarray, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> Pairs:
    """Those of (n,) pairs that are near."""
    one, other = images[first].astype(np.float32), images[second].astype(np.float32)
    other[mirrored] = other[mirrored, :, ::-1]
    shift, detail = _best_shift(_detail(one), _detail(other))
    near = detail > DETAIL
    one, other, shift, detail = one[near], other[near], shift[near], detail[near]
    pixels, difference = np.empty(len(one), np.float32), np.empty(len(one), np.float32)
    for down, right in np.unique(shift, axis=0):
        here = (shift == (down, right)).all(1)
        a, b = _overlap(one[here], other[here], down, right)
        difference[here] = abs(a - b).mean((1, 2, 3))
        pixels[here] = _correlation(a, b)
    kept = _likeness(detail, pixels) > LIKENESS
    return Pairs(
        first[near][kept], second[near][kept], mirrored[near][kept], detail[kept], pixels[kept], difference[kept],
        shift[kept], 0, False,
    )  # fmt: skip


def _likeness(detail: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return (detail + 3 * pixels) / 4


def _detail(images: np.ndarray) -> np.ndarray:
    """(n, S, S, 3) levels -> (n, S - 2, S - 2): grey, less the mean of each pixel and its eight neighbours."""
    grey = images.mean(3)
    size = grey.shape[1] - 2
    around = sum(grey[:, i : i + size, j : j + size] for i in range(3) for j in range(3))
    return grey[:, 1:-1, 1:-1] - around / 9


def _best_shift(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) how far the second lies down and to the right, and (n,) the correlation of details there."""
    best, shift = np.full(len(one), -1, np.float32), np.zeros((len(one), 2), np.int64)
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            found = _correlation(*_overlap(one, other, down, right))
            better = found > best
            best[better], shift[better] = found[better], (down, right)
    return shift, best


def _overlap(one: np.ndarray, other: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """What both show where the second lies so far down and to the right."""
    height, width = one.shape[1:3]
    up, left = max(-down, 0), max(-right, 0)
    rows, columns = height - abs(down), width - abs(right)
    a = one[:, up : up + rows, left : left + columns]
    b = other[:, up + down : up + down + rows, left + right : left + right + columns]
    return a, b


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, ...) twice -> (n,) in [-1, 1]; 0 where one of them is flat."""
    a, b = one.reshape(len(one), -1), other.reshape(len(other), -1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    return np.einsum("ij,ij->i", a, b) / np.maximum(length, 1e-3)


def _ordered(found: list[Pairs], candidates: int, cut: bool) -> Pairs:
    """Joined, the most alike first."""
    if not found:
        none, shares = np.empty(0, np.int64), np.empty(0, np.float32)
        return Pairs(none, none, none > 0, shares, shares, shares, np.empty((0, 2), np.int64), candidates, cut)
    names = Pairs._fields[:-2]
    columns: dict[str, np.ndarray] = {name: np.concatenate([getattr(each, name) for each in found]) for name in names}
    likeness = _likeness(columns["detail"], columns["pixels"])
    order = np.lexsort((columns["second"], columns["first"], -likeness))
    return Pairs(**{name: column[order] for name, column in columns.items()}, candidates=candidates, cut=cut)
