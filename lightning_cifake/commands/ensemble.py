"""The command ``ensemble``: several checkpoints as one network, in a checkpoint of its own."""

import os
from pathlib import Path
from typing import Any, Literal

from lightning_cifake.commands.arguments import add_data_arguments
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake ensemble a.ckpt b.ckpt c.ckpt --data.root CIFAKE.zip --output ensemble.ckpt
  python -m lightning_cifake ensemble runs/1/best.ckpt runs/2/best.ckpt --weights equal --output mean.ckpt
      then: test --ckpt_path ensemble.ckpt --config official --data.root CIFAKE.zip
            export --ckpt_path ensemble.ckpt --data.root CIFAKE.zip --output ensemble.onnx
            fit --model.teacher ensemble.ckpt ...        one small network that answers like it

The ensemble's logit is the weighted sum of its members'. The weights are at least 0, and are what makes the mean
binary cross-entropy smallest on validation images: those of the first checkpoint's split where its split.json lies
beside it, else the validation part that fit would draw. Images that any member was trained on are left out, and
images that the source keeps as test are refused. The record in the checkpoint joins what the members were trained on
and what the weights were fitted on, so that test counts such images. The members' files are not needed afterwards.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach("Makes one network of several checkpoints: the weighted sum of their logits.", EXAMPLES)
    parser.add_config()
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CKPT", help="of fit, or Keras files; of any networks for one image size"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.ckpt", help="the checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replaces what is there")
    parser.add_argument(
        "--weights",
        type=Literal["fit", "equal"],
        default="fit",
        help="fit: on validation images; equal: the mean of the logits, which needs no images (default: %(default)s)",
    )
    group = parser.add_argument_group("the images to fit the weights on")
    add_data_arguments(group, "those of the first checkpoint's run, which config.yaml beside it names")
    group.add_argument("--sample", type=int, metavar="N", help="fits on N of the validation images (default: all)")


def run(options: Any) -> int:
    """Returns the exit code.

    Raises:
        UserError: the arguments, a checkpoint or the images.
    """
    paths = [Path(each) for each in options.checkpoints]
    if len(paths) < 2:
        raise UserError(f"an ensemble is made of at least 2 checkpoints, got {len(paths)}")
    if options.output.suffix != ".ckpt":
        raise UserError(f"--output: expected a name that ends in .ckpt, got {printable(options.output)}")
    given = (options.data.root, options.data.classes, options.sample)
    if options.weights == "equal" and given != (None, None, None):
        raise UserError("--data.root, --data.classes, --sample: equal weights are fitted on no images")
    if os.path.lexists(options.output) and not options.overwrite:
        raise UserError(f"{printable(options.output)} exists already: give --overwrite to replace it, or another name")
    import_training_side("ensemble")
    from lightning_cifake.deploy.ensembling import FEWEST_IMAGES, make_ensemble

    if options.sample is not None and options.sample < FEWEST_IMAGES:
        raise UserError(f"--sample: expected at least {FEWEST_IMAGES}, got {options.sample}")
    fitting = options.weights == "fit"
    weights, fitted = make_ensemble(paths, options.output, *given, fitted=fitting)
    width = max(len(printable(path)) for path in paths)
    for number, (path, weight) in enumerate(zip(paths, weights, strict=True)):
        measured = "" if fitted is None else f", accuracy {fitted.accuracy[number]:.2%}"
        adds = "" if weight else ": adds nothing to the others, leave it out"
        print(f"{printable(path):{width}}  weight {weight:.4f} ({weight / sum(weights):.1%}){measured}{adds}")
    if fitted is not None:
        left_out = f"; {fitted.left_out:,} that a member was trained on are left out" if fitted.left_out else ""
        print(
            f"ensemble: accuracy {fitted.accuracy[-1]:.2%} on the {fitted.images:,} validation images of "
            f"{printable(fitted.data)} that the weights were fitted on, which is no measure of new images{left_out}"
        )
    print(f"written: {printable(options.output)}")
    return 0
