import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.data.loader import IndexLoader

counts = st.integers(1, 200)
sizes = st.integers(2, 40)
seeds = st.integers(0, 2**32 - 1)


def epoch(loader: IndexLoader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def joined(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@given(counts, sizes, st.booleans(), seeds)
def test_every_index_comes_once_an_epoch_in_as_many_batches_as_len_says(
    count: int, size: int, shuffle: bool, seed: int
) -> None:
    indices = np.arange(count) * 3 + 5
    loader = IndexLoader(indices, size, shuffle, seed)
    batches = epoch(loader)
    assert sorted(joined(batches)) == indices.tolist()
    assert len(batches) == len(loader)
    assert all(len(batch) == size for batch in batches[:-1]) and len(batches[-1]) <= size + 1
    if not shuffle:
        assert joined(batches) == indices.tolist()


@given(st.integers(1, 20), sizes)
def test_a_single_image_left_over_joins_the_last_batch_in_training_only(whole: int, size: int) -> None:
    indices = np.arange(whole * size + 1)
    assert [len(batch) for batch in IndexLoader(indices, size, shuffle=True)] == [size] * (whole - 1) + [size + 1]
    assert [len(batch) for batch in IndexLoader(indices, size)] == [size] * whole + [1]


@given(seeds, st.integers(0, 1000))
def test_the_order_follows_from_seed_and_epoch_alone(seed: int, number: int) -> None:
    first, second = (IndexLoader(np.arange(50), 7, shuffle=True, seed=seed) for _ in range(2))
    for _ in range(2):
        epoch(first)  # what was drawn before does not matter
    torch.rand(1)
    first.set_epoch(number)
    second.set_epoch(number)
    expected = epoch(first)
    assert epoch(second) == expected
    second.set_epoch(number + 1)
    assert epoch(second) != expected
    other = IndexLoader(np.arange(50), 7, shuffle=True, seed=seed ^ 1)
    other.set_epoch(number)
    assert epoch(other) != expected


def test_the_order_is_the_one_it_always_was_and_draws_nothing_from_the_global_generator() -> None:
    loader = IndexLoader(np.arange(10), 4, shuffle=True, seed=3)
    state = torch.get_rng_state()
    first = epoch(loader)
    loader.set_epoch(1)
    assert first == [[3, 0, 1, 7], [8, 4, 6, 9], [2, 5]]
    assert epoch(loader) == [[6, 0, 4, 1], [2, 3, 5, 7], [8, 9]]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [20, 21, 22])
def test_resuming_at_any_batch_gives_exactly_the_rest(count: int) -> None:
    whole = IndexLoader(np.arange(count), 4, shuffle=True, seed=3)
    whole.set_epoch(5)
    expected = epoch(whole)
    for done in range(len(expected) + 1):
        interrupted = IndexLoader(np.arange(count), 4, shuffle=True, seed=3)
        interrupted.set_epoch(5)
        batches = iter(interrupted)
        for _ in range(done):
            next(batches)
        resumed = IndexLoader(np.arange(count), 4, shuffle=True, seed=3)
        resumed.load_state_dict(interrupted.state_dict())
        assert resumed.state_dict() == interrupted.state_dict() == {"epoch": 5, "position": done}
        resumed.set_epoch(5)  # Lightning says so again
        assert epoch(resumed) == expected[done:]
        assert epoch(resumed) == expected  # only the first time
        resumed.load_state_dict({"epoch": 5, "position": done})
        resumed.set_epoch(6)
        assert resumed.state_dict() == {"epoch": 6, "position": 0}
        assert sorted(joined(epoch(resumed))) == list(range(count))


def test_a_second_iteration_begins_at_the_first_batch_even_after_a_break() -> None:
    loader = IndexLoader(np.arange(20), 4, shuffle=True, seed=1)
    expected = epoch(loader)
    next(iter(loader))
    assert epoch(loader) == expected


def test_two_iterations_side_by_side_do_not_disturb_each_other() -> None:
    loader = IndexLoader(np.arange(20), 4, shuffle=True, seed=1)
    assert all(torch.equal(one, two) for one, two in zip(loader, loader, strict=True))


def test_a_state_saved_between_two_epochs_begins_the_new_one_whole() -> None:
    loader = IndexLoader(np.arange(20), 4, shuffle=True, seed=1)
    epoch(loader)
    loader.set_epoch(1)
    resumed = IndexLoader(np.arange(20), 4, shuffle=True, seed=1)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert epoch(resumed) == epoch(loader) and len(epoch(loader)) == 5


def test_lightning_finds_set_epoch_through_the_sampler() -> None:
    loader = IndexLoader(np.arange(4), 2, shuffle=True)
    loader.sampler.set_epoch(3)
    assert loader.epoch == 3 and loader.batch_sampler is None


@given(st.integers(2, 200), st.integers(4, 40), st.integers(2, 4))
def test_of_processes_that_share_batches_each_has_an_image_of_every_batch_that_is_measured(
    count: int, size: int, processes: int
) -> None:
    loader = IndexLoader(np.arange(count), size, processes=processes)
    batches = epoch(loader)
    assert joined(batches) == list(range(count)) and len(batches) == len(loader)
    assert min(map(len, batches)) == loader.smallest_batch >= min(count, processes)
    assert max(map(len, batches)) < size + processes


@given(counts, sizes, st.integers(1, 4))
def test_the_batches_of_training_are_the_same_for_any_number_of_processes(
    count: int, size: int, processes: int
) -> None:
    loader = IndexLoader(np.arange(count), size, shuffle=True, processes=processes)
    assert epoch(loader) == epoch(IndexLoader(np.arange(count), size, shuffle=True))
    assert loader.smallest_batch == min(map(len, loader))
