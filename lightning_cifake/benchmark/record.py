"""What a benchmark found: ``benchmark.json``, the page and the picture made of it, and the tables on the screen."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_cifake.benchmark import figures, roofline
from lightning_cifake.benchmark.engines import ENGINES, Engine
from lightning_cifake.benchmark.materials import Materials
from lightning_cifake.benchmark.measure import PARITY, Bench, Settings
from lightning_cifake.benchmark.page import PICTURE, comparison_text, draw, inference_table, page, training_table
from lightning_cifake.benchmark.processors import folder_name, machine_info
from lightning_cifake.benchmark.side_by_side import PAGE, RECORD, groups, overview, picture_of, read_records
from lightning_cifake.benchmark.side_by_side_picture import draw_ratios
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
    apart = figures.max_disagreement(bench.exact)
    measured = {
        name: {"training": figures.training(each["train"]), "answering": figures.inference(each["answer"])}
        for name, each in raw.items()
    }
    limits = _limits(bench, materials)
    environment = environment_info()
    return {
        **environment,
        "machine": {**environment["machine"], **machine_info(settings.device)},
        "versions": versions(FRAMEWORKS),
        "command": shlex.join(["python", "-m", "lightning_cifake", *command]),
        "settings": {
            **settings._asdict(),
            "train_images": materials.train_images,
            "weights": weights,
            "batch_sizes": {engine.name: settings.batch_of(engine) for engine in bench.engines},
        },
        "engines": {
            name: {**found, "limit": _reached(found, limits, ENGINES[name], settings)}
            for name, found in measured.items()
        },
        "failed": bench.failed,
        "ratios": {"training": figures.pairwise(trained), "answering_32": figures.pairwise(answered)},
        "parity": apart
        and f"In float32 the probabilities of `{apart[0]}` and `{apart[1]}` are furthest apart, by "
        f"{apart[2]:.1g}; past {PARITY:.0e} nothing would have been compared.",
        "half_differences": bench.half_differences,
        "agreement": figures.agreement(bench.probabilities, materials.labels, materials.paths),
        "limit": limits,
        "raw": raw,
    }


def _limits(bench: Bench, materials: Materials) -> dict[str, Any]:
    """What the network's steps take at least, at the rates of the precision that each is computed in; empty where its
    operations cannot be counted."""
    settings, size = bench.settings, materials.image_size
    network = build_network(materials.network).to("meta")
    try:
        roofline.work(network, size, 1, training=False)
    except UserError as error:
        log.warning("how far from the machine's limit is not known: %s", error)
        return {}
    steps = {}  # name -> batch, is it training, precision
    for batch in sorted({settings.batch_of(engine) for engine in bench.engines if engine.trains}):
        steps[_training_step(batch)] = (batch, True, settings.precision)
    for precision in dict.fromkeys(_answers_in(engine, settings) for engine in bench.engines if engine.answers):
        for batch in figures.BATCHES:
            steps[_answering_step(batch, precision, settings)] = (batch, False, precision)
    log.info("measuring matrix products and copies")
    rates = {
        precision: roofline.measured_rates(settings.device, roofline.HALVES.get(precision, torch.float32))
        for precision in dict.fromkeys(precision for _, _, precision in steps.values())
    }
    found = {}
    for name, (batch, training, precision) in steps.items():
        value_bytes = roofline.HALVES.get(precision, torch.float32).itemsize
        counted = roofline.work(network, size, batch, training, value_bytes)
        seconds = roofline.shortest(counted, rates[precision])
        found[name] = {**counted._asdict(), "images": batch, "seconds": seconds}
    return {
        "operations_per_second": {precision: each.operations for precision, each in rates.items()},
        "bytes_per_second": next(iter(rates.values())).bytes,
        "steps": found,
    }


def _answers_in(engine: Engine, settings: Settings) -> str:
    """int8 is held against float32's rate."""
    precision = engine.answers_in(settings.precision)
    return "32-true" if precision == "int8" else precision


def _training_step(batch: int) -> str:
    return f"training, batches of {batch}"


def _answering_step(batch: int, precision: str, settings: Settings) -> str:
    return f"answering, {batch} at once" + ("" if precision == settings.precision else f", {precision}")


def _reached(measured: dict[str, Any], limits: dict[str, Any], engine: Engine, settings: Settings) -> dict[str, float]:
    """What fraction of the limit's rate an engine reaches."""
    reached: dict[str, float] = {}
    if not limits:
        return reached
    for key, rate, step in (
        ("training", measured["training"]["images_per_second"], _training_step(settings.batch_of(engine))),
        (
            "answering_32",
            measured["answering"]["images_per_second"]["32"],
            _answering_step(32, _answers_in(engine, settings), settings),
        ),
    ):
        if rate is not None:
            most = limits["steps"][step]
            reached[key] = rate["median"] * most["seconds"] / most["images"]
    return reached


def write_record(record: dict[str, Any], folder: Path) -> None:
    write_whole(folder / RECORD, sealed_json(plain(record), indent=1))
    draw(record, folder / PICTURE)
    write_whole(folder / PAGE, page(record))


def add_record(record: dict[str, Any], records: Path) -> Path:
    """Writes a record into its own folder among others', in place of an earlier one of the same machine and precision,
    and the page that holds them all side by side; the folder."""
    folder = records / folder_name(record)
    write_record(record, folder)
    write_overview(records)
    return folder


def write_overview(records: Path) -> None:
    """The page of a folder's records, and its pictures."""
    every = read_records(records)
    for heading, group in groups(every).items():
        draw_ratios(heading, group, records / picture_of(heading))
    write_whole(records / PAGE, overview(every))


def print_record(record: dict[str, Any], folder: Path) -> None:
    tables = {
        "training": training_table(record),
        "inference": inference_table(record),
        "what is compared with what": comparison_text(record),
    }
    for title, text in tables.items():
        if text.count("\n") > 1:
            print(f"\n{title}\n\n{text}")
    print()
    if record["parity"]:
        print(record["parity"].replace("`", ""))
    for name, why in record["failed"].items():
        print(f"not measured: {name}, {why}")
    print(f"{record['seconds']:.0f} s; written to {folder}: {PAGE}, {RECORD}, {PICTURE}")
