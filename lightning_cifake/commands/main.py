"""The commands. Nothing heavy is imported before it is known which one is meant."""

import json
import logging
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifake.console import drop_output, is_of_output, prepare_streams, say
from lightning_cifake.cpu_threads import bound_spinning
from lightning_cifake.data.cache_dir import work_without_home
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.machine import is_first_process
from lightning_cifake.shipped import config_dir
from lightning_cifake.signals import EndedBySignal, ending_on_signals
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.trainer_arguments import check_given

if TYPE_CHECKING:
    from lightning_cifake.run_folder import RunConfig

OVERVIEW = """usage: python -m lightning_cifake COMMAND [arguments]

Tells AI-generated images from photographs: the published CIFAKE ResNet50 system, in PyTorch Lightning.

commands:
  fit        train, then test the best epoch and write the report and the pictures
  validate   measure a checkpoint on its validation images
  test       measure a checkpoint on its test images
  predict    ask the released model, or another, about image files
  export     turn a checkpoint into an ONNX model, verified against it
  verify     check an exported model again
  convert    turn a Keras file into a checkpoint, or a checkpoint into a Keras file
  benchmark  TensorFlow, torch, Lightning and onnxruntime side by side on this machine
  download   fetch CIFAKE (120,000 images, 130 MB) and verify it

examples:
  python -m lightning_cifake fit                                     the built-in demo data, two minutes on two cores
  python -m lightning_cifake download                                CIFAKE, to data/cifake/CIFAKE.zip
  python -m lightning_cifake fit --config clean --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake fit --config official --config t4 --data.root data/cifake/CIFAKE.zip
  python -m lightning_cifake fit --ckpt_path checkpoints/clean/1/last.ckpt      goes on where it stopped
  python -m lightning_cifake test --ckpt_path checkpoints/clean/1/best.ckpt --data.protocol official
  python -m lightning_cifake predict photo.jpg folder/ '*.png' --output answers.csv
  python -m lightning_cifake export --ckpt_path checkpoints/clean/1/best.ckpt --output model.onnx
  python -m lightning_cifake predict --model model.onnx folder/ --json            without torch, in a second
  python -m lightning_cifake convert model.keras checkpoints/keras/last.ckpt
  python -m lightning_cifake benchmark --quick

--config takes a file, or one of: {configs}; a later one is laid over an earlier one.
COMMAND --help lists a command's arguments (fit: every one of the data, the model and Lightning's Trainer).
"""


def shipped_configs() -> list[str]:
    return sorted(path.stem for path in config_dir().glob("*.yaml"))


def main(argv: list[str] | None = None) -> int:
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
            return _ended(ended)
        except KeyboardInterrupt:
            return _ended(EndedBySignal(signal.SIGINT))
        except (Exception, SystemExit) as error:
            if received.ended:  # and what it met on its way up failed, or took it for something else
                return _ended(received.ended)
            if isinstance(error, SystemExit):  # argparse's
                raise
            return _failed(error)
        # swallowed on its way up, in a library's `except:` or a finalizer: no end that was asked for is a success
        return _ended(received.ended) if received.ended else code


def _with_home(argument: str) -> str:
    """``~`` is the home folder behind ``--flag=`` too, where shells leave it as it is."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    # with a slash: ~x.jpg may be a file that is still to be looked for
    return (
        f"{flag}{equals}{expand_user(value)}" if value.startswith("~") and (value == "~" or "/" in value) else argument
    )


def _ended(ended: EndedBySignal) -> int:
    """Says so, in one line, and returns the exit code."""
    say(str(ended))
    return 128 + ended.signum


def _failed(error: Exception) -> int:
    """One line for what a user can mend, and the exit code; anything else is raised again."""
    if isinstance(error, UserError):
        if error.reported_by_rank_zero:  # and 0: Lightning kills the first process when another one fails
            return 0
        say(f"error: {error}")
        return 2
    if isinstance(error, BrokenPipeError):  # `predict ... | head`
        drop_output()
        return 141
    if isinstance(error, OSError) and is_of_output(error):
        drop_output()
        say(f"error: cannot write to standard output: {reason_of(error)}")
        return 2
    if isinstance(error, OSError) and error.strerror:  # a state of the system: a disk, a limit, a right
        say(f"error: {reason_of(error)}" + ("" if error.filename is None else f": {printable(error.filename)}"))
        return 2
    raise error


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(configs=", ".join(shipped_configs())), end="")
        return 0
    if arguments[0] == "--version":
        print(f"lightning_cifake {metadata.version('lightning_cifake')}")
        return 0
    command, rest = arguments[0], arguments[1:]
    work_without_home()
    if command in ("fit", "validate", "test"):
        return _train_or_measure(command, rest)
    others = {
        "predict": _predict,
        "convert": _convert,
        "export": _export,
        "verify": _verify,
        "benchmark": _benchmark,
        "download": _download,
    }
    if command in others:
        return others[command](rest)
    raise UserError(
        f"no such command: {printable(command)}; expected fit, validate, test, {', '.join(list(others)[:-1])} or "
        "download (--help explains them)"
    )


def _train_or_measure(command: str, arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        _import_command().run(command, arguments, command)
        return 0
    check_given(arguments, command)
    arguments, run_name = _lay_configs(command, arguments)
    if any(argument.startswith("--print_config") for argument in arguments):
        _import_command().run(command, arguments, run_name)
        return 0
    _refuse_model_file(command, _value_of(arguments, "--model"))
    command_module = _import_command()
    checkpoint = _value_of(arguments, "--ckpt_path") or _checkpoint_of_configs(arguments)
    if command != "fit" and checkpoint is None:
        checkpoint = str(command_module.newest_checkpoint())
        arguments = [*arguments, "--ckpt_path", checkpoint]
    resumed = run_config = None
    if checkpoint is not None:
        from lightning_cifake.training.resume import open_checkpoint

        resumed = open_checkpoint(expand_user(checkpoint), to_train=command == "fit")
        run_config = _config_of_run(command, expand_user(checkpoint), arguments)
        # beneath what was asked for: what the checkpoint's model is, and what its run was started with
        beneath = [resumed.defaults(), *([] if run_config is None else [run_config.values])]
        laid = [part for each in beneath for part in ("--config", json.dumps(each))]
        arguments = [*laid, *arguments]
    from lightning_cifake.training.checkpoints import Stopped

    try:
        command_module.run(command, arguments, run_name, resumed, run_config)
    except Stopped as stopped:
        if stopped.reported_by_rank_zero:
            return 0
        say(f"{stopped}. Go on with: python -m lightning_cifake fit --ckpt_path {printable(stopped.checkpoint)}")
        return 128 + stopped.signum
    return 0


def _refuse_model_file(command: str, value: str | None) -> None:
    """``--model FILE`` is predict's; here ``--model`` is a section of the configuration, which would pass over it."""
    from lightning_cifake.model_kinds import what_takes

    other = what_takes(Path(value).expanduser()) if value else None
    if other:
        raise UserError(
            f"--model {printable(value)}: {command} takes a model with --ckpt_path, and a checkpoint only; {other}"
        )


def _import_command() -> Any:
    """The training side, with a plain word where torch and torchvision are not of one make."""
    try:
        from lightning_cifake.commands import lightning_cli as command
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        found = f"torch {metadata.version('torch')} and torchvision {metadata.version('torchvision')}"
        raise UserError(
            f"{found} are not a matching pair: expected the two that pip chooses together; "
            "mend it with: pip install --upgrade --force-reinstall torch torchvision"
        ) from error
    return command


def _lay_configs(command: str, arguments: list[str]) -> tuple[list[str], str]:
    """Names of shipped configurations become their files; without any, ``fit`` takes the one that fits.

    The second value names the run's folder.
    """
    from lightning_cifake.yaml_file import read_yaml

    laid: list[str] = []
    names: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            laid.append(argument)
            continue
        value = value if equals else next(pending, "")
        path = _find_config(value)
        read_yaml(path)  # refuses what is none in one line, and what would unfold to gigabytes
        names.append(path.stem)
        laid += ["--config", str(path)]
    if command == "fit" and not names and _value_of(arguments, "--ckpt_path") is None:
        names = ["demo" if _value_of(arguments, "--data.root") in (None, "demo") else "clean"]
        _note(f"config: {names[0]} (name another with --config: {', '.join(shipped_configs())}, or a file)")
        laid = ["--config", str(_find_config(names[0])), *laid]
    return laid, "+".join(names) or command


def _note(line: str) -> None:
    """To standard error, once where several processes run the same command."""
    if is_first_process():
        say(line)


def _find_config(value: str) -> Path:
    path = Path(value)
    if path.is_file():
        if value in shipped_configs():
            _note(f"config: the file {value} that is here, not the shipped configuration of that name")
        return path
    shipped = config_dir() / f"{value}.yaml"
    if value in shipped_configs():
        return shipped
    raise UserError(
        f"--config: expected a YAML file or one of {', '.join(shipped_configs())}, got {printable(value) or 'nothing'}"
    )


def _value_of(arguments: list[str], flag: str) -> str | None:
    """The last value given for a flag, as ``--flag value`` or ``--flag=value``."""
    return next(iter(reversed(_values_of(arguments, flag))), None)


def _values_of(arguments: list[str], flag: str) -> list[str]:
    """Every value given for a flag, in order."""
    values = []
    for at, argument in enumerate(arguments):
        if argument == flag and at + 1 < len(arguments):
            values.append(arguments[at + 1])
        elif argument.startswith(f"{flag}="):
            values.append(argument.partition("=")[2])
    return values


def _config_of_run(command: str, checkpoint: Path, arguments: list[str]) -> "RunConfig | None":
    """The configuration that lies beside a checkpoint: all of it to train on, the data's part to measure on.

    To measure, not where another one was named; to train, not where it was itself: then it may name classes too.
    """
    from lightning_cifake.run_folder import CONFIG, read_config

    path = checkpoint.parent / CONFIG
    named = [Path(value) for value in _values_of(arguments, "--config")]
    if any(each.samefile(path) for each in named if path.exists()) or (command != "fit" and named):
        return None
    found = read_config(checkpoint.parent) if command == "fit" else read_config(checkpoint.parent, ("data",))
    if found is not None:
        _note(f"config: {printable(path)}{'' if command == 'fit' else ' (its data)'}")
    return found


def _checkpoint_of_configs(arguments: list[str]) -> str | None:
    """The last ``ckpt_path`` in the named configurations."""
    from lightning_cifake.yaml_file import read_yaml

    found = [read_yaml(Path(path)).get("ckpt_path") for path in _values_of(arguments, "--config")]
    return next((str(value) for value in reversed(found) if value is not None), None)


def _predict(arguments: list[str]) -> int:
    from lightning_cifake.commands import predict as predict_command

    return predict_command.run(arguments, _import_command)


def _export(arguments: list[str]) -> int:
    _import_command()
    from lightning_cifake.commands import export as export_command

    return export_command.run(arguments)


def _benchmark(arguments: list[str]) -> int:
    _import_command()
    from lightning_cifake.commands import benchmark as command

    return command.run(arguments)


def _verify(arguments: list[str]) -> int:
    from lightning_cifake.commands import verify as verify_command

    return verify_command.run(arguments, _import_command)


def _convert(arguments: list[str]) -> int:
    from lightning_cifake.commands import convert

    return convert.run(arguments, _import_command)


def _download(arguments: list[str]) -> int:
    from lightning_cifake.commands import download

    return download.run(arguments)
