"""The command ``benchmark``: the engines side by side, on this machine, with the same weights."""

import logging
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_cifake.benchmark.engines import ENGINES, REFERENCE, Engine
from lightning_cifake.commands.arguments import add_data_arguments, positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.errors import UserError
from lightning_cifake.files import output_folder, temporary_folder
from lightning_cifake.machine import cores
from lightning_cifake.run_folder import newest_checkpoints
from lightning_cifake.shipped import reference_folder
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable

if TYPE_CHECKING:  # torch is not wanted for the help
    from lightning_cifake.benchmark.measure import Settings

log = logging.getLogger(__name__)

SMALLEST_EPOCH = 256  # images; the published cut of fewer has no validation part
EXAMPLES = """examples:
  python -m lightning_cifake benchmark --quick                      a first look, about three minutes
  python -m lightning_cifake benchmark --ckpt_path checkpoints/clean/1/best.ckpt --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake benchmark --engines torch,lightning --batch_size 64
  python -m lightning_cifake benchmark --device cuda --precision 16-mixed
  python -m lightning_cifake benchmark --records docs/benchmark     adds this machine's record to those of others

engines:
{engines}

Every engine works in a process of its own, with the same number of threads, and they take turns round by round. First
all answer about the same images: where two that compute in float32 differ by more than 1e-4, there is nothing
to compare, and the exit code is 2. An engine that is not installed or fails is reported, the others are measured.
"""


def add_arguments(parser: Parser) -> None:
    listed = "\n".join(f"  {engine.name:<18}{engine.about}" for engine in ENGINES.values())
    parser.teach(
        "The same system in TensorFlow, bare torch, Lightning and onnxruntime, side by side on this machine: start,\n"
        "first epoch, training and inference rates, latency, memory, accuracy, and how far from the machine's limit.\n"
        "Writes a page, a picture and JSON.",
        EXAMPLES.format(engines=listed),
    )
    parser.add_config()
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="it writes to (default: benchmark)")
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="instead: a folder with a record a machine and precision; adds this one, and makes their page again",
    )
    group = parser.add_argument_group("what is measured")
    group.add_argument("--engines", metavar="A,B", help="which (default: all; quick: all but the tuned ones)")
    group.add_argument(
        "--task", type=Literal["all", "train", "answer"], default="all", help="what (default: %(default)s)"
    )
    group.add_argument("--quick", action="store_true", help="fewer starts, rounds and engines: a first look")
    group.add_argument("--device", type=Literal["cpu", "cuda"], default="cpu", help="default: %(default)s")
    group.add_argument(
        "--precision",
        type=Literal["32-true", "16-mixed", "bf16-mixed"],
        default="32-true",
        help="of training and inference, in every framework (default: %(default)s)",
    )
    group.add_argument(
        "--batch_size", type=positive, default=32, metavar="N", help="of training (default: 32, as published)"
    )
    group.add_argument(
        "--tuned_batch_size",
        type=positive,
        default=128,
        metavar="N",
        help="of the engines that are tuned (default: %(default)s)",
    )
    group.add_argument("--threads", type=positive, metavar="N", help="of every engine (default: all cores)")
    group.add_argument("--rounds", type=positive, metavar="N", help="turns of each engine (default: 7, quick 3)")
    group.add_argument(
        "--starts", type=positive, metavar="N", help="processes that are started anew (default: 5, quick 1)"
    )
    group.add_argument("--xla", action="store_true", help="tf-tuned compiles with XLA (on CPUs it was slower)")
    group = parser.add_argument_group("the weights and the images")
    group.add_argument(
        "--ckpt_path",
        type=Path,
        metavar="FILE",
        help="the weights (default: the newest best.ckpt, if the reference can take it; else random ones)",
    )
    add_data_arguments(group, "the checkpoint's own, else the demo's")
    group.add_argument(
        "--train_images", type=positive, metavar="N", help="JPEG files of an epoch (default: 1,280, quick 256)"
    )
    group.add_argument("--images", type=positive, metavar="N", help="to answer about (default: 2,000, quick 200)")
    group.add_argument("--keras", type=Path, metavar="FILE", help="a Keras file of the same weights (default: made)")
    group.add_argument("--onnx", type=Path, metavar="FILE", help="exported in float32 (default: made)")
    group.add_argument("--int8", type=Path, metavar="FILE", help="exported in int8 (default: made)")


def run(options: Any) -> int:
    """Measures, prints the tables, writes README.md, benchmark.json and benchmark.png into a folder.

    Raises:
        UserError: the arguments, the weights or the images; two engines that do not answer alike; no engine left.
    """
    _complete(options)
    engines = _engines(options.engines)
    import_training_side("benchmark")
    import torch

    from lightning_cifake.benchmark.record import add_record, print_record, write_record
    from lightning_cifake.benchmark.roofline import check_precision
    from lightning_cifake.benchmark.side_by_side import read_records

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine")
    torch.set_num_threads(options.threads)
    check_precision(options.precision, options.device)
    # what is wrong with the folder is said before minutes are spent
    with output_folder(options.records or options.output, "--records" if options.records else "--output"):
        if options.records is not None:
            read_records(options.records)
        record = _measure(options, engines)
        if options.records is not None:
            options.output = add_record(record, options.records)
        else:
            write_record(record, options.output)
    print_record(record, options.output)
    return 0


def _measure(options: Any, engines: list[Engine]) -> dict[str, Any]:
    """The record of a run."""
    from lightning_cifake.benchmark.materials import prepare
    from lightning_cifake.benchmark.measure import Bench
    from lightning_cifake.benchmark.record import make_record

    started = time.monotonic()
    # what a killed benchmark left in the folder of temporaries, gigabytes with large images, goes at the next one
    with temporary_folder(Path(tempfile.gettempdir()), "lightning_cifake-benchmark") as scratch:
        checkpoint, weights = _weights(options.ckpt_path, engines, scratch)
        inferring = [engine for engine in engines if engine.answers and options.task != "train"]
        needed = {engine.model: options[engine.model] for engine in inferring if engine.model != "ckpt"}
        materials = prepare(
            checkpoint,
            options.data.root,
            needed,
            (options.train_images, options.images),
            scratch,
            options.data.classes,
        )
        bench = Bench(engines, materials, _settings(options))
        if options.task in ("all", "answer"):
            bench.answers()
        if options.task in ("all", "train"):
            bench.training()
    record = make_record(bench, materials, weights, options.command_line)
    if not any(
        each["training"]["images_per_second"] or each["answering"]["one_image_ms"]
        for each in record["engines"].values()
    ):
        raise UserError("no engine could be measured: " + "; ".join(f"{n}: {why}" for n, why in bench.failed.items()))
    return {**record, "seconds": time.monotonic() - started}


def _complete(options: Any) -> None:
    """Fills in what ``--quick`` decides, and checks the arguments against one another."""
    if options.output is not None and options.records is not None:
        raise UserError("expected one of --output and --records, got both")
    options.output = options.output or Path("benchmark")
    usual: dict[str, Any] = {"rounds": 7, "starts": 5, "train_images": 1280, "images": 2000, "engines": list(ENGINES)}
    if options.quick:
        usual = {"rounds": 3, "starts": 1, "train_images": 256, "images": 200}
        usual["engines"] = [name for name, engine in ENGINES.items() if engine.first_look]
    # exported models answer on the CPU and in their own precision: other runs measure them where they are named
    if options.device != "cpu" or options.precision != "32-true":
        usual["engines"] = [name for name in usual["engines"] if ENGINES[name].model not in ("onnx", "int8")]
    usual |= {"engines": ",".join(usual["engines"]), "threads": cores()}
    for name, value in usual.items():
        if options[name] is None:
            options[name] = value
    for size in (options.batch_size, options.tuned_batch_size):
        # the first step of an epoch is not counted, and one image cannot be trained on
        least = max(2 * size, SMALLEST_EPOCH)
        if size < 2 or options.train_images < least or options.train_images % size:
            raise UserError(
                f"--train_images: expected a multiple of both batch sizes, {least} at least, got "
                f"{options.train_images} with batches of {options.batch_size} and {options.tuned_batch_size}"
            )


def _engines(names: str) -> list[Engine]:
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in ENGINES]
    if unknown or not asked:
        raise UserError(
            f"--engines: expected some of {', '.join(ENGINES)}, got {printable(', '.join(unknown)) or 'none'}"
            + (did_you_mean(unknown[0], ENGINES) if unknown else "")
        )
    return [ENGINES[name] for name in dict.fromkeys(asked)]


def _settings(options: Any) -> "Settings":
    from lightning_cifake.benchmark.measure import Settings

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


def _weights(checkpoint: Path | None, engines: list[Engine], scratch: Path) -> tuple[Path, str]:
    """The checkpoint, and how the page calls it: the one that is named, else the newest, else random weights.

    Where the reference is to be measured, and is here, it is the newest that the reference can take: a first run, after
    ``make fit``, has every engine.
    """
    import torch

    from lightning_cifake.checkpoint import read_checkpoint
    from lightning_cifake.training.classifier import FakeImageClassifier
    from lightning_cifake.training.convert import save_checkpoint

    if checkpoint is None:
        checkpoint = _newest(with_reference=any(each.module == REFERENCE for each in engines))
        if checkpoint is None:
            torch.manual_seed(0)
            save_checkpoint(FakeImageClassifier(), scratch / "random.ckpt", None, 0)
            return scratch / "random.ckpt", "random weights"
    read_checkpoint(checkpoint)  # what is wrong with it is said before anything is made of it
    return checkpoint, checkpoint.name


def _newest(with_reference: bool) -> Path | None:
    """The newest checkpoint that every engine can take; None without one. One line says which, and why."""
    why = "no checkpoint given or found"
    asks = with_reference and reference_folder() and find_spec("tensorflow")
    for number, checkpoint in enumerate(newest_checkpoints()):
        objection = _objection(checkpoint) if asks else None
        if objection is None:
            shown = printable(checkpoint)
            if number:
                log.warning("%s: taking %s, the newest that it builds", why, shown)
            else:
                log.info("checkpoint: %s (the newest; name another with --ckpt_path)", shown)
            return checkpoint
        why = why if number else objection
    log.warning("%s: random weights of the published network, whose accuracy means nothing", why)
    return None


def _objection(checkpoint: Path) -> str | None:
    """Why the reference cannot take a checkpoint; None where it can."""
    from lightning_cifake.benchmark.materials import is_published
    from lightning_cifake.deploy.loaded_model import load_model

    try:
        model = load_model(checkpoint).classifier
    except UserError as error:
        return str(error)
    if is_published(model.hparams["network"], model.image_size):
        return None
    shown = printable(checkpoint)
    return f"{shown} is of a network that the reference does not build (--ckpt_path {shown} measures it)"
