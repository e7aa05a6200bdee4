"""Training as CUDA graphs: refused where it cannot be right; on a GPU the same steps as without."""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks import CompactCNN
from lightning_cifake.training.cuda_graphs import GraphedTraining, check_graphs


def _trainer(device: str = "cuda", world_size: int = 1, accumulate: int = 1) -> Any:
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(strategy=strategy, world_size=world_size, accumulate_grad_batches=accumulate)


def test_one_process_on_a_gpu_may_use_graphs() -> None:
    check_graphs(_trainer(), compiled=False)


@pytest.mark.parametrize(
    ("trainer", "compiled", "expected"),
    [
        (_trainer("cpu"), False, "a GPU of CUDA"),
        (_trainer(world_size=2), False, "one process, got 2"),
        (_trainer(accumulate=2), False, "accumulate_grad_batches 1"),
        (_trainer(), True, "model.compile false"),
    ],
)
def test_what_a_graph_would_be_wrong_for_is_refused_in_one_line(trainer: Any, compiled: bool, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.cuda_graphs: expected .*{expected}"):
        check_graphs(trainer, compiled)


def _record_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch's recording runs the module, with what it does to the buffers, and hands back a replay."""
    recorded: list[Any] = []

    def make(module: nn.Module, sample: tuple[torch.Tensor], **given: Any) -> Callable[[torch.Tensor], Any]:
        assert not torch.is_autocast_cache_enabled() and all(not each.any() for each in sample)
        for _ in range(given["num_warmup_iters"]):
            module(*sample)
        recorded.append(sample[0].shape)
        return lambda images: ("replayed", images.shape)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    return recorded


def test_a_batch_of_another_shape_goes_through_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _record_without_a_gpu(monkeypatch)
    network = CompactCNN(2).train()
    graphed = GraphedTraining(network, network)
    whole, rest = torch.rand(4, 3, 8, 8), torch.rand(3, 3, 8, 8)
    assert graphed(whole) == graphed(whole) == ("replayed", whole.shape)
    assert graphed(rest).shape == (3,) and recorded == [whole.shape]


def test_recording_leaves_the_statistics_of_batch_norms_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    _record_without_a_gpu(monkeypatch)
    network = CompactCNN(2).train()
    network(torch.rand(4, 3, 8, 8))
    before = {name: value.clone() for name, value in network.named_buffers()}
    GraphedTraining(network, network)(torch.rand(4, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_steps_are_those_without_graphs() -> None:
    ends = []
    for graphs in (False, True):
        torch.manual_seed(0)
        network = CompactCNN(8).double().cuda().train()
        forward = GraphedTraining(network, network) if graphs else network
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        generator = torch.Generator("cuda").manual_seed(1)
        for count in (16, 16, 7, 16):
            optimizer.zero_grad()
            images = torch.rand(count, 3, 32, 32, device="cuda", generator=generator, dtype=torch.float64)
            forward(images).square().mean().backward()
            optimizer.step()
        ends.append(torch.cat([value.double().flatten() for value in network.state_dict().values()]))
    assert (ends[0] - ends[1]).norm() <= 1e-9 * ends[0].norm()
