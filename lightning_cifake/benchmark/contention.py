"""What a busy machine costs: training steps and answers, alone and beside other processes, under several settings.

    python -m lightning_cifake.benchmark.contention --model model.onnx --output docs/benchmark/busy

Every setting runs in a process of its own; settings and loads take turns, round by round, so that a drift of the
machine's own speed falls on all of them. The other processes compute in one thread each, as another program would.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, cast

from lightning_cifake.cpu_threads import SPIN_COUNT, ThreadGovernor
from lightning_cifake.deploy.session import SPIN_MICROSECONDS, Spin, open_session, read_facts
from lightning_cifake.files import write_whole
from lightning_cifake.machine import cores, processor
from lightning_cifake.text import code_span

SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
TRAINING: dict[str, dict[str, str]] = {
    "libgomp's own": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    f"GOMP_SPINCOUNT={SPIN_COUNT}": {"GOMP_SPINCOUNT": str(SPIN_COUNT)},
    "as fit runs": {"GOMP_SPINCOUNT": str(SPIN_COUNT), "GOVERN": "1"},
}
ANSWERS: dict[str, dict[str, str]] = {
    "onnxruntime's own": {"SPIN": "long"},
    "not spinning": {"SPIN": "none"},
    "as Detector runs": {"SPIN": "short"},
}
NETWORK = "resnet50"
BATCHES = {"one image": 1, "32 images": 32}
SETTLE = {"training": 4.0, "one image": 1.0, "32 images": 1.0}
"""Seconds before the clock runs: first steps allocate, and the governor looks once a second."""


def measure(kind: str, setting: dict[str, str], seconds: float, model: Path | None, network: str = NETWORK) -> float:
    """Images/s of one process with a setting."""
    environment = {name: value for name, value in os.environ.items() if name not in SPINNING}
    arguments = [sys.executable, "-m", __spec__.name, "--work", kind, "--seconds", str(seconds)]
    arguments += ["--network", network, *(["--model", str(model)] if model else [])]
    done = subprocess.run(
        arguments, env={**environment, **setting}, capture_output=True, text=True, check=True, timeout=600
    )
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def beside(others: int) -> Iterator[None]:
    """Other processes that compute, one thread each, while the block runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def work_training(seconds: float, name: str = NETWORK) -> float:
    """Images/s of a network's float32 step on its images, 32 px where it takes any, in batches of 32."""
    import torch

    from lightning_cifake.networks.registry import build_network
    from lightning_cifake.training.keras_adam import KerasAdam

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    network = build_network(name).train()
    size = getattr(network, "image_size", 32)
    optimizer = KerasAdam(network.parameters(), lr=1e-4)
    images, labels = torch.rand(32, 3, size, size), (torch.rand(32) > 0.5).float()
    governor = ThreadGovernor() if os.environ.get("GOVERN") else None

    def step() -> int:
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(images), labels).backward()
        optimizer.step()
        if governor is not None and governor.tick():
            torch.set_num_threads(governor.threads)
        return len(images)

    return _rate(step, SETTLE["training"], seconds)


def work_answers(seconds: float, kind: str, model: Path) -> float:
    """Images/s of an exported model, from pixels to probabilities."""
    import numpy as np

    session = open_session(model, spin=cast(Spin, os.environ["SPIN"]))
    size = read_facts(model, session).image_size
    images = np.random.default_rng(0).integers(0, 256, (BATCHES[kind], size, size, 3), np.uint8)
    return _rate(lambda: len(session.run(["prob_real"], {"images": images})[0]), SETTLE[kind], seconds)


def _rate(step: Any, settle: float, seconds: float) -> float:
    started = time.perf_counter()
    while time.perf_counter() - started < settle:
        step()
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        images += step()
    return images / (time.perf_counter() - started)


def run(rounds: int, seconds: float, loads: list[int], model: Path | None, network: str = NETWORK) -> dict[str, Any]:
    """All of it: {kind: {setting: {load: [images/s, one a round]}}}."""
    kinds = {"training": TRAINING}
    if model is not None:
        kinds |= dict.fromkeys(BATCHES, ANSWERS)
    found: dict[str, Any] = {kind: {name: {} for name in settings} for kind, settings in kinds.items()}
    for number in range(rounds):
        for load in loads:
            for kind, settings in kinds.items():
                for name, setting in settings.items():
                    with beside(load):
                        rate = measure(kind, setting, seconds, model, network)
                    found[kind][name].setdefault(str(load), []).append(rate)
                    description = f"round {number + 1}/{rounds}, beside {load}: {kind}, {name}"
                    print(f"{description}: {rate:.1f} images/s", flush=True)
    return found


def table(found: dict[str, Any], loads: list[int]) -> str:
    """Markdown: a row a setting, a column a load, medians of images/s with their spread."""
    heads = ["alone" if not load else f"beside {load} busy process{'es' if load > 1 else ''}" for load in loads]
    lines = []
    for kind, settings in found.items():
        lines += [f"| {kind}, images/s | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for name, rates in settings.items():
            cells = [
                f"{statistics.median(each):.0f} ({min(each):.0f} to {max(each):.0f})"
                for each in (rates[str(load)] for load in loads)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        f"python -m {__spec__.name}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="an exported model whose answers are timed too")
    parser.add_argument("--network", default=NETWORK, help="that trains: a short name or a class path (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="that each setting is timed in a round")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 8], help="other processes that compute")
    parser.add_argument("--output", type=Path, help="writes OUTPUT.json, with every figure, and the page OUTPUT.md")
    parser.add_argument("--work", choices=("training", *BATCHES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work == "training":
        print(work_training(options.seconds, options.network))
        return 0
    if options.work:
        print(work_answers(options.seconds, options.work, options.model))
        return 0
    started = time.monotonic()
    found = run(options.rounds, options.seconds, options.loads, options.model, options.network)
    print(f"\n{table(found, options.loads)}")
    if options.output is not None:
        record = {
            "date": date.today().isoformat(),
            "machine": {"processor": processor(), "cores": cores()},
            "rounds": options.rounds,
            "seconds": options.seconds,
            "model": options.model.name if options.model else None,
            "network": options.network,
            "images_per_second": found,
            "took_seconds": round(time.monotonic() - started),
        }
        write_whole(options.output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
        write_whole(options.output.with_suffix(".md"), page(record, options.loads))
    return 0


def page(record: dict[str, Any], loads: list[int]) -> str:
    """The record for a reader."""
    machine, name = record["machine"], record.get("network", NETWORK)
    network = "the published network" if name == NETWORK else code_span(name)
    return f"""# What a busy machine costs

{table(record["images_per_second"], loads)}
Medians of {record["rounds"]} rounds of {record["seconds"]:g} seconds, with the least and the most.
{machine["cores"]} cores of {machine["processor"]}, {record["date"]}. Training is a float32 step of {network}
at batches of 32; answers are those of {record["model"]}, from pixels to probabilities. The other processes
compute in one thread each. Settings and loads took turns; every figure is in the JSON file beside this page.
Made by `python -m lightning_cifake.benchmark.contention`.

- **As fit runs**: libgomp's threads spin {SPIN_COUNT:,} turns at most, and `fit` looks once a second. While other
  processes compute it gives a thread up, and takes it back when they have gone (`lightning_cifake/cpu_threads.py`).
- **libgomp's own** is what torch does by itself: threads spin for milliseconds, in the time that the others need.
- **As Detector runs**: onnxruntime's threads spin for {SPIN_MICROSECONDS} microseconds at most, within a call alone.
  **onnxruntime's own** is to spin for milliseconds, between calls too.
"""


if __name__ == "__main__":
    sys.exit(main())
