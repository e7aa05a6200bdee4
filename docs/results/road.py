"""Measures what is around a network: starting, the loop about a training step, a validation, answers about many files.

    python docs/results/road.py --data.root CIFAKE.zip --output docs/benchmark/road.json

On a machine with nothing else to do; `--only` takes parts of it. Beside each time on the clock stands the processor's,
which another process changes less. A *bare* loop is what nobody can leave out: the network, its loss, the gradients and
the optimizer, over batches that lie ready.
"""

import argparse
import copy
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import numpy as np
import torch
from PIL import Image
from recording import recorded

from lightning_cifake.commands.main import COMMANDS
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.freed_memory import keep_freed_memory
from lightning_cifake.training.callbacks import ComputeThreads, default_callbacks
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.keras_adam import KerasAdam
from lightning_cifake.training.lean_trainer import make_lean

ROUNDS = 5
BLOCK = 40  # steps of the whole loop, then as many bare ones
NETWORKS, BATCHES = ("custom_cnn", "meso4"), (32, 128, 250)
ERRORS = ("fit --bogus 3", "fit --trainer.max_epochs 0", "fit --data.root nowhere", "predict nowhere.jpg", "explain -x")
PROGRAM = [sys.executable, "-m", "lightning_cifake"]


class FirstStep(L.Callback):
    """Ends the process at once behind the first step."""

    def on_train_batch_end(self, *args: Any) -> NoReturn:
        os._exit(0)


class Turns(L.Callback):
    """Times blocks of the Trainer's steps, and behind each as many bare ones of a copy of its network."""

    __module__ = "lightning_cifake.road"  # as this project's own: it looks at no step's loss

    def __init__(self) -> None:
        self.whole: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self._began = (0.0, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._network = copy.deepcopy(pl_module.network)
        self._optimizer = KerasAdam(self._network.parameters())
        self._begin()

    def _begin(self) -> None:
        self._began = now_of()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % BLOCK:
            return
        clock, processor = (now - then for now, then in zip(now_of(), self._began, strict=True))
        with torch.enable_grad():
            bare = timed(lambda: bare_steps(self._network, self._optimizer, batch.images, batch.labels))
        if batch_idx >= BLOCK:  # the first block is not counted
            self.whole.append((clock, processor))
            self.bare.append(bare)
        self._begin()


class Clock(L.Callback):
    """Seconds of the last validation, its figures included."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._began = now_of()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.seconds, self.processor = (now - then for now, then in zip(now_of(), self._began, strict=True))


def now_of() -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def ran(command: list[str], folder: str, until_line: bool = False, **environment: str) -> dict[str, float]:
    """Seconds of a process, or until its first line; of the clock, and of the processor where it came to its end."""
    before, started = os.times(), time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline() if until_line else process.stdout.read()
        clock = time.perf_counter() - started
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": clock, "processor": used}


def rounds(run: Callable[[], dict[str, float]], count: int) -> dict[str, Any]:
    """Medians, the lowest and the highest, behind a round that is not counted."""
    run()
    found = [run() for _ in range(count)]
    return {name: of([each[name] for each in found]) for name in found[0]}


def of(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def starts(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(Path(folder, "a.png"))
    helps = {name: rounds(lambda name=name: ran([*PROGRAM, name, "--help"], folder), given.rounds) for name in COMMANDS}
    overview = rounds(lambda: ran([*PROGRAM, "--help"], folder), given.rounds)
    errors = {each: rounds(lambda each=each: ran([*PROGRAM, *each.split()], folder), given.rounds) for each in ERRORS}
    return {
        "help": {"": overview, **helps},
        "error": errors,
        "first_answer": rounds(lambda: ran([*PROGRAM, "predict", "a.png"], folder, True), given.rounds),
        "first_step": first_steps(given, folder),
    }


def first_steps(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Of ``fit --config demo``: the very first time, when its images are made too, and later."""

    def step() -> dict[str, float]:
        callback = ["--trainer.callbacks", "road.FirstStep"]
        place = {"LIGHTNING_CIFAKE_CACHE": f"{folder}/cache", "PYTHONPATH": str(Path(__file__).parent)}
        return ran([*PROGRAM, "fit", "--config", "demo", *callback], folder, **place)

    return {"made": step(), "later": rounds(step, given.rounds)}


def whole_loop(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        name: {str(size): steps(name, size, given.rounds, f"{folder}/cache") for size in BATCHES} for name in NETWORKS
    }


def steps(name: str, batch_size: int, count: int, cache: str) -> dict[str, Any]:
    """Lightning's whole step against a bare one, in turns of :data:`BLOCK` steps; medians over the turns."""
    data = made_data(batch_size, BLOCK * (count + 1), cache)
    model = FakeImageClassifier(network=name)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision="32-true",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[*default_callbacks(folder), turns],
        )
        make_lean(trainer)
        trainer.fit(model, data)
    return {
        "images_per_second": of([BLOCK * batch_size / clock for clock, _ in turns.whole]),
        "over_bare": of([whole[0] / bare[0] for whole, bare in zip(turns.whole, turns.bare, strict=True)]),
        "over_bare_by_processor": of([whole[1] / bare[1] for whole, bare in zip(turns.whole, turns.bare, strict=True)]),
    }


def made_data(batch_size: int, batches: int, cache: str) -> Any:
    """The demo's images, as often as so many batches need; validated on 10,000 of them."""
    data = CIFAKEDataModule(root="demo", batch_size=batch_size, cache_dir=cache)
    data.prepare_data()
    data.setup()
    assert data.split is not None
    train, val = np.resize(data.split.train, batches * batch_size), np.resize(data.split.val, 10_000)
    data.split = dataclasses.replace(data.split, train=train, val=val)
    data.setup = data.prepare_data = lambda *_, **__: None  # type: ignore[method-assign]
    return data


def timed(run: Callable[[], object]) -> tuple[float, float]:
    clock, processor = now_of()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def bare_steps(network: Any, optimizer: Any, images: Any, labels: Any) -> None:
    for _ in range(BLOCK):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(images), labels).backward()
        optimizer.step()


def validation(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """A validation over 10,000 images against its forward passes, over batches that lie ready."""
    return {name: passes(name, given.rounds, f"{folder}/cache") for name in NETWORKS}


def passes(name: str, count: int, cache: str) -> dict[str, Any]:
    data = made_data(32, 2, cache)
    model = FakeImageClassifier(network=name).eval()
    trainer = L.Trainer(
        accelerator="cpu",
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ComputeThreads()],
    )
    make_lean(trainer)
    sizes = [len(batch) for batch in data.val_dataloader()]
    ready = {size: torch.rand(size, 3, 32, 32).contiguous(memory_format=torch.channels_last) for size in sizes}

    @torch.inference_mode()
    def forward() -> None:
        for size in sizes:
            model.network(ready[size])

    clock = Clock()
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    ratios = []
    for _ in range(count + 1):
        trainer.validate(model, datamodule=data, verbose=False)
        model.eval()
        alone = timed(forward)
        ratios.append((clock.seconds / alone[0], clock.processor / alone[1], alone[0]))
    return {
        "batches": len(sizes),
        "forward_seconds": of([each[2] for each in ratios[1:]]),
        "over_forward": of([each[0] for each in ratios[1:]]),
        "over_forward_by_processor": of([each[1] for each in ratios[1:]]),
    }


def answers(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """``predict`` of CIFAKE's 100,000 training files, and its memory when a tenth was answered, and at its end."""
    images = Path(folder, "images")
    with zipfile.ZipFile(given.root) as archive:
        names = [name for name in archive.namelist() if "/train/" in f"/{name}" and name.endswith(".jpg")]
        for name in names:
            path = images / Path(name).parent.name / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    found = []
    for _ in range(max(1, given.rounds // 2)):
        before, started = os.times(), time.perf_counter()
        command = [*PROGRAM, "predict", str(images), "--csv"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            peaks = []
            for number, _ in enumerate(process.stdout, 1):
                if number in (len(names) // 10, len(names)):
                    peaks.append(peak_of(process.pid))
            clock = time.perf_counter() - started
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        found.append({"seconds": clock, "processor": used, "mib_at_a_tenth": peaks[0], "mib_at_the_end": peaks[1]})
    return {"files": len(names), **{name: of([each[name] for each in found]) for name in found[0]}}


def peak_of(process: int) -> float:
    """MiB at most so far; of a child's ``ru_maxrss`` its parent's would be part."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


PARTS = {"start": starts, "step": whole_loop, "validation": validation, "predict": answers}


def record(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        made = {name: PARTS[name](given, folder) for name in given.only or PARTS}
    return {"rounds": given.rounds, **made}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, help="CIFAKE's zip archive, for predict")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as fit, validate and test do
    if "predict" in (given.only or PARTS) and given.root is None:
        parser.error("expected --data.root for the part predict")
    return recorded(record, given)


if __name__ == "__main__":
    sys.exit(main())
