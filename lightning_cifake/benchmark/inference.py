"""How fast the same weights answer, engine by engine: python -m lightning_cifake.benchmark.inference --help

Each engine has a process of its own; they take turns, round by round (A B C A B C), with the same number of threads,
and a figure is the median over the rounds. Everything from pixels to probabilities is counted, scaling too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.manifest import here
from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole
from lightning_cifake.machine import cores

BATCHES = (1, 32, 256)
SINGLES = 20  # single images a round: p50 and p95 are over all of them


class Engine(NamedTuple):
    """``kind`` is one of worker.ENGINES; ``name`` stands in the table."""

    name: str
    kind: str
    path: Path


class Worker:
    """A process of benchmark.worker; what goes wrong in it is a UserError with its last line."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the worker is
        command = [sys.executable, "-m", "lightning_cifake.benchmark.worker"]
        self.process = subprocess.Popen(
            [*command, engine.kind, str(engine.path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words come below
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["it ended without a word"])[-1]
            raise UserError(f"{self.engine.name} cannot be measured: {last}")
        return json.loads(line)

    def end(self) -> dict[str, Any]:
        """Its peak memory; the process is over then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        reply = self._reply()
        self.process.wait()
        return reply

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()


def cold_start(engine: Engine, threads: int, image: Path) -> float:
    """Seconds from starting Python to the first answer about a file."""
    started = time.perf_counter()
    with Worker(engine, threads) as worker:
        worker.ask({"file": str(image)})
        return time.perf_counter() - started


def measure(engines: Sequence[Engine], threads: int, rounds: int, colds: int) -> dict[str, dict[str, Any]]:
    """By engine's name: the figures, and the raw times behind them.

    Raises:
        UserError: an engine cannot be started, or fails.
    """
    times: dict[str, dict[str, list[float]]] = {engine.name: {} for engine in engines}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        image = Path(folder) / "image.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
        for _ in range(colds):
            for engine in engines:
                times[engine.name].setdefault("cold", []).append(cold_start(engine, threads, image))
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(engine, threads)) for engine in engines]
        for _ in range(rounds):
            for worker in workers:
                for batch in BATCHES:
                    seconds = worker.ask({"batch": batch, "repeats": SINGLES if batch == 1 else 1})["seconds"]
                    times[worker.engine.name].setdefault(f"batch {batch}", []).extend(seconds)
        for worker in workers:
            peaks[worker.engine.name] = worker.end()["peak_mib"]
    return {name: summarise(taken, peaks[name]) for name, taken in times.items()}


def summarise(times: dict[str, list[float]], peak: float | None) -> dict[str, Any]:
    """Figures from the seconds of each repeat: ``cold`` and ``batch N``."""
    single = np.array(times["batch 1"]) * 1e3
    return {
        "cold_start_s": statistics.median(times["cold"]),
        "one_image_ms": {"p50": float(np.percentile(single, 50)), "p95": float(np.percentile(single, 95))},
        "images_per_second": {str(batch): batch / statistics.median(times[f"batch {batch}"]) for batch in BATCHES},
        "peak_mib": peak,
        "seconds": times,
    }


def table(figures: dict[str, dict[str, Any]], baseline: str) -> str:
    """Markdown; in brackets how many times the baseline's images a second."""
    lines = [
        "| engine | cold start | one image p50 / p95 | "
        + " | ".join(f"images/s at {batch}" for batch in BATCHES)
        + " | peak memory |",
        "|---|---|---|" + "---|" * len(BATCHES) + "---|",
    ]
    for name, each in figures.items():
        rates = []
        for batch, rate in each["images_per_second"].items():
            ratio = rate / figures[baseline]["images_per_second"][batch]
            rates.append(f"{rate:,.0f}" + (f" ({ratio:.1f}x)" if name != baseline else ""))
        single, peak = each["one_image_ms"], each["peak_mib"]
        lines.append(
            f"| {name} | {each['cold_start_s']:.2f} s | {single['p50']:.1f} / {single['p95']:.1f} ms | "
            + " | ".join(rates)
            + f" | {'?' if peak is None else f'{peak:,.0f} MiB'} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m lightning_cifake.benchmark.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="Lightning's: the baseline")
    parser.add_argument("--model", type=Path, action="append", default=[], help="exported from it; may be repeated")
    parser.add_argument("--keras", type=Path, help="a Keras file of the same weights (convert makes one)")
    parser.add_argument("--threads", type=int, default=cores(), help="of each engine (default: all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each engine (default: 7)")
    parser.add_argument("--colds", type=int, default=5, help="cold starts of each engine (default: 5)")
    parser.add_argument("--output", type=Path, help="writes figures and raw times as JSON")
    options = parser.parse_args(arguments)
    engines = [Engine("Lightning", "lightning", options.ckpt_path)]
    for path in options.model:
        engines.append(Engine(f"onnxruntime {Detector(path).facts.precision}", "onnxruntime", path))
    if options.keras is not None:
        engines.append(Engine("Keras predict", "keras", options.keras))
    figures = measure(engines, options.threads, options.rounds, options.colds)
    facts = here()
    print(table(figures, engines[0].name))
    machine = facts["machine"]
    print(f"\n{facts['date']}, {machine['processor']}, {options.threads} threads, {options.rounds} rounds")
    if options.output is not None:
        content = {**facts, "threads": options.threads, "rounds": options.rounds, "engines": figures}
        write_whole(options.output, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
