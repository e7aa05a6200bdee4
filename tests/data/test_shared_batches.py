"""Several processes have one batch: each its shard, none of it twice; too few images for all are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError


def made(cache: Path, **settings: Any) -> CIFAKEDataModule:
    """89 images to train, 26 to validate, 13 to test on."""
    data = CIFAKEDataModule(root="demo", sample=128, cache_dir=str(cache), **settings)
    data.setup()
    return data


class OfSeveral:
    """As much of a Trainer of several processes as the data module asks for."""

    def __init__(self, number: int, processes: int, least: int = 1) -> None:
        self.global_rank, self.world_size, self.is_global_zero = number, processes, number == 0
        self.lightning_module: Any = type("Model", (), {"min_images_per_rank": least})()
        self.training = False


def test_processes_share_a_batch_and_none_of_its_images_comes_twice(demo_cache: Path) -> None:
    data = made(demo_cache)
    whole = torch.arange(3, 14)
    batches = []
    for number in range(3):
        data.trainer = OfSeveral(number, 3)  # type: ignore[assignment]
        batches.append(data.transfer_batch_to_device(whole, torch.device("cpu"), 0))
    assert torch.equal(torch.cat([batch.index for batch in batches]), whole)
    assert [len(batch.images) for batch in batches] == [3, 4, 4]
    assert all(batch.shard.sizes == (3, 4, 4) and len(batch.labels) == len(batch.images) for batch in batches)


def test_processes_mix_images_of_the_whole_batch_and_take_their_shard(demo_cache: Path) -> None:
    data = made(demo_cache, mixup=0.4, crop=2)
    index, device, batches = torch.arange(3, 2003, 190), torch.device("cpu"), []
    for number, processes in ((0, 1), (0, 2), (1, 2)):
        trainer = OfSeveral(number, processes)
        trainer.lightning_module = torch.nn.Linear(1, 1)
        trainer.training = True
        data.trainer = trainer  # type: ignore[assignment]
        torch.manual_seed(3)
        batch = data.transfer_batch_to_device(index, device, 0)
        batches.append(data.on_after_batch_transfer(batch, 0))
    whole, *shards = batches
    assert ((whole.labels > 0) & (whole.labels < 1)).any()
    for name in ("images", "labels", "index"):
        assert torch.equal(torch.cat([getattr(shard, name) for shard in shards]), getattr(whole, name))
    trainer.training = False
    plain = data.on_after_batch_transfer(data.transfer_batch_to_device(index, device, 0), 0)
    assert torch.equal(plain.index, index[5:]) and set(plain.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("settings", "trainer", "loader", "says"),
    [
        (
            {"batch_size": 4},
            OfSeveral(0, 5),
            "train",
            "data.batch_size: 4 makes a batch of .* 5 processes need 1 each",
        ),
        ({"batch_size": 8}, OfSeveral(0, 5, 2), "train", "makes a batch of .* 5 processes need 2 each"),
        ({"eval_batch_size": 1}, OfSeveral(1, 2), "val", "data.eval_batch_size: 1 makes a batch of 1 .* need 1 each"),
        ({}, OfSeveral(0, 99), "test", "and 99 processes need 1 each"),
    ],
)
def test_a_batch_that_leaves_a_process_without_its_images_is_refused(
    demo_cache: Path, settings: dict[str, Any], trainer: OfSeveral, loader: str, says: str
) -> None:
    data = made(demo_cache, **settings)
    data.trainer = trainer  # type: ignore[assignment]
    with pytest.raises(UserError, match=says) as error:
        getattr(data, f"{loader}_dataloader")()
    assert "\n" not in str(error.value)
    assert error.value.reported_by_rank_zero == (trainer.global_rank > 0)
