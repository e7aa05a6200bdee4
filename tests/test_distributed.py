"""Parts of a batch: every image once, as even as can be, and every draw that of the whole batch."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.data.augment import Augmentation, PublishedAugmentation
from lightning_cifake.distributed import BatchShard, current_shard, launcher_world, shard_of, use_shard
from lightning_cifake.machine import is_first_process
from lightning_cifake.networks.head import Dropout


def shards(whole: int, processes: int) -> list[BatchShard | None]:
    return [shard_of(whole, number, processes) for number in range(processes)]


@given(st.integers(1, 100), st.integers(2, 9))
def test_the_shards_are_the_batch_in_order_and_differ_by_one_image_at_most(whole: int, processes: int) -> None:
    found = shards(whole, processes)
    rows = torch.arange(whole)
    assert torch.equal(torch.cat([shard.slice(rows) for shard in found if shard is not None]), rows)
    sizes = {size for shard in found if shard is not None for size in shard.sizes}
    assert max(sizes) - min(sizes) <= 1 and min(sizes) == whole // processes
    assert all(shard is not None and shard.whole == whole for shard in found)


def test_one_process_has_no_shard() -> None:
    assert shards(7, 1) == [None]
    with use_shard(BatchShard(1, (3, 4))):
        assert current_shard() == BatchShard(1, (3, 4))
        with use_shard(None):
            assert current_shard() is None
    assert current_shard() is None


def in_shards(layer: object, values: torch.Tensor, processes: int) -> torch.Tensor:
    """What a layer makes of a batch in shards, every process with the same generator."""
    made = []
    for shard in shards(len(values), processes):
        torch.manual_seed(5)
        with use_shard(shard):
            made.append(layer(values if shard is None else shard.slice(values)))  # type: ignore[operator]
    return torch.cat(made)


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"rotation": 20.0, "zoom": 0.2}])
@pytest.mark.parametrize(("count", "processes"), [(8, 2), (9, 2), (7, 3)])
def test_augmentation_in_shards_is_that_of_the_whole_batch_to_the_bit(
    options: dict[str, float], count: int, processes: int
) -> None:
    images = torch.rand(count, 8, 8, 3).permute(0, 3, 1, 2)
    augment = PublishedAugmentation(**options)  # type: ignore[arg-type]
    assert torch.equal(in_shards(augment, images, processes), in_shards(augment, images, 1))


@pytest.mark.parametrize(("shape", "dtype"), [((9, 256), torch.float32), ((7, 5, 2, 2), torch.float64)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_dropout_in_shards_is_that_of_the_whole_batch_and_torchs(
    shape: tuple[int, ...], dtype: torch.dtype, rate: float
) -> None:
    values = torch.randn(shape, dtype=dtype)
    whole = in_shards(torch.nn.Dropout(rate), values, 1)
    for processes in (1, 2, 3):
        assert torch.equal(in_shards(Dropout(rate), values, processes), whole)
    with use_shard(BatchShard(0, (len(values), 1))):
        assert torch.equal(Dropout(rate).eval()(values), values)


@pytest.mark.parametrize(("count", "processes"), [(8, 2), (7, 3)])
def test_crops_and_cutout_in_shards_are_those_of_the_whole_batch(count: int, processes: int) -> None:
    images = torch.rand(count, 8, 8, 3).permute(0, 3, 1, 2)
    augment = Augmentation(PublishedAugmentation(flips="horizontal", jitter=False), crop=2, cutout=3)

    def images_of(batch: torch.Tensor) -> torch.Tensor:
        return augment(batch, torch.zeros(len(batch)))[0]

    assert torch.equal(in_shards(images_of, images, processes), in_shards(images_of, images, 1))


def test_draws_in_shards_leave_the_generator_as_one_process_leaves_it() -> None:
    images, states = torch.rand(9, 3, 8, 8), []
    for shard in [None, *shards(9, 2)]:
        torch.manual_seed(5)
        with use_shard(shard):
            own = images if shard is None else shard.slice(images)
            PublishedAugmentation(rotation=3.0)(own)
            Dropout(0.3)(own)
        states.append(torch.get_rng_state())
    assert torch.equal(states[1], states[0]) and torch.equal(states[2], states[0])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),  # Lightning's own
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, None),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, (2, 3)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}, (4, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # sbatch without srun: one process
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, None),
    ],
)
def test_what_torchrun_and_srun_have_started_is_known(
    environment: dict[str, str], expected: tuple[int, int] | None
) -> None:
    assert launcher_world(environment) == expected


def test_the_first_process_is_the_one_that_lightning_takes_for_it() -> None:
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    for values in itertools.product((None, "0", "1"), repeat=3):
        environment = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        expected = next((value for value in values if value is not None), "0") == "0"
        assert is_first_process(environment) == expected
