"""The command ``predict``: rows about images as they are known, from an exported model or a checkpoint."""

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_cifake import shipped
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.commands.tracking import tracked
from lightning_cifake.console import exact_names, say
from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.data.image_names import count_by_suffix
from lightning_cifake.deploy.answers import CSV_HEADER, OUTPUT_SUFFIXES, Prediction, writing_answers
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.inputs import STDIN, find_images, read_paths
from lightning_cifake.deploy.larger import TILES, Larger
from lightning_cifake.deploy.load import Encoded, Image, Loaded
from lightning_cifake.deploy.stream import check_options, stream
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.hub import SAFETENSORS
from lightning_cifake.machine import cores
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake predict photo.jpg folder/ 'more/*.png'                       the released model
  python -m lightning_cifake predict --model model.onnx folder/
  find . -name '*.jpg' | python -m lightning_cifake predict --model model.onnx --paths_from - --json
  cat photo.jpg | python -m lightning_cifake predict --model model.onnx -
  python -m lightning_cifake predict --model hf://owner/name@v1 folder/          of the Hugging Face Hub (extra hub)
  python -m lightning_cifake predict --ckpt_path checkpoints/clean/1/best.ckpt folder/ --output answers.csv
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Asks a model whether images are AI-generated. Prints one line an image: path, AI or REAL, the probability of\n"
        "REAL, and a warning where the image is unlike those of training, separated by tabs. An image that cannot be\n"
        "read is a line with its error, and the exit code is 1.",
        f"{EXAMPLES}\n{shipped.models_help()}",
    )
    parser.add_config()
    images = parser.add_argument_group("the images")
    images.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders (searched through), globs in quotes; - one image on standard input",
    )
    images.add_argument("--paths_from", metavar="FILE", help="reads the paths from FILE, one a line; - standard input")
    group = parser.add_argument_group("the model, one of")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        type=str,  # a Path would make best of ./best
        metavar="NAME|FILE",
        help="a model that comes with the package, or a file that export wrote (one of such a name is ./NAME): needs "
        f"no torch, starts in a second; or hf://OWNER/NAME[@REVISION] of the Hugging Face Hub (default: "
        f"{shipped.DEFAULT})",
    )
    source.add_argument("--ckpt_path", type=Path, metavar="FILE", help="a checkpoint of fit, or a Keras file")
    group = parser.add_argument_group("the answers")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="prints one JSON object a line")
    form.add_argument("--csv", action="store_true", help="prints CSV with a header")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help=f"also writes the rows to FILE: {', '.join(OUTPUT_SUFFIXES)}"
    )
    group.add_argument(
        "--csv_safe",
        action="store_true",
        help="CSV for spreadsheets: a cell that begins with = + - @, a tab or a line's end gets a ' in front, so that "
        "none is taken for a formula (default: names exactly as they are, for programs)",
    )
    group.add_argument(
        "--uncertain", type=float, nargs=2, metavar=("LOW", "HIGH"), help="says UNCERTAIN from LOW to HIGH of P(REAL)"
    )
    group.add_argument(
        "--larger",
        type=Larger,
        default="resize",
        help="what is done with a picture larger than the model looks at: resize scales it to the model's size, crop "
        f"takes the middle square of that size, tiles takes up to {TILES} such squares, whose mean logit decides "
        "(default: %(default)s)",
    )
    group = parser.add_argument_group("speed")
    group.add_argument("--batch_size", type=int, default=32, metavar="N", help="images at once (default: %(default)s)")
    group.add_argument("--threads", type=int, metavar="N", help="that decode and compute (default: all cores)")


def run(options: Any) -> int:
    """Prints the rows; 0, or 1 when an image could not be read.

    Raises:
        UserError: the arguments, the model or the paths.
    """
    _check(options)
    passed_over: Counter[str] = Counter()
    images, total = _images(options, passed_over)
    model = _model(options, total)
    answers = stream(model, images, options.uncertain, options.batch_size, options.threads or cores(), options.larger)
    failed = False
    with exact_names(), writing_answers(options.output, options.csv_safe) as write:
        row = _row(options)
        if options.csv:
            print(CSV_HEADER)
        for answer in tracked(answers, total):
            print(row(answer), flush=True)
            write(answer)
            failed |= answer.error is not None
    if passed_over:
        files = "file" if passed_over.total() == 1 else "files"
        say(
            f"passed over {passed_over.total():,} {files} in folders, not named like images that are read here: "
            f"{count_by_suffix(passed_over)}"
        )
    if options.output is not None:
        say(f"written to {printable(options.output)}")
    return 1 if failed else 0


def _row(options: Any) -> Callable[[Prediction], str]:
    if options.json:
        return Prediction.json
    if not options.csv:
        return Prediction.line
    # CSV is exact, for programs; on a terminal somebody reads it
    shown = printable if sys.stdout.isatty() else str
    return lambda answer: shown(answer.csv(options.csv_safe))


def _check(options: Any) -> None:
    if not options.paths and options.paths_from is None:
        raise UserError("expected a PATH, or --paths_from (predict --help lists the arguments)")
    if options.model is not None and options.ckpt_path is not None:  # a configuration may name the other one
        raise UserError("expected --model or --ckpt_path, got both")
    if options.output is not None and options.output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UserError(
            f"--output: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {printable(options.output)}"
        )
    options.uncertain = check_options(options.uncertain, options.batch_size, options.threads, "--")
    for name in ("output", "ckpt_path"):
        if (path := options[name]) is not None:
            options[name] = expand_user(path)


def _images(options: Any, passed_over: Counter[str]) -> tuple[Iterator[Image], int | None]:
    """The images, and how many where that is known before they are read; mistakes come out here, before any row."""
    patterns = [str(expand_user(path)) for path in options.paths if path != STDIN]
    if STDIN in options.paths and options.paths_from == STDIN:
        raise UserError("standard input is one image (-) or a list of paths (--paths_from -), not both")
    parts: list[Iterable[Image]] = [find_images(patterns, passed_over)]
    listed = [] if options.paths_from is None else [read_paths(options.paths_from)]
    # the images of folders and lists are not counted: that would read them twice
    total = len(options.paths) if all(map(os.path.isfile, patterns)) and not listed else None
    if STDIN in options.paths:
        parts.append(_of_stdin())
    return itertools.chain(*parts, *listed), total


def _of_stdin() -> Iterator[Image]:
    content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        yield Loaded(STDIN, None, f"more than {MAX_FILE_BYTES:,} bytes")
    else:
        yield Encoded(STDIN, content)


def _model(options: Any, total: int | None) -> Any:
    checkpoint = options.ckpt_path
    if checkpoint is None:
        if options.model is None:
            which = f"{shipped.DEFAULT}, the released {shipped.released_model().name}"
            say(f"model: {which} (name another with --model, or a checkpoint with --ckpt_path)")
        model = shipped.model_file(options.model)
        if model.suffix != SAFETENSORS:
            # of many images each thread asks about its own: that takes less time than all of them for one at a time
            return Detector(model, options.threads if total == 1 else 1)
        checkpoint = model  # weights alone, as the Hub has them
    import_training_side("predict --ckpt_path" if options.ckpt_path else "predict --model of a checkpoint")
    import torch

    from lightning_cifake.deploy.predict import checkpoint_model

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return checkpoint_model(checkpoint)
