"""The table of commands, and the way from a command line to one of them. Only the one that is asked for is imported."""

import logging
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.commands.ending import ended_by, failed_with
from lightning_cifake.commands.program import as_typed
from lightning_cifake.console import prepare_streams
from lightning_cifake.cpu_threads import bound_spinning
from lightning_cifake.data.cache_dir import work_without_home
from lightning_cifake.errors import UserError
from lightning_cifake.extras import missing_extra
from lightning_cifake.files import expand_user
from lightning_cifake.signals import EndedBySignal, ending_on_signals
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable


class Command(NamedTuple):
    """A row of the table: a module of ``lightning_cifake.commands``, and what the help says of it."""

    module: str
    help: str


LIGHTNING = "fit_validate_test"  # its parser is LightningCLI's
COMMANDS = {
    "fit": Command(LIGHTNING, "train, then test the best epoch and write the report and the pictures"),
    "validate": Command(LIGHTNING, "measure a checkpoint on its validation images"),
    "test": Command(LIGHTNING, "measure a checkpoint on its test images"),
    "repeat": Command("repeat", "fit with several seeds: what is done, mean and spread"),
    "predict": Command("predict", "ask the released model, or another, about image files"),
    "serve": Command("serve", "a page and an HTTP API that answer from an exported model"),
    "explain": Command("explain", "draw what a model looks at in images"),
    "export": Command("export", "turn a checkpoint into an ONNX model, verified against it"),
    "evaluate": Command("evaluate", "measure models on any labelled images: figures with intervals, a page"),
    "verify": Command("verify", "check an exported model again"),
    "calibrate": Command("calibrate", "choose a threshold and make probabilities true, on validation images"),
    "push": Command("push", "send a model to the Hugging Face Hub, with its card: shows first what would go"),
    "ensemble": Command("ensemble", "make one network of several checkpoints"),
    "convert": Command("convert", "turn a Keras file into a checkpoint, or a checkpoint into a Keras file"),
    "benchmark": Command("benchmark", "TensorFlow, torch, Lightning and onnxruntime side by side on this machine"),
    "leaderboard": Command("leaderboard", "recorded runs side by side, best first: a table and two pictures"),
    "report": Command("report", "the page of a run or an evaluation, or a model card, from its metrics.json"),
    "audit": Command("audit", "what is wrong with a data set, before anyone trains on it"),
    "download": Command("download", "fetch CIFAKE (120,000 images, 130 MB) and verify it"),
}

OVERVIEW = """usage: python -m lightning_cifake COMMAND [arguments]

Tells AI-generated images from photographs: the published CIFAKE ResNet50 system, in PyTorch Lightning.

commands:
{commands}

examples:
  python -m lightning_cifake fit                                     the built-in demo data, two minutes on two cores
  python -m lightning_cifake download                                CIFAKE, to data/cifake/CIFAKE.zip
  python -m lightning_cifake audit --data.root data/cifake/CIFAKE.zip        copies, wrong labels, shortcuts
  python -m lightning_cifake fit --config clean --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake fit --config official --config t4 --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake fit --ckpt_path checkpoints/clean/1/last.ckpt      resumes where it stopped
  python -m lightning_cifake test --ckpt_path checkpoints/clean/1/best.ckpt --data.protocol official
  python -m lightning_cifake repeat --seeds 5 fit --config clean --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake predict photo.jpg folder/ '*.png' --output answers.csv
  python -m lightning_cifake export --ckpt_path checkpoints/clean/1/best.ckpt --output model.onnx
  python -m lightning_cifake predict --model model.onnx folder/ --json            without torch, in a second
  python -m lightning_cifake evaluate model.onnx --data.root folder/              FAKE/ and REAL/ in it
  python -m lightning_cifake calibrate --data.root folder/ --threshold false_alarms=0.05 --output mine.onnx
  python -m lightning_cifake push model.onnx --to owner/name                      shows what would go to the Hub
  python -m lightning_cifake ensemble a.ckpt b.ckpt --data.root data/cifake/CIFAKE.zip --output ensemble.ckpt
  python -m lightning_cifake convert model.keras checkpoints/keras/last.ckpt
  python -m lightning_cifake benchmark --quick

--config takes a file, or one of: {configs}; a later one is merged over an earlier one.
COMMAND --help lists a command's arguments (fit: every one of the data, the model and Lightning's Trainer).
"""


def overview() -> str:
    """What ``--help`` prints."""
    commands = "\n".join(f"  {name:<13}{command.help}" for name, command in COMMANDS.items())
    return as_typed(OVERVIEW.format(commands=commands, configs=", ".join(shipped_configs())))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for a user's mistake, 128 + its number when a signal stopped it."""
    prepare_streams()
    arguments = [_with_home(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lightning_cifake").setLevel(logging.INFO)
    bound_spinning()
    with ending_on_signals() as received:
        try:
            try:
                code = _dispatch(arguments)
            finally:
                if not sys.stdout.closed:
                    sys.stdout.flush()
        except EndedBySignal as ended:
            return ended_by(ended)
        except KeyboardInterrupt:
            return ended_by(EndedBySignal(signal.SIGINT))
        except (Exception, SystemExit) as error:
            if received.ended:  # and what it met on its way up failed, or took it for something else
                return ended_by(received.ended)
            if isinstance(error, SystemExit):  # a parser's, behind --help and --print_config
                raise
            return failed_with(error)
        # swallowed on its way up, in a library's `except:` or a finalizer: no end that was asked for is a success
        return ended_by(received.ended) if received.ended else code


def _with_home(argument: str) -> str:
    """``~`` is the home folder behind ``--flag=`` too, where shells leave it as it is."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    # with a slash: ~x.jpg may be a file that is still to be looked for
    return (
        f"{flag}{equals}{expand_user(value)}" if value.startswith("~") and (value == "~" or "/" in value) else argument
    )


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if arguments[:1] == ["help"] and arguments[1:2] and arguments[1] in COMMANDS:
            return run_command(arguments[1], ["--help"])
        print(overview(), end="")
        return 0
    if arguments[0] == "--version":
        from importlib import metadata

        print(f"lightning_cifake {metadata.version('lightning_cifake')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        *most, last = COMMANDS
        expected = did_you_mean(name, [*COMMANDS, "--help", "--version"]) or f"; expected {', '.join(most)} or {last}"
        raise UserError(f"no such command: {printable(name)}{expected} (--help explains them)")
    work_without_home()
    return run_command(name, rest)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Imports a command of the table and runs it; returns the exit code.

    Raises:
        UserError: what its user can put right.
    """
    try:
        module = import_module(f"lightning_cifake.commands.{COMMANDS[name].module}")
        if COMMANDS[name].module == LIGHTNING:
            return module.run(name, arguments)
        from lightning_cifake.commands.parsing import parse

        return module.run(parse(name, module.add_arguments, arguments))
    except ImportError as error:  # a module of an extra that the command has not asked for by `require`
        missing = missing_extra(error, name)
        if missing is None:
            raise
        raise missing from error
