"""The network's forward and backward pass as CUDA graphs: hundreds of small kernels, launched as one.

At 32x32 a kernel of ResNet50 is over before the host has launched the next one, so that a GPU waits for Python. A graph
is recorded once for one shape of batch, and replayed: the same kernels on the same numbers.
"""

import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError

WARM_UP = 3  # steps before the recording, in which cuDNN chooses its algorithms; what torch's own default is


class GraphedTraining:
    """Stands for ``forward`` in training: replays it, and its gradient, for batches of the shape of the first one.

    Batches of another shape (an epoch's last) go through ``forward`` itself. Autocast is as it was when the graph was
    recorded, at the first call. Dropout draws anew at every replay. Batch norms' statistics and the random numbers are
    as if nothing had been recorded.

    Args:
        network: whose parameters and buffers ``forward`` reads; on one GPU, without hooks.
        forward: (N, 3, S, S) float on that GPU -> a tensor or a tuple of tensors.

    Source: ``torch.cuda.make_graphed_callables``.
    """

    def __init__(self, network: nn.Module, forward: Callable[[Tensor], Any]) -> None:
        self._network, self._forward = network, forward
        self._shape: torch.Size | None = None
        self._replay: Any = None

    def __call__(self, images: Tensor) -> Any:
        if self._replay is None:
            self._record(images)
        return self._replay(images) if images.shape == self._shape else self._forward(images)

    def _record(self, images: Tensor) -> None:
        # torch's, about its own recording on another stream: the gradients are waited for, and the context is made
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        warnings.filterwarnings("ignore", message="Attempting to run cuBLAS")
        kept = {name: buffer.clone() for name, buffer in self._network.named_buffers()}
        device = images.device
        autocast = torch.autocast(
            device.type,
            torch.get_autocast_dtype(device.type),
            enabled=torch.is_autocast_enabled(device.type),
            cache_enabled=False,  # a cast that is kept from one step to the next would not be in the graph
        )
        with torch.random.fork_rng([device]), autocast:
            self._replay = torch.cuda.make_graphed_callables(
                _Forward(self._network, self._forward),
                (torch.zeros_like(images),),
                num_warmup_iters=WARM_UP,
                allow_unused_input=True,  # the second output's layer where only the first is asked
            )
        with torch.no_grad():
            for name, buffer in self._network.named_buffers():
                buffer.copy_(kept[name])
        self._shape = images.shape


class _Forward(nn.Module):
    """``forward`` as a module with the network's parameters, which is what torch records."""

    def __init__(self, network: nn.Module, forward: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self._call = network, forward

    def forward(self, images: Tensor) -> Any:
        return self._call(images)


def check_graphs(trainer: L.Trainer, compiled: bool) -> None:
    """
    Raises:
        UserError: no GPU, several of them, or what a replayed gradient would be wrong for.
    """
    device = trainer.strategy.root_device.type
    for right, expected in (
        (device == "cuda", f"a GPU of CUDA (--trainer.accelerator gpu), got the device {device}"),
        (trainer.world_size == 1, f"one process, got {trainer.world_size}"),
        # the sum would lie in the memory that the next replay writes its gradient to
        (trainer.accumulate_grad_batches == 1, "trainer.accumulate_grad_batches 1"),
        (not compiled, "model.compile false: either of the two"),
    ):
        if not right:
            raise UserError(f"model.cuda_graphs: expected {expected}")
