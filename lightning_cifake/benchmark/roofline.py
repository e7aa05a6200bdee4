"""What the machine allows: the network's counted operations and bytes over measured rates (a roofline).

Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009: no step is shorter than its operations at the rate of a
large matrix product, nor than its bytes at the rate of a large copy.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_cifake.errors import UserError
from lightning_cifake.networks.contract import name_of
from lightning_cifake.text import reason_of

SIDE = 2048  # of the square matrices that are multiplied
PROBE_SIDE = 256  # a glance, of a few milliseconds
COPIED = 2**28  # bytes that are copied; no cache holds them
REPEATS = 9
HALVES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
"""Lightning's names of half precision -> what matrix products are computed in."""


class Work(NamedTuple):
    """Operations (a multiplication and an addition are two) and bytes of a step."""

    operations: float
    bytes: float


class Rates(NamedTuple):
    """Operations and bytes (read and written) a second."""

    operations: float
    bytes: float


def work(network: nn.Module, image_size: int, batch: int, training: bool, value_bytes: int = 4) -> Work:
    """Counted on torch's meta device, where the network lies: nothing is computed, each layer is what its formula says.

    Bytes are the least there can be. Inference: each weight is read and each layer's output written and read.
    Training: the weights are read twice and their gradients written; Adam reads weights, gradients and two moments and
    writes three; each output is written and read, read again backward, and its gradient written and read.

    Raises:
        UserError: the network does not work without values: it looks at them, or makes tensors of its own.
    """
    network.train(training)
    images = torch.empty(batch, 3, image_size, image_size, device="meta")
    outputs = 0

    def count(module: Any, given: Any, output: Tensor) -> None:
        nonlocal outputs
        outputs += output.numel() if isinstance(output, Tensor) else 0

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with FlopCounterMode(display=False) as counter:
            logits = network(images)
            if training:
                logits.sum().backward()
    except Exception as error:  # of a network of the user's own: whatever it meets there
        raise UserError(
            f"{name_of(network)} cannot be counted on torch's meta device ({type(error).__name__}: {reason_of(error)})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    weights = sum(parameter.numel() for parameter in network.parameters())
    # Adam's three and the weights stay float32 under mixed precision
    held = 4 * 7 * weights + 3 * value_bytes * weights if training else value_bytes * weights
    return Work(float(counter.get_total_flops()), float(held + (5 if training else 2) * value_bytes * outputs))


def measured_rates(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Rates:
    """Medians of repeats on this machine, with torch's threads as they are set."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copy = _median_seconds(lambda: target.copy_(source), device)
    return Rates(_products_rate(device, dtype, SIDE), 2 * COPIED / copy)


def check_precision(precision: str, device: str = "cpu") -> None:
    """Without instructions for it, half precision is emulated: a step takes minutes, and the benchmark never ends.

    Raises:
        UserError: products in it have less than a quarter of float32's rate.
    """
    half = HALVES.get(precision)
    if half is None:
        return
    slow, full = (_products_rate(device, dtype, PROBE_SIDE) for dtype in (half, torch.float32))
    if slow < full / 4:
        raise UserError(
            f"--precision {precision}: expected a processor that computes in it, got one that makes "
            f"{slow / 1e9:,.1f} GFLOP/s in it and {full / 1e9:,.1f} in float32; 32-true is faster here"
        )


def _products_rate(device: str, dtype: torch.dtype, side: int) -> float:
    left, right = (torch.rand(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2 * side**3 / _median_seconds(lambda: torch.mm(left, right), device)


def _median_seconds(function: Callable[[], Any], device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    function()
    taken = []
    for _ in range(REPEATS):
        wait()
        started = time.perf_counter()
        function()
        wait()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def shortest(step: Work, rates: Rates) -> float:
    """Seconds: whichever of the two takes longer; they may overlap."""
    return max(step.operations / rates.operations, step.bytes / rates.bytes)
