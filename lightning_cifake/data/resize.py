"""A decoded image -> the square that the network sees, as ``tf.image.resize`` does, however large the image is.

Bilinear without antialiasing looks at 2S rows at most, so only these are turned into floats, a few at a time: a
photograph of 100 megapixels costs a megabyte beside itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 2**20  # pixels up to which an image is resized in one go


@dataclass(frozen=True)
class Picture:
    """An image that is asked for its rows, so that no second copy of all of it is made.

    Attributes:
        height: in pixels.
        width: in pixels.
        rows: (first, end) -> (end - first, W, 3) uint8 RGB (or float, of an array of floats).
    """

    height: int
    width: int
    rows: Callable[[int, int], np.ndarray]


def of_array(pixels: np.ndarray) -> Picture:
    """(H, W, 3) uint8 or float."""
    return Picture(pixels.shape[0], pixels.shape[1], lambda first, end: pixels[first:end])


def resize_square(pixels: np.ndarray | Picture, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (S, S, 3) uint8, rounded to whole values, as every image of training comes to its size."""
    picture = pixels if isinstance(pixels, Picture) else of_array(pixels)
    if (picture.height, picture.width) == (image_size, image_size):
        return picture.rows(0, image_size)
    return np.rint(resize_bilinear(picture, image_size)).astype(np.uint8)


def resize_bilinear(pixels: np.ndarray | Picture, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 or float -> (S, S, 3) float32, as ``tf.image.resize`` with its defaults."""
    import cv2

    picture = pixels if isinstance(pixels, Picture) else of_array(pixels)
    height, width = picture.height, picture.width
    if height * width <= _AT_ONCE:
        whole = picture.rows(0, height).astype(np.float32)
        return cv2.resize(whole, (image_size, image_size), interpolation=cv2.INTER_LINEAR)
    # OpenCV goes along the rows first, then down: the same arithmetic in two calls, the first of which does nothing
    # down, the second nothing along. Rows that no result looks at stay zero, and cost no memory.
    narrow = np.zeros((height, image_size, 3), np.float32)
    for first, end in _row_ranges(height, width, image_size):
        part = picture.rows(first, end).astype(np.float32)
        narrow[first:end] = cv2.resize(part, (image_size, end - first), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(narrow, (image_size, image_size), interpolation=cv2.INTER_LINEAR)


def _row_ranges(height: int, width: int, image_size: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that hold all rows that are looked at; none of a single row, which OpenCV computes otherwise."""
    rows_at_once = max(2, _AT_ONCE // width)
    done = 0
    for place in range(image_size):
        middle = (2 * place + 1) * height // (2 * image_size)
        # a row more on each side than whole numbers ask for: OpenCV computes places in float32
        end = min(height, middle + 3)
        done = max(done, middle - 2)
        while done < end:
            stop = min(end, done + rows_at_once)
            yield max(0, min(done, stop - 2)), stop
            done = stop


def thin(pixels: np.ndarray | Picture, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (H', W', 3) uint8 of less than 4S a side, of which an exported model makes the same S x S.

    Its graph takes place i from rows ``p // 2S`` and the next, p = (2i + 1) H - S, in shares of ``p % 2S``. A height
    that is less by 2S k moves each p by 2S k (2i + 1), and leaves the shares as they are: so the pairs of rows that are
    looked at, moved together to an image of the height of 2S to 4S with the same remainder, give the same answer, bit
    for bit. Columns likewise.
    """
    picture = pixels if isinstance(pixels, Picture) else of_array(pixels)
    if max(picture.height, picture.width) < 4 * image_size:
        return picture.rows(0, picture.height)
    down, height = _sampled_places(picture.height, image_size)
    across, width = _sampled_places(picture.width, image_size)
    thinned = np.zeros((height, width, 3), np.uint8)
    for first, end, target in _contiguous_runs(down):
        step = max(1, _AT_ONCE // picture.width)
        for start in range(first, end, step):
            stop = min(end, start + step)
            rows = picture.rows(start, stop)
            at = target + start - first
            thinned[at : at + stop - start, across[:, 1]] = rows[:, across[:, 0]]
    return thinned


def _sampled_places(length: int, image_size: int) -> tuple[np.ndarray, int]:
    """(n, 2) places of the original and of the thinned image, and the length of the latter."""
    if length < 4 * image_size:
        whole = np.arange(length)
        return np.stack([whole, whole], 1), length
    thinned = 2 * image_size + length % (2 * image_size)
    steps = 2 * np.arange(image_size) + 1
    source = (steps * length - image_size) // (2 * image_size)
    target = (steps * thinned - image_size) // (2 * image_size)
    # the next one too, of both: 2S is far enough apart for no pair to meet the next, or the end
    return np.stack([np.stack([source, source + 1], 1).ravel(), np.stack([target, target + 1], 1).ravel()], 1), thinned


def _contiguous_runs(kept: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(first, end, target): neighbours that stay neighbours, together."""
    breaks = np.flatnonzero((np.diff(kept, axis=0) != 1).any(1)) + 1
    for run in np.split(kept, breaks):
        yield int(run[0, 0]), int(run[-1, 0]) + 1, int(run[0, 1])
