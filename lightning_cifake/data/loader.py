"""Batches of indices in a seeded order, resumable in the middle of an epoch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class IndexLoader:
    """Yields (n,) int64 batches of a split's indices.

    What an epoch's order is follows from ``seed`` and the epoch's number alone. Lightning stores :meth:`state_dict` in
    its checkpoints and tells the number through :meth:`set_epoch`.

    Args:
        indices: (N,) int64, what to draw from.
        batch_size: images a batch; the last may have fewer. Where one image would be left over, the last batch takes it
            as well when ``shuffle`` is on: batch norm cannot train on one.
        shuffle: a new order every epoch; otherwise the given one.
        seed: of the orders.
        processes: how many share each batch; each goes through this same order, and takes its shard of a batch. Without
            ``shuffle`` the last batch takes in what would be fewer images than there are processes: all must make as
            many steps, for DDP has them wait for each other in every one.
    """

    def __init__(
        self, indices: np.ndarray, batch_size: int, shuffle: bool = False, seed: int = 0, processes: int = 1
    ) -> None:
        self.indices = torch.from_numpy(np.asarray(indices, np.int64))
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self._least = 2 if shuffle else processes  # images in a batch of its own at the end
        self.epoch, self.position, self._resume_at = 0, 0, 0

    @property
    def sampler(self) -> "IndexLoader":
        """Itself: Lightning calls ``set_epoch`` on a loader's sampler."""
        return self

    batch_sampler = None  # what has a sampler is asked for this too

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        too_few = rest < self._least and whole > 0
        return whole + (rest > 0 and not too_few)

    @property
    def smallest_batch(self) -> int:
        """Images in the batch that has the fewest; 0 where there is none."""
        before = (len(self) - 1) * self.batch_size  # images in the batches before the last
        return min(self.batch_size, len(self.indices) - before) if before > 0 else len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        order = self.order()
        first, self._resume_at = self._resume_at, 0
        self.position = first
        last = len(self) - 1
        for at in range(first, last + 1):
            self.position = at + 1
            end = None if at == last else (at + 1) * self.batch_size
            yield order[at * self.batch_size : end]

    def order(self) -> Tensor:
        """The current epoch's (N,) int64 order."""
        if not self.shuffle:
            return self.indices
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def set_epoch(self, epoch: int) -> None:
        """Another epoch begins at its first batch; the current one stays where :meth:`load_state_dict` put it."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration begins behind the batches that had been handed out."""
        self.epoch, self.position, self._resume_at = state["epoch"], state["position"], state["position"]
