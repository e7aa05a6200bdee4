"""The commands ``fit``, ``validate`` and ``test``: what is decided before Lightning's parser, which does the rest.

Configurations by name, the newest checkpoint where none is named, and what a checkpoint and its run were made with,
beneath what is asked for now. A mistake that the command line alone tells is refused before torch is imported.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cifake.commands.configurations import find_config, note, note_hidden, shipped_configs
from lightning_cifake.commands.given import Given, read_given
from lightning_cifake.commands.program import program
from lightning_cifake.commands.recorded_help import check_flags, help_of
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.console import say
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user
from lightning_cifake.text import printable
from lightning_cifake.training.trainer_arguments import check_given
from lightning_cifake.yaml_file import read_yaml

if TYPE_CHECKING:
    from lightning_cifake.run_folder import RunConfig


def run(command: str, arguments: Sequence[str]) -> int:
    """Runs one of the three with its command line; returns the exit code.

    Raises:
        UserError: an argument, a configuration, the checkpoint, the data.
    """
    require("train", "torch", "lightning", what=command)  # before any note about a run that will not be
    given = read_given(arguments)
    if list(arguments) in (["--help"], ["-h"]) and (text := help_of(command)) is not None:
        print(text, end="")
        raise SystemExit(0)  # as behind a parser's help
    if given.help:
        import_training_side(command).run(command, [*arguments], command)
        return 0
    check_flags(command, arguments)
    check_given(given.trainer, given.run, command)
    names = [*given.configs]
    arguments = [*arguments]
    if command == "fit" and not names and given.ckpt_path is None:
        names = configurations_of(given)
        arguments = ["--config", names[0], *arguments]
        note(f"config: {names[0]} (name another with --config: {', '.join(shipped_configs())}, or a file)")
    configs = [find_config(name) for name in names]
    for name in names:
        note_hidden(name)
    contents = [read_yaml(path) for path in configs]  # refuses what is none, and what would unfold to gigabytes
    run_name = name_of(configs) or command
    if given.print_config:
        import_training_side(command).run(command, arguments, run_name)
        return 0
    _refuse_model_file(command, given.model)
    _refuse_missing_data(given.data_root)
    checkpoint = given.ckpt_path or _last_ckpt_path(contents)
    if command != "fit" and checkpoint is None:
        from lightning_cifake.run_folder import newest_checkpoint

        checkpoint = str(newest_checkpoint())
        arguments = [*arguments, "--ckpt_path", checkpoint]
    lightning_cli = import_training_side(command)
    resumed = run_config = None
    if checkpoint is not None:
        from lightning_cifake.training.resume import open_checkpoint

        resumed = open_checkpoint(expand_user(checkpoint), to_train=command == "fit")
        run_config = _config_of_run(command, expand_user(checkpoint), configs)
        # beneath what was asked for: what the checkpoint's model is, and what its run was started with
        beneath = [resumed.defaults(), *([] if run_config is None else [run_config.values])]
        arguments = [part for each in beneath for part in ("--config", json.dumps(each))] + arguments
    elif weights := given.weights or _weights_in(contents):
        from lightning_cifake.training.initial_weights import local_weights
        from lightning_cifake.training.resume import defaults_of_weights

        if found := defaults_of_weights(expand_user(local_weights(weights))):
            arguments = _over_recipes(arguments, json.dumps(found))
    from lightning_cifake.training.checkpoints import Stopped

    try:
        lightning_cli.run(command, arguments, run_name, resumed, run_config)
    except Stopped as stopped:
        if stopped.reported_by_rank_zero:
            return 0
        again = f"{program()} fit --ckpt_path {printable(stopped.checkpoint)}"
        say(f"{stopped}. Resume with: {again}")
        return 128 + stopped.signum
    return 0


def configurations_of(given: Given) -> list[str]:
    """A new run's: those that are named, or the one that is meant where none is."""
    return [*given.configs] or ["demo" if given.data_root in (None, "demo") else "clean"]


def name_of(configs: Sequence[Path]) -> str:
    """A new run's, by its configurations."""
    return "+".join(path.stem for path in configs)


def _last_ckpt_path(contents: Sequence[dict[str, Any]]) -> str | None:
    """The last ``ckpt_path`` in the named configurations."""
    found = [str(content["ckpt_path"]) for content in contents if content.get("ckpt_path") is not None]
    return found[-1] if found else None


def _weights_in(contents: Sequence[dict[str, Any]]) -> str | None:
    """The last ``model.weights`` in the named configurations."""
    models = [content["model"] for content in contents if isinstance(content.get("model"), dict)]
    found = [model["weights"] for model in models if isinstance(model.get("weights"), str)]
    return found[-1] if found else None


def _over_recipes(arguments: Sequence[str], config: str) -> list[str]:
    """A configuration behind the shipped ones that say how to train, and before all that names a network by intent."""
    recipes = [name for name in shipped_configs() if "/" not in name]
    place = 0
    for at, part in enumerate(arguments):
        flag, equals, value = part.partition("=")
        if flag in ("--config", "-c"):
            end = at + (1 if equals else 2)
            if (value if equals else (*arguments, "")[at + 1]) in recipes:
                place = end
    return [*arguments[:place], "--config", config, *arguments[place:]]


def _refuse_model_file(command: str, value: str | None) -> None:
    """``--model FILE`` is predict's; here ``--model`` is a section of the configuration, which would pass over it."""
    from lightning_cifake.model_kinds import what_takes

    other = what_takes(Path(value).expanduser()) if value else None
    if other:
        raise UserError(
            f"--model {printable(value)}: {command} takes a model with --ckpt_path, and a checkpoint only; {other}"
        )


def _refuse_missing_data(root: str | None) -> None:
    """What is not there is not decoded: the same refusal as then, before torch is imported."""
    if root is not None and not os.path.lexists(expand_user(root)) and root != "demo":
        from lightning_cifake.data.sources import list_source

        list_source(root)


def _config_of_run(command: str, checkpoint: Path, named: Sequence[Path]) -> "RunConfig | None":
    """The configuration that lies beside a checkpoint: all of it to train on, the data's part to measure on.

    To measure, not where another one was named; to train, not where it was itself: then it may name classes too.
    """
    from lightning_cifake.run_folder import CONFIG, read_config

    path = checkpoint.parent / CONFIG
    if any(each.samefile(path) for each in named if path.exists()) or (command != "fit" and named):
        return None
    found = read_config(checkpoint.parent) if command == "fit" else read_config(checkpoint.parent, ("data",))
    if found is not None:
        note(f"config: {printable(path)}{'' if command == 'fit' else ' (its data)'}")
    return found
