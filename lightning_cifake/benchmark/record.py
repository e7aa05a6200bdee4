"""What a benchmark found: ``benchmark.json``, the page and the picture made of it, and the tables on the screen."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_cifake.benchmark import figures, roofline
from lightning_cifake.benchmark.engines import ENGINES
from lightning_cifake.benchmark.materials import Materials
from lightning_cifake.benchmark.measure import PARITY, Bench
from lightning_cifake.benchmark.page import PICTURE, draw, inference_table, page, training_table
from lightning_cifake.deploy.manifest import environment_info
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import plain, versions
from lightning_cifake.files import sealed_json, write_whole
from lightning_cifake.networks.registry import build_network

log = logging.getLogger(__name__)

FRAMEWORKS = ("tensorflow", "keras", "torch", "lightning", "onnxruntime", "numpy")


def make_record(bench: Bench, materials: Materials, weights: str, command: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured and what follows from it: what benchmark.json holds."""
    settings = bench.settings
    raw = bench.raw
    trained = {name: figures.rates(each["train"].get("turns", [])) for name, each in raw.items()}
    answered = {name: figures.answer_rates(each["answer"], 32) for name, each in raw.items()}
    apart = figures.max_disagreement({n: p for n, p in bench.probabilities.items() if ENGINES[n].exact})
    measured = {
        name: {"training": figures.training(each["train"]), "answering": figures.inference(each["answer"])}
        for name, each in raw.items()
    }
    limits = _limits(bench, materials)
    return {
        **environment_info(),
        "versions": versions(FRAMEWORKS),
        "command": shlex.join(["python", "-m", "lightning_cifake", *command]),
        "settings": {
            **settings._asdict(),
            "train_images": materials.train_images,
            "weights": weights,
            "batch_sizes": {engine.name: settings.batch_of(engine.name) for engine in bench.engines},
        },
        "engines": {
            name: {**found, "limit": _reached(found, limits, settings.batch_of(name))}
            for name, found in measured.items()
        },
        "failed": bench.failed,
        "ratios": {"training": figures.pairwise(trained), "answering_32": figures.pairwise(answered)},
        "parity": apart
        and f"In float32 the probabilities of `{apart[0]}` and `{apart[1]}` are furthest apart, by "
        f"{apart[2]:.1g}; past {PARITY:.0e} nothing would have been compared.",
        "agreement": figures.agreement(bench.probabilities, materials.labels, materials.paths),
        "limit": limits,
        "raw": raw,
    }


def _limits(bench: Bench, materials: Materials) -> dict[str, Any]:
    """What the network's steps take at least; empty where its operations cannot be counted."""
    settings, size = bench.settings, materials.image_size
    network = build_network(materials.network).to("meta")
    try:
        roofline.work(network, size, 1, training=False)
    except UserError as error:
        log.warning("how far from the machine's limit is not known: %s", error)
        return {}
    log.info("measuring matrix products and copies")
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(settings.precision, torch.float32)
    rates = roofline.measured_rates(settings.device, half)
    steps = {}
    for batch in sorted({settings.batch_of(engine.name) for engine in bench.engines if engine.trains}):
        counted = roofline.work(network, size, batch, training=True, value_bytes=half.itemsize)
        steps[f"training, batches of {batch}"] = (counted, batch)
    for batch in figures.BATCHES:
        steps[f"answering, {batch} at once"] = (roofline.work(network, size, batch, training=False), batch)
    return {
        "operations_per_second": rates.operations,
        "bytes_per_second": rates.bytes,
        "steps": {
            name: {**counted._asdict(), "images": batch, "seconds": roofline.shortest(counted, rates)}
            for name, (counted, batch) in steps.items()
        },
    }


def _reached(measured: dict[str, Any], limits: dict[str, Any], batch: int) -> dict[str, float]:
    """What fraction of the limit's rate an engine reaches, that trains in batches of ``batch``."""
    reached: dict[str, float] = {}
    if not limits:
        return reached
    for key, rate, step in (
        ("training", measured["training"]["images_per_second"], f"training, batches of {batch}"),
        ("answering_32", measured["answering"]["images_per_second"]["32"], "answering, 32 at once"),
    ):
        if rate is not None:
            most = limits["steps"][step]
            reached[key] = rate["median"] * most["seconds"] / most["images"]
    return reached


def write_record(record: dict[str, Any], folder: Path) -> None:
    write_whole(folder / "benchmark.json", sealed_json(plain(record), indent=1))
    draw(record, folder / PICTURE)
    write_whole(folder / "README.md", page(record))


def print_record(record: dict[str, Any], folder: Path) -> None:
    tables = {"training": training_table(record), "inference": inference_table(record)}
    for title, text in tables.items():
        if text.count("\n") > 1:
            print(f"\n{title}\n\n{text}")
    print()
    if record["parity"]:
        print(record["parity"].replace("`", ""))
    for name, why in record["failed"].items():
        print(f"not measured: {name}, {why}")
    print(f"{record['seconds']:.0f} s; written to {folder}: README.md, benchmark.json, {PICTURE}")
