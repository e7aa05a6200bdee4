"""The command ``predict``: rows about images as they are known, from an exported model or a checkpoint."""

import argparse
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_cifake.deploy.answers import CSV_HEADER, OUTPUT_SUFFIXES, Answer, writing_answers
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.inputs import MAX_FILE_BYTES, STDIN, Image, find_images, load, read_paths
from lightning_cifake.deploy.stream import stream
from lightning_cifake.errors import UserError
from lightning_cifake.machine import cores

EXAMPLES = """examples:
  python -m lightning_cifake predict --model model.onnx photo.jpg folder/ 'more/*.png'
  find . -name '*.jpg' | python -m lightning_cifake predict --model model.onnx --paths_from - --json
  cat photo.jpg | python -m lightning_cifake predict --model model.onnx -
  python -m lightning_cifake predict --ckpt_path checkpoints/clean/1/best.ckpt folder/ --output answers.csv
"""


def run(arguments: list[str], checkpoint_side: Any) -> int:
    """Prints the rows; 0, or 1 when an image could not be read.

    Args:
        arguments: of the command line.
        checkpoint_side: called when a checkpoint is asked; returns the training side's module, which needs torch.

    Raises:
        UserError: the arguments, the model or the paths.
    """
    options = _parse(arguments)
    uncertain = None if options.uncertain is None else tuple(options.uncertain)
    images, total = _images(options)
    model = _model(options, checkpoint_side)
    threads = options.threads or cores()
    failed = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name need not be UTF-8
    with writing_answers(options.output) as write:
        if options.csv:
            print(CSV_HEADER)
        answers = stream(model, images, uncertain, options.batch_size, threads)
        for answer in _tracked(answers, total):
            print(answer.json() if options.json else answer.csv() if options.csv else answer.line(), flush=True)
            write(answer)
            failed |= answer.error is not None
    if options.output is not None:
        print(f"written to {options.output}", file=sys.stderr)
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m lightning_cifake predict",
        description="Asks a model whether images are AI-generated. Prints one line an image: path, AI or REAL, the "
        "probability of REAL, and a warning where the image is unlike those of training, separated by tabs. An image "
        "that cannot be read is a line with its error, and the exit code is 1.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders (searched through), globs in quotes; - one image on standard input",
    )
    parser.add_argument("--paths_from", metavar="FILE", help="reads the paths from FILE, one a line; - standard input")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--model", type=Path, metavar="FILE", help="a model that export wrote: needs no torch, starts in a second"
    )
    source.add_argument(
        "--ckpt_path", type=Path, help="a checkpoint of fit (default: the newest best.ckpt under checkpoints/)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="prints one JSON object a line")
    form.add_argument("--csv", action="store_true", help="prints CSV with a header")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"also writes the rows to FILE: {', '.join(OUTPUT_SUFFIXES)}"
    )
    parser.add_argument(
        "--uncertain", type=float, nargs=2, metavar=("LOW", "HIGH"), help="says UNCERTAIN from LOW to HIGH of P(REAL)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--threads", type=int, help="that decode and compute (default: all cores)")
    options = parser.parse_args(arguments)
    if not options.paths and options.paths_from is None:
        parser.error("expected a PATH, or --paths_from")
    if options.output is not None and options.output.suffix not in OUTPUT_SUFFIXES:
        raise UserError(f"--output: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, came {options.output}")
    for name in ("batch_size", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: expected at least 1, came {value}")
    if options.uncertain is not None and not 0 <= options.uncertain[0] <= options.uncertain[1] <= 1:
        raise UserError(
            f"--uncertain: expected 0 <= LOW <= HIGH <= 1, came {options.uncertain[0]} {options.uncertain[1]}"
        )
    return options


def _images(options: argparse.Namespace) -> tuple[Iterator[Image], int | None]:
    """The images, and how many where that is known before they are read; mistakes come out here, before any row."""
    patterns = [path for path in options.paths if path != STDIN]
    total = sum(1 for _ in find_images(patterns))
    parts: list[Iterable[Image]] = [find_images(patterns)]
    if STDIN in options.paths:
        if options.paths_from == STDIN:
            raise UserError("standard input is one image (-) or a list of paths (--paths_from -), not both")
        parts.append([load(sys.stdin.buffer.read(MAX_FILE_BYTES))._replace(name=STDIN)])
        total += 1
    if options.paths_from is None:
        return itertools.chain(*parts), total
    parts.append(read_paths(options.paths_from))
    return itertools.chain(*parts), None


def _model(options: argparse.Namespace, checkpoint_side: Any) -> Any:
    if options.model is not None:
        return Detector(options.model, options.threads)
    command = checkpoint_side()
    import torch

    from lightning_cifake.deploy.predict import ClassifierModel, load_classifier

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return ClassifierModel(load_classifier(options.ckpt_path or command.newest_checkpoint()))


def _tracked(answers: Iterator[Answer], total: int | None) -> Iterator[Answer]:
    """A progress bar where the rows go elsewhere: on a terminal lines are progress enough."""
    if total == 1 or not sys.stderr.isatty() or sys.stdout.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    shown = "images" if total is None else f"{total:,} images"
    yield from track(answers, shown, total=total, console=Console(stderr=True))
