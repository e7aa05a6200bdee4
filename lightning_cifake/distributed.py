"""One batch over several processes, as Lightning's DDP runs them: whose shard is which, and sums over all of them.

The batches, and every random draw of training, are those of one process; each process takes its shard of them. So all
processes' generators stay alike, and the figures are those of one process with the same batch.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor
from torch import distributed as dist


class BatchShard(NamedTuple):
    """A process's shard of a batch: ``process`` is its number (from 0), ``sizes`` every process's count of images."""

    process: int
    sizes: tuple[int, ...]

    @property
    def whole(self) -> int:
        """Images in the batch of all processes."""
        return sum(self.sizes)

    def slice(self, whole: Tensor) -> Tensor:
        """(whole, ...) -> (n, ...): this process's rows of what is there for the whole batch; a view."""
        first = sum(self.sizes[: self.process])
        return whole[first : first + self.sizes[self.process]]


def shard_of(whole: int, process: int, processes: int) -> BatchShard | None:
    """The shard of a batch of ``whole`` images, as even as can be; None where one process has all of it."""
    if processes == 1:
        return None
    ends = [whole * number // processes for number in range(processes + 1)]
    return BatchShard(process, tuple(end - start for start, end in pairwise(ends)))


_shared: ContextVar[BatchShard | None] = ContextVar("shared", default=None)


@contextmanager
def use_shard(shard: BatchShard | None) -> Iterator[None]:
    """Inside, what is random or depends on the whole batch works on this process's shard of it; None: on all of it."""
    token = _shared.set(shard)
    try:
        yield
    finally:
        _shared.reset(token)


def current_shard() -> BatchShard | None:
    """The shard that :func:`use_shard` was given; None where one process has the whole batch."""
    return _shared.get()


def whole_of(images: Tensor) -> int:
    """Images in the batch of all processes, of this one's part (N, ...)."""
    shard = current_shard()
    return len(images) if shard is None else shard.whole


def own_part(drawn: Tensor) -> Tensor:
    """(whole, ...) -> (N, ...): of what stands for the whole batch, this process's part."""
    shard = current_shard()
    return drawn if shard is None else shard.slice(drawn)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, the same bits in each; no gradient."""
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gather(values: Any) -> list[Any]:
    """What each process has, in their order; of any size and kind."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, values)
    return gathered


def shutdown_process_group() -> None:
    """Ends the group once all have got here: what follows is each process's own."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def launcher_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(processes a node, nodes) that torchrun or srun has started; None where it is one process, or neither."""
    if "TORCHELASTIC_RUN_ID" in environment:
        every, here = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        return (here, every // here) if every > 1 else None
    tasks, nodes = (int(environment.get(f"SLURM_STEP_NUM_{name}", 1)) for name in ("TASKS", "NODES"))
    return (tasks // nodes, nodes) if tasks > 1 and "SLURM_PROCID" in environment else None
