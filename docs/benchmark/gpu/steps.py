"""How fast a training step is on one GPU: eager, as CUDA graphs, compiled; in float32, float16 and bfloat16.

python docs/benchmark/gpu/steps.py --output docs/benchmark/gpu/steps.json

The bare step: images gathered on the device, augmentation, the network, loss, backward, the optimizer; no Lightning.
All ways of one network and batch are built first, then take turns; a figure is the median of the rounds. No data set is
needed: a step's time does not depend on what the pixels are.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lightning_cifake.data.augment import Augmentation, PublishedAugmentation
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.degrade import Degradation
from lightning_cifake.networks import CompactCNN, ResNet50Detector
from lightning_cifake.networks.costs import costs_of
from lightning_cifake.training.cuda_graphs import GraphedTraining
from lightning_cifake.training.keras_adam import KerasAdam
from lightning_cifake.training.optimizers import SGDW

ROUNDS, WARM_UP, IMAGES = 7, 12, 20_000
HALF = {"float32": None, "tf32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
NETWORKS: dict[str, Callable[[], Any]] = {
    "published": lambda: ResNet50Detector(layout="keras"),
    "compact": lambda: CompactCNN(object_classes=10),
    "compact_large": lambda: CompactCNN(64, True, 10),
    "compact_large, 2 pairs": lambda: CompactCNN(64, True, 10, 2),
}
# network, batch, ways: precision, channels last, how it is launched
EAGER, GRAPHS, COMPILED = "eager", "graphs", "compiled"
ALL_OF = [(p, False, how) for p in ("float32", "tf32", "float16", "bfloat16") for how in (EAGER, GRAPHS)]
LAST = [("float16", True, EAGER), ("float16", True, GRAPHS), ("bfloat16", True, GRAPHS)]
CASES = [
    ("published", 32, ALL_OF + LAST),
    ("published", 128, [("float32", False, GRAPHS), ("float16", True, EAGER), ("float16", True, GRAPHS)]),
    ("published", 512, [("float32", False, GRAPHS), ("float16", True, EAGER), ("float16", True, GRAPHS)]),
    ("compact", 250, [("bfloat16", True, EAGER), ("bfloat16", True, GRAPHS)]),
    ("compact_large", 250, [("bfloat16", True, EAGER), ("bfloat16", True, GRAPHS)]),
    ("compact_large, 2 pairs", 250, [("bfloat16", True, GRAPHS)]),
]
COMPILED_CASES = [
    ("compact_large, 2 pairs", 250, [("bfloat16", True, GRAPHS), ("bfloat16", True, COMPILED)]),
    ("published", 32, [("bfloat16", True, GRAPHS), ("bfloat16", True, COMPILED)]),
]


def rates() -> dict[str, float]:
    """Operations a second of a square matrix product of 8,192, bytes a second (read and written) of a copy."""
    found = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        side = 8192
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = 2 * side**3 / _median_seconds(lambda a=a, b=b: a @ b, 10)
    torch.backends.cuda.matmul.allow_tf32 = False
    one = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    other = torch.empty_like(one)
    found["copied_bytes"] = 2 * 2**30 / _median_seconds(lambda: other.copy_(one), 10)
    return found


def _median_seconds(call: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times + 2):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


class Step:
    """One way of training: ``run(n)`` takes n steps and gives the seconds they took."""

    def __init__(self, network: str, batch: int, precision: str, channels_last: bool, how: str) -> None:
        torch.manual_seed(0)
        self.tf32, self.half, self.batch = precision == "tf32", HALF[precision], batch
        self.network = NETWORKS[network]().cuda().train()
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        published = network == "published"
        self.objects = not published
        self.optimizer = (KerasAdam if published else SGDW)(self.network.parameters(), lr=1e-3)
        changes = PublishedAugmentation() if published else PublishedAugmentation(flips="horizontal", jitter=False)
        self.augment = Augmentation(changes, 0 if published else 4, 0, 0.0, Degradation(0.0))
        self.pixels = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8, device="cuda")
        self.labels = torch.randint(2, (IMAGES,), device="cuda").float()
        self.kinds = torch.randint(10, (IMAGES,), device="cuda")
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.half == torch.float16)
        forward = self.network.forward_with_objects if self.objects else self.network
        if how == GRAPHS:
            forward = GraphedTraining(self.network, forward)
        elif how == COMPILED:
            forward = torch.compile(forward, dynamic=False, mode="reduce-overhead")
        self.forward = forward
        self.run(WARM_UP)

    def step(self) -> None:
        index = torch.randint(IMAGES, (self.batch,)).pin_memory().to("cuda", non_blocking=True)
        labels = self.labels[index]
        images, labels = self.augment(to_float(self.pixels[index]), labels)
        self.optimizer.zero_grad()
        with torch.autocast("cuda", self.half or torch.bfloat16, enabled=self.half is not None):
            logits = self.forward(images)
            loss = torch.zeros((), device="cuda")
            if self.objects:
                logits, kinds = logits
                loss = 0.3 * F.cross_entropy(kinds.float(), self.kinds[index])
            loss = loss + F.binary_cross_entropy_with_logits(logits.float(), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run(self, steps: int) -> float:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        torch.cuda.synchronize()
        return time.perf_counter() - begun


def measured(network: str, batch: int, ways: list[tuple[str, bool, str]], seconds: float) -> list[dict[str, Any]]:
    """A row for each way; ``seconds`` is what a turn of each takes, about."""
    steps, rows = [], []
    for way in ways:
        begun = time.perf_counter()
        try:
            step = Step(network, batch, *way)
        except Exception as error:
            print(f"{network} {batch} {way}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        steps.append((way, step, time.perf_counter() - begun))
    if not steps:
        return rows
    many = max(4, int(seconds / (min(step.run(8) for _, step, _ in steps) / 8)))
    taken: dict[int, list[float]] = {number: [] for number in range(len(steps))}
    for _round, number in itertools.product(range(ROUNDS), range(len(steps))):
        taken[number].append(steps[number][1].run(many) / many)
    operations = 6 * (costs_of(NETWORKS[network](), 32).multiply_adds or 0)
    for number, ((precision, last, how), _step, ready) in enumerate(steps):
        found = sorted(taken[number])
        rate = batch / statistics.median(found)
        rows.append(
            {
                "network": network, "batch": batch, "precision": precision, "channels_last": last, "launched": how,
                "images_per_second": round(rate), "low": round(batch / found[-1]), "high": round(batch / found[0]),
                "operations_per_second": operations * rate, "ready_after_s": round(ready, 2),
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def graphs_against_eager() -> dict[str, float]:
    """The largest relative difference of any weight after five steps on the same batches, float32 without TF32."""
    found = {}
    for name, made, kwargs in (
        ("compact", CompactCNN, {}),
        ("published, without dropout", ResNet50Detector, {"layout": "keras", "dropout": 0.0}),
    ):
        ends = []
        for how in (EAGER, EAGER, GRAPHS):
            torch.manual_seed(0)
            network = made(**kwargs).cuda().train()
            forward = GraphedTraining(network, network) if how == GRAPHS else network
            optimizer = SGDW(network.parameters(), lr=0.01)
            generator = torch.Generator("cuda").manual_seed(1)
            for count in (32, 32, 32, 20, 32):  # one of another size between
                images = torch.rand(count, 3, 32, 32, device="cuda", generator=generator)
                labels = torch.randint(2, (count,), device="cuda", generator=generator).float()
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(forward(images), labels).backward()
                optimizer.step()
            ends.append([value.double() for value in network.state_dict().values()])

        def apart(one: Any, other: Any) -> float:
            return max(((a - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in zip(one, other, strict=True))

        found[f"{name}: eager again"] = apart(ends[1], ends[0])
        found[f"{name}: graphs"] = apart(ends[2], ends[0])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compiled", action="store_true", help="torch.compile's ways alone, beside graphs")
    parser.add_argument("--seconds", type=float, default=0.1, help="a turn of each way, about (default: %(default)s)")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: expected a GPU, torch finds none", file=sys.stderr)
        return 2
    found: dict[str, Any] = {
        "machine": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d"), "command": f"python docs/benchmark/gpu/steps.py {' '.join(sys.argv[1:])}",
        "rounds": ROUNDS, "steps": [],
    }  # fmt: skip
    if not given.compiled:
        found |= {"rates": rates(), "graphs_against_eager": graphs_against_eager()}
        print(json.dumps({name: found[name] for name in ("rates", "graphs_against_eager")}), flush=True)
    for case in COMPILED_CASES if given.compiled else CASES:
        found["steps"] += measured(*case, given.seconds)
        given.output.write_text(json.dumps(found, indent=1) + "\n")
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
