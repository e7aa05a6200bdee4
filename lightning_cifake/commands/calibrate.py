"""The command ``calibrate``: probabilities made true and a threshold chosen, on validation images."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_cifake import shipped
from lightning_cifake.commands.arguments import add_labelled_arguments, asked_for, positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.text import plural, printable

if TYPE_CHECKING:
    from lightning_cifake.evaluation.thresholds import Rule

EXAMPLES = """examples:
  python -m lightning_cifake calibrate model.onnx --data.root CIFAKE.zip --output mine.onnx
  python -m lightning_cifake calibrate --data.root my_images/ --threshold false_alarms=0.05 --output mine.onnx
  python -m lightning_cifake calibrate best.ckpt --data.root CIFAKE.zip --threshold youden
      then: python -m lightning_cifake predict --model mine.onnx photo.jpg
            python -m lightning_cifake verify mine.onnx
            python -m lightning_cifake test --ckpt_path best.ckpt

A false alarm is a REAL image that is called AI. --threshold says what is wanted:
  accuracy           most images right, at the mix of REAL and FAKE that the images have
  youden             the best mean of both classes' recalls, whatever the mix
  false_alarms=0.01  at most 1 % false alarms, and as many FAKE images found as that allows
  recall=0.95        at least 95 % of FAKE images found, and as few false alarms as that allows
  0.5                this one

Fitted on validation images alone: the val part of the split that is named, or that the model was trained by; the
source's own val part; else all of a folder without parts. Test images are refused, CIFAKE's own wherever they lie, and
so are images that the model was trained on, as far as that is known: it is said. A few dozen images of your own will
do, at least 10 of each class: the interval beside each rate says how far they reach.

The network stays as it is. Its manifest, beside the model, keeps what was done; MODEL-reliability.png shows the
probabilities before and after, the latter by cross-validation.

Of a checkpoint without --output what is found goes into a file beside it, best.ckpt.calibration.json. test, evaluate,
explain, predict and export of this very checkpoint then use it; a checkpoint that is trained on is another one.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Chooses a model's threshold by what it may cost, makes its probabilities true (temperature, or an isotonic\n"
        "curve), and writes a new exported model that answers so, or what it found beside a checkpoint.",
        f"{EXAMPLES}\n{shipped.models_help()}",
    )
    parser.add_config()
    parser.add_argument(
        "model",
        type=str,
        nargs="?",
        metavar="MODEL",
        help="a model that comes with the package, a file that export wrote, its .json beside it, or a checkpoint "
        f"(default: {shipped.DEFAULT})",
    )
    parser.add_argument("--output", type=Path, metavar="MODEL.onnx", help="the file to write; a checkpoint needs none")
    parser.add_argument("--overwrite", action="store_true", help="replaces what is there")
    parser.add_argument(
        "--threshold",
        type=_rule,
        default="accuracy",
        metavar="RULE",
        help="accuracy, youden, false_alarms=RATE, recall=RATE, or a number; see below (default: accuracy)",
    )
    parser.add_argument(
        "--method",
        type=Literal["auto", "temperature", "isotonic", "keep"],
        default="auto",
        help="temperature: logits divided by one number; isotonic: any increasing curve, for a thousand images and "
        "more; keep: the probabilities as they are; auto: what cross-validation finds best (default: %(default)s)",
    )
    group = parser.add_argument_group("the images")
    add_labelled_arguments(group, "none: it must be named; or a .csv with the columns path and label", part=False)
    group.add_argument("--sample", type=positive, metavar="N", help="fits on N of the images, spread over all")
    group.add_argument("--data.cache_dir", type=Path, metavar="FOLDER", help="where decoded images are kept")


def _rule(text: str) -> "Rule":
    from lightning_cifake.evaluation.thresholds import parse_rule

    try:
        return parse_rule(str(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def run(options: Any) -> int:
    """Prints what was found; 0, or 1 where the model would not answer as it should, and is not written.

    Raises:
        UserError: the arguments, the model or the images.
    """
    output, data = None if options.output is None else expand_user(options.output), options.data
    if output is not None and output.suffix != ".onnx":
        raise UserError(f"--output: expected a name that ends in .onnx, got {printable(output)}")
    if data.root is None:
        raise UserError("expected --data.root: the images to calibrate on (calibrate --help says what it can be)")
    if output is not None:
        _refuse_existing(options.overwrite, output, output.with_suffix(".json"))
    elif options.model is None:
        raise UserError("expected --output MODEL.onnx, or a checkpoint, beside which what is found is written")
    import_training_side("calibrate")
    from lightning_cifake.assessment.calibrate import calibrate
    from lightning_cifake.assessment.models import open_model
    from lightning_cifake.evaluation.checkpoint_calibration import calibration_path

    model = open_model(options.model or shipped.DEFAULT, recalibrate=output is None and options.overwrite)
    if output is None:
        _refuse_existing(options.overwrite, calibration_path(model.file))
    asked = asked_for(options)
    found = calibrate(model, asked, output, options.threshold, options.method, data.cache_dir)
    _print(found.record)
    if found.violations:
        print(f"{printable(options.output)} is not written: {'; '.join(found.violations)}")
        return 1
    print(f"written: {', '.join(printable(path) for path in found.written)}")
    return 0


def _refuse_existing(overwrite: bool, *paths: Path) -> None:
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise UserError(f"{printable(path)} exists already: give --overwrite to replace it")


def _print(record: dict[str, Any]) -> None:
    from lightning_cifake.assessment.validation_images import refusals

    counts = record["class_counts"]
    print(
        f"{plural(record['images'], 'validation image')} of {printable(record['data'])}: {record['part']}; "
        + ", ".join(f"{count:,} {name}" for name, count in counts.items())
    )
    if count := record["unreadable"]:
        print(f"  {plural(count, 'image')} cannot be read, and {'is' if count == 1 else 'are'} left out")
    for line in refusals(record["refused"]):
        print(f"  refused: {line}")
    method = {"keep": "as they were", "temperature": f"temperature {record['temperature']:.4f}"}
    before, after = record["before"], record["after"]
    print(f"probabilities: {method.get(record['method'], 'an isotonic curve')}")
    for name, title in (("log_loss", "log loss"), ("ece", "ECE"), ("brier", "Brier score")):
        print(f"  {title:12} {before[name]:.4f} before, {after[name]:.4f} after")
    print(f"threshold: {record['threshold']:.6g} by {record['rule']} ({before['threshold']:g} before)")
    was = record["before_at_threshold"]
    for name, title in (("false_alarms", "false alarms"), ("recall_fake", "FAKE found"), ("accuracy", "accuracy")):
        share = record["at_threshold"][name]
        low, high = share["interval"]
        print(
            f"  {title:12} {share['rate']:7.2%}, 95 % interval {low:.2%} to {high:.2%} "
            f"({share['count']:,} of {share['images']:,}; {was[name]['rate']:.2%} before)"
        )
    for doubt in record["doubts"]:
        print(f"  note: {doubt}")
