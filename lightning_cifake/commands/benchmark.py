"""The command ``benchmark``: the engines side by side, on this machine, with the same weights."""

import argparse
import logging
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_cifake.benchmark import figures, roofline
from lightning_cifake.benchmark.engines import ENGINES, Engine
from lightning_cifake.benchmark.materials import Materials, prepare
from lightning_cifake.benchmark.measure import PARITY, Bench, Settings
from lightning_cifake.benchmark.page import PICTURE, answering_table, draw, page, training_table
from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.deploy.manifest import environment_info
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import plain, versions
from lightning_cifake.files import sealed_json, temporary_folder, write_whole
from lightning_cifake.machine import cores
from lightning_cifake.text import printable
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import save_checkpoint

log = logging.getLogger(__name__)

SMALLEST_EPOCH = 256  # images; the published cut of fewer has no validation part
FRAMEWORKS = ("tensorflow", "keras", "torch", "lightning", "onnxruntime", "numpy")
EXAMPLES = """examples:
  python -m lightning_cifake benchmark --quick                      a first look, about three minutes
  python -m lightning_cifake benchmark --ckpt_path checkpoints/clean/1/best.ckpt --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake benchmark --engines torch,lightning --batch-size 64
  python -m lightning_cifake benchmark --device cuda --precision 16-mixed

engines:
{engines}

Every engine works in a process of its own, with the same number of threads, and they take turns round by round. First
all answer about the same images: where two that compute in float32 differ by more than {parity:.0e}, there is nothing
to compare, and the exit code is 2. An engine that is not installed or fails is reported, the others are measured.
"""


def run(arguments: Sequence[str]) -> int:
    """Measures, prints the tables, writes README.md, benchmark.json and benchmark.png into a folder.

    Raises:
        UserError: the arguments, the weights or the images; two engines that do not answer alike; no engine left.
    """
    options = _parse(arguments)
    engines = _engines(options.engines)
    settings = _settings(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine")
    torch.set_num_threads(settings.threads)
    started = time.monotonic()
    # what a killed benchmark left in the folder of temporaries, gigabytes with large images, goes at the next one
    with temporary_folder(Path(tempfile.gettempdir()), "lightning_cifake-benchmark") as scratch:
        checkpoint, weights = _weights(options.ckpt_path, scratch)
        answering = [engine for engine in engines if engine.answers and options.task != "train"]
        needed = {engine.model: getattr(options, engine.model) for engine in answering if engine.model != "ckpt"}
        materials = prepare(
            checkpoint, options.root, needed, (options.train_images, options.images), scratch, options.classes
        )
        bench = Bench(engines, materials, settings)
        if options.task in ("all", "answer"):
            bench.answers()
        if options.task in ("all", "train"):
            bench.training()
    record = make_record(bench, materials, weights, ["benchmark", *arguments])
    if not any(
        each["training"]["images_per_second"] or each["answering"]["one_image_ms"]
        for each in record["engines"].values()
    ):
        raise UserError("no engine could be measured: " + "; ".join(f"{n}: {why}" for n, why in bench.failed.items()))
    record["seconds"] = time.monotonic() - started
    _write(record, options.output)
    _print(record, options.output)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {engine.name:<18}{engine.about}" for engine in ENGINES.values())
    parser = argparse.ArgumentParser(
        "python -m lightning_cifake benchmark",
        description="The same system in TensorFlow, bare torch, Lightning and onnxruntime, side by side on this "
        "machine: start, first epoch, training and answering rates, latency, memory, accuracy, and how far from the "
        "machine's limit. Writes a page, a picture and JSON.",
        epilog=EXAMPLES.format(engines=listed, parity=PARITY),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt_path", type=Path, help="the weights (default: the newest best.ckpt, else random ones)")
    parser.add_argument(
        "--data.root", dest="root", help="the images, as in fit (default: the checkpoint's own, else the demo's)"
    )
    parser.add_argument(
        "--data.classes", dest="classes", metavar="fake=A,real=B", help="their class folders, as in fit"
    )
    parser.add_argument("--engines", metavar="A,B", help="which (default: all; quick: all but the tuned ones)")
    parser.add_argument("--task", choices=("all", "train", "answer"), default="all", help="what (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer starts, rounds and engines: a first look")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--precision",
        choices=("32-true", "16-mixed", "bf16-mixed"),
        default="32-true",
        help="of training, in every framework (default: 32-true)",
    )
    parser.add_argument("--batch-size", type=_positive, default=32, help="of training (default: 32, as published)")
    parser.add_argument(
        "--tuned-batch-size", type=_positive, default=128, help="of the engines that are tuned (default: 128)"
    )
    parser.add_argument("--threads", type=_positive, default=cores(), help="of every engine (default: all cores)")
    parser.add_argument("--rounds", type=_positive, help="turns of each engine (default: 7, quick 3)")
    parser.add_argument("--starts", type=_positive, help="processes that are started anew (default: 5, quick 1)")
    parser.add_argument("--train-images", type=_positive, help="JPEG files of an epoch (default: 1,280, quick 256)")
    parser.add_argument("--images", type=_positive, help="to answer about (default: 2,000, quick 200)")
    parser.add_argument("--xla", action="store_true", help="tf-tuned compiles with XLA (on CPUs it was slower)")
    parser.add_argument("--keras", type=Path, metavar="FILE", help="a Keras file of the same weights (default: made)")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="exported in float32 (default: made)")
    parser.add_argument("--int8", type=Path, metavar="FILE", help="exported in int8 (default: made)")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="a folder (default: benchmark)")
    options = parser.parse_args(arguments)
    first_look = [name for name in ENGINES if not name.endswith("-tuned")]
    usual: dict[str, Any] = {"rounds": 7, "starts": 5, "train_images": 1280, "images": 2000, "engines": list(ENGINES)}
    if options.quick:
        usual = {"rounds": 3, "starts": 1, "train_images": 256, "images": 200, "engines": first_look}
    usual["engines"] = ",".join(usual["engines"])
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for size in (options.batch_size, options.tuned_batch_size):
        # the first step of an epoch is not counted, and one image cannot be trained on
        least = max(2 * size, SMALLEST_EPOCH)
        if size < 2 or options.train_images < least or options.train_images % size:
            raise UserError(
                f"--train-images: expected a multiple of both batch sizes, {least} at least, got "
                f"{options.train_images} with batches of {options.batch_size} and {options.tuned_batch_size}"
            )
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _engines(names: str) -> list[Engine]:
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in ENGINES]
    if unknown or not asked:
        raise UserError(
            f"--engines: expected some of {', '.join(ENGINES)}, got {printable(', '.join(unknown)) or 'none'}"
        )
    return [ENGINES[name] for name in dict.fromkeys(asked)]


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        threads=options.threads,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        tuned_batch_size=options.tuned_batch_size,
        rounds=options.rounds,
        starts=options.starts,
        turn_images=128 if options.quick else 384,
        xla=options.xla,
    )


def _weights(checkpoint: Path | None, scratch: Path) -> tuple[Path, str]:
    """The checkpoint, and how the page calls it."""
    if checkpoint is None:
        from lightning_cifake.commands.lightning_cli import newest_checkpoint

        try:
            checkpoint = newest_checkpoint()
        except UserError:
            log.warning("no checkpoint given or found: random weights, whose accuracy means nothing")
            torch.manual_seed(0)
            save_checkpoint(FakeImageClassifier(), scratch / "random.ckpt", None, 0)
            return scratch / "random.ckpt", "random weights"
    read_checkpoint(checkpoint)  # what is wrong with it is said before anything is made of it
    return checkpoint, checkpoint.name


def make_record(bench: Bench, materials: Materials, weights: str, command: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured and what follows from it: what benchmark.json holds."""
    settings = bench.settings
    raw = bench.raw
    trained = {name: figures.rates(each["train"].get("turns", [])) for name, each in raw.items()}
    answered = {name: figures.answer_rates(each["answer"], 32) for name, each in raw.items()}
    apart = figures.max_disagreement({n: p for n, p in bench.probabilities.items() if ENGINES[n].exact})
    measured = {
        name: {"training": figures.training(each["train"]), "answering": figures.answering(each["answer"])}
        for name, each in raw.items()
    }
    limits = _limits(bench)
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


def _limits(bench: Bench) -> dict[str, Any]:
    settings = bench.settings
    log.info("measuring matrix products and copies")
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(settings.precision, torch.float32)
    rates = roofline.measured_rates(settings.device, half)
    steps = {}
    for batch in sorted({settings.batch_of(engine.name) for engine in bench.engines if engine.trains}):
        counted = roofline.work(32, batch, training=True, value_bytes=half.itemsize)
        steps[f"training, batches of {batch}"] = (counted, batch)
    for batch in figures.BATCHES:
        steps[f"answering, {batch} at once"] = (roofline.work(32, batch, training=False), batch)
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
    reached = {}
    for key, rate, step in (
        ("training", measured["training"]["images_per_second"], f"training, batches of {batch}"),
        ("answering_32", measured["answering"]["images_per_second"]["32"], "answering, 32 at once"),
    ):
        if rate is not None:
            most = limits["steps"][step]
            reached[key] = rate["median"] * most["seconds"] / most["images"]
    return reached


def _write(record: dict[str, Any], folder: Path) -> None:
    write_whole(folder / "benchmark.json", sealed_json(plain(record), indent=1))
    draw(record, folder / PICTURE)
    write_whole(folder / "README.md", page(record))


def _print(record: dict[str, Any], folder: Path) -> None:
    tables = {"training": training_table(record), "answering": answering_table(record)}
    for title, text in tables.items():
        if text.count("\n") > 1:
            print(f"\n{title}\n\n{text}")
    print()
    if record["parity"]:
        print(record["parity"].replace("`", ""))
    for name, why in record["failed"].items():
        print(f"not measured: {name}, {why}")
    print(f"{record['seconds']:.0f} s; written to {folder}: README.md, benchmark.json, {PICTURE}")
