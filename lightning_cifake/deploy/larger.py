"""Pictures that are larger than a model looks at: scaled down whole, their middle alone, or tiles of them that vote."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np

from lightning_cifake.data.resize import Picture
from lightning_cifake.deploy.answers import input_warning
from lightning_cifake.errors import UserError

Larger = Literal["resize", "crop", "tiles"]
LARGER: tuple[Larger, ...] = get_args(Larger)
TILES = 16  # of one picture, at most
_AT_ONCE = 64  # tiles that a model is given, however many pictures they are of


class Scored(Protocol):
    """What gives logits of images."""

    @property
    def image_size(self) -> int: ...

    def prepare(self, picture: Picture) -> np.ndarray:
        """An image -> the pixels that the model is given, (H, W, 3) uint8, small however large the image is."""

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N of these -> (N,) float32 logits of P(REAL)."""


class Resized:
    """The whole picture, scaled to the model's size as every image of training was."""

    def __init__(self, model: Scored) -> None:
        self.model = model

    def prepare(self, picture: Picture) -> np.ndarray:
        """A picture -> what :meth:`logits` takes of it, uint8."""
        return self.model.prepare(picture)

    def logits(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """N of these -> (N,) float32."""
        return self.model.logits(prepared)

    def single(self, prepared: np.ndarray) -> np.ndarray | None:
        """The one image that the model is given of a picture, whose P(REAL) is the model's own; None of several."""
        return prepared

    def columns(self, height: int, width: int) -> int:
        """How many tiles of a picture of this size lie side by side, in what :meth:`prepare` gives row by row."""
        return 1

    def warning(self, height: int, width: int) -> str | None:
        """Why a picture of this size is unlike those of training; None if it is not."""
        return input_warning(height, width, self.model.image_size)


class Tiled(Resized):
    """Squares of the model's size, pixel by pixel as they are, in a regular grid; the mean of their logits decides.

    As many as cover the picture, or ``most``, which are spread over it then: of one it is the middle. A picture with a
    side below the model's size is scaled whole, as there is no such square in it.
    """

    def __init__(self, model: Scored, most: int) -> None:
        super().__init__(model)
        self.most = most

    def prepare(self, picture: Picture) -> np.ndarray:
        """A picture -> (T, S, S, 3) uint8; (1, H, W, 3) of one that is scaled whole."""
        size = self.model.image_size
        if (grid := self._grid(picture.height, picture.width)) is None:
            return self.model.prepare(picture)[None]
        rows, columns = grid
        tiles = np.empty((len(rows) * len(columns), size, size, 3), np.uint8)
        for at, top in enumerate(rows):
            band = picture.rows(top, top + size)
            for beside, left in enumerate(columns):
                tiles[at * len(columns) + beside] = band[:, left : left + size]
        return tiles

    def logits(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """N of these -> (N,) float32, each the mean of its tiles' logits."""
        tiles = [tile for each in prepared for tile in each]
        parts = [self.model.logits(tiles[at : at + _AT_ONCE]) for at in range(0, len(tiles), _AT_ONCE)]
        counts = np.array([len(each) for each in prepared])
        sums = np.add.reduceat(np.concatenate(parts).astype(np.float64), counts.cumsum() - counts)
        return (sums / counts).astype(np.float32)

    def single(self, prepared: np.ndarray) -> np.ndarray | None:
        return prepared[0] if len(prepared) == 1 else None

    def columns(self, height: int, width: int) -> int:
        grid = self._grid(height, width)
        return 1 if grid is None else len(grid[1])

    def warning(self, height: int, width: int) -> str | None:
        """What of a picture of this size is looked at; of one that is scaled, as for all that are."""
        size = self.model.image_size
        if (height, width) == (size, size) or (grid := self._grid(height, width)) is None:
            return super().warning(height, width)
        count = len(grid[0]) * len(grid[1])
        what = f"{count} tiles of that size vote" if count > 1 else "its middle alone is looked at"
        return f"{width}x{height}, trained on {size}x{size}: {what}"

    def _grid(self, height: int, width: int) -> tuple[list[int], list[int]] | None:
        """Where tiles begin, down and across; None where none fits."""
        size = self.model.image_size
        if min(height, width) < size:
            return None
        down, across = -(-height // size), -(-width // size)
        # as many as may be; of grids with as many the one whose cells are nearest to squares
        grids = ((rows, min(across, self.most // rows)) for rows in range(1, min(down, self.most) + 1))
        rows, columns = max(
            grids, key=lambda grid: (grid[0] * grid[1], -abs(math.log(height * grid[1] / (width * grid[0]))))
        )
        return _offsets(height, size, rows), _offsets(width, size, columns)


def under(model: Scored, larger: Any) -> Resized:
    """A model, asked about larger pictures by a policy.

    Args:
        model: what is asked.
        larger: ``resize``: the whole picture, scaled to the model's size. ``crop``: the middle square of that size.
            ``tiles``: up to :data:`TILES` squares of that size, whose mean logit decides.

    Raises:
        UserError: another policy.
    """
    return Resized(model) if check_larger(larger) == "resize" else Tiled(model, 1 if larger == "crop" else TILES)


def check_larger(larger: Any, flag: str = "") -> Larger:
    """The policy itself.

    Raises:
        UserError: it is none.
    """
    for policy in LARGER:
        if larger == policy:
            return policy
    raise UserError(f"{flag}larger: expected one of {', '.join(LARGER)}, got {larger!r}")


def _offsets(length: int, size: int, count: int) -> list[int]:
    """Where tiles begin: from end to end where so many cover the length, else each in the middle of its share."""
    if count > 1 and count * size >= length:
        return [place * (length - size) // (count - 1) for place in range(count)]
    return [((2 * place + 1) * length // count - size) // 2 for place in range(count)]
