"""The command ``export``: a checkpoint or a Keras file -> a verified ONNX model and its manifest, or neither."""

import argparse
import math
import os
from pathlib import Path
from typing import Any, Literal

from lightning_cifake.commands.arguments import add_image_arguments, add_keras_arguments, check_image_arguments
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake export --ckpt_path checkpoints/clean/1/best.ckpt --output model.onnx
  python -m lightning_cifake export --ckpt_path best.ckpt --output small.onnx --precision int8 --data.root CIFAKE.zip
  python -m lightning_cifake export --ckpt_path model.keras --output model.onnx --temperature fit --data.root CIFAKE.zip
      then: python -m lightning_cifake predict --model model.onnx photo.jpg folder/
            python -m lightning_cifake verify model.onnx

The model takes images of any size, (N, H, W, 3) RGB, and does the resizing and scaling itself: there is nothing to get
wrong in front of it. Before it gets its name, onnxruntime's answers are held against the checkpoint's, on the run's
test images and on hard ones (one pixel, one row, huge, constant). Past the limit there is no file, the reason is
printed, and the exit code is 1. MODEL.json beside it says what was measured.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Turns a checkpoint, or a Keras file, into an ONNX model that carries its preprocessing, and proves that it\n"
        "answers as the checkpoint does.",
        EXAMPLES,
    )
    parser.add_config()
    parser.add_argument("--ckpt_path", type=Path, required=True, metavar="FILE", help="of fit, or a Keras file")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL.onnx", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replaces what is there")
    parser.add_argument(
        "--precision",
        type=Literal["float32", "float16", "int8"],
        default="float32",
        help="float16: the weights alone, half the size; int8: a quarter, and faster on CPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--input",
        type=Literal["uint8", "float32"],
        default="uint8",
        help="what the model takes: bytes as decoders give them, or values from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        metavar="T|fit",
        help="divides the logits; fit: by what makes the probabilities of the validation images truest (default: what "
        "calibrate left beside the checkpoint, with its threshold, where neither is given here; else 1)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="P(REAL) above which an image is REAL (default: as for the temperature; else 0.5)",
    )
    add_image_arguments(parser)
    add_keras_arguments(parser)


def _temperature(text: str) -> float | Literal["fit"]:
    if text == "fit":
        return "fit"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected fit, or a number above 0, got {printable(text)}")
    return value


def run(options: Any) -> int:
    """Exports as the command line says; 0, or 1 where the export is not to be trusted.

    Raises:
        UserError: the arguments, the checkpoint or the images.
    """
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold: expected 0 to 1, got {options.threshold}")
    check_image_arguments(options)
    if options.output.suffix != ".onnx":
        raise UserError(f"--output: expected a name that ends in .onnx, got {printable(options.output)}")
    import_training_side("export")
    from lightning_cifake.deploy.loaded_model import load_model
    from lightning_cifake.deploy.manifest import manifest_path
    from lightning_cifake.deploy.verification import print_summary
    from lightning_cifake.deploy.verified_export import Settings, export_model

    for path in (options.output, manifest_path(options.output)):
        if os.path.lexists(path) and not options.overwrite:
            raise UserError(f"{printable(path)} exists already: give --overwrite to replace it, or another name")
    loaded = load_model(options.ckpt_path, options.head, options.image_size, options.pixels, options.real_class)
    settings = Settings(
        options.precision,
        options.input,
        options.temperature,
        options.threshold,
        options.max_loss,
        options.sample,
    )
    written = export_model(loaded, options.data.root, options.output, settings, options.data.classes)
    print_summary(written)
    if written["violations"]:
        print(f"{printable(options.output)} is not written: {'; '.join(written['violations'])}")
        return 1
    described = printable(manifest_path(options.output))
    print(f"written: {printable(options.output)} ({written['model']['bytes']:,} bytes), {described}")
    return 0
