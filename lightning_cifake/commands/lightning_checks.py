"""What ``fit``, ``validate`` and ``test`` check before anything is made: what was asked for against the checkpoint, the
run that it is of and the data; and where the results go."""

import logging
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from lightning_cifake.class_paths import parameters_of
from lightning_cifake.commands.model_arguments import as_namespace, plain_arguments
from lightning_cifake.errors import UserError
from lightning_cifake.networks.registry import network_class
from lightning_cifake.run_folder import LAST_FILE, RUNS, RunConfig, RunFolder, next_number
from lightning_cifake.text import printable
from lightning_cifake.training.resume import EITHER_WAY, FOLLOWS_DATA, NETWORK, PARTS, Resumed, changed_arguments

log = logging.getLogger(__name__)

_IN_FULL = f"init_args.{FOLLOWS_DATA}"


def named_model_arguments(arguments: Sequence[str]) -> set[str]:
    """The flags of the model on the command line, over which no checkpoint and no configuration goes."""
    return {part.split("=")[0] for part in arguments if part.startswith("--model")}


def check_checkpoint_is_there(config: Any, command: str, resumed: Resumed | None) -> None:
    """Refuses a checkpoint that was not opened, and flags of training where nothing is trained.

    Raises:
        UserError: one of them.
    """
    if config.ckpt_path and resumed is None:
        raise UserError(f"--ckpt_path: expected a file, got {printable(config.ckpt_path)}")
    if command != "fit" and (config.overwrite or config.new_data):
        raise UserError(f"--overwrite and --new_data are for fit: {command} trains nothing")


def follow_image_size(config: Any, named: Set[str]) -> None:
    """The size of the data's images is that of a network whose size is an argument.

    Raises:
        UserError: another size was asked for.
    """
    arguments = config.model.network.get("init_args") or {}
    if FOLLOWS_DATA not in arguments:
        return
    default = parameters_of(network_class(config.model.network.class_path))[0][FOLLOWS_DATA].default
    size, asked = arguments[FOLLOWS_DATA], config.data.image_size
    is_named = any(f"--model.network.{name}" in named for name in (FOLLOWS_DATA, _IN_FULL))
    if (is_named or size != default) and size != asked:
        raise UserError(
            f"model.network.image_size follows data.image_size: expected {asked}, got {size}; give --data.image_size"
        )
    arguments[FOLLOWS_DATA] = asked


def check_seed(config: Any, run_config: RunConfig | None) -> None:
    """The generators resume where they were; a seed would be dropped silently.

    Raises:
        UserError: another seed than the run's.
    """
    before = None if run_config is None else run_config.values.get("seed_everything")
    if before is not None and config.seed_everything != before:
        raise UserError(
            f"seed_everything: {before} before, got {config.seed_everything}: a resumed run draws on from where it "
            "was. Leave it out, or start a new run from these weights with --model.weights"
        )


def measure_as_it_is(config: Any, command: str, resumed: Resumed, named: Set[str]) -> None:
    """A checkpoint's own arguments: one that was named is refused, one of a configuration is noted.

    Raises:
        UserError: the command line names another value.
    """
    either = {name for name in EITHER_WAY if f"--model.{name}" in named}
    asked = {name: value for name, value in plain_arguments(config.model).items() if name not in either}
    changed = changed_arguments(resumed, asked)
    every = "--model" in named
    given = {name.removeprefix("--model.").replace(".init_args.", ".") for name in named}
    if refused := [name for name in changed if every or name in given or f"{name}.class_path" in given]:
        listed = "; ".join(f"model.{name}: {changed[name][0]}, got {changed[name][1]}" for name in refused)
        raise UserError(f"{command} measures a checkpoint as it is: expected {printable(listed)}")
    for name, (own, other) in changed.items():
        log.info("model.%s: %s, as the checkpoint has it; the configuration says %s", name, own, other)
    for name, own in resumed.model.items():
        if name in either:
            continue
        config.model[name] = as_namespace(own) if name in PARTS else own
    if FOLLOWS_DATA in resumed.model[NETWORK]["init_args"]:
        config.model.network.init_args[FOLLOWS_DATA] = config.data.image_size


def choose_folder(config: Any, command: str, run_name: str) -> RunFolder:
    """Where the results go; made and claimed when there is something to write.

    Raises:
        UserError: a run would be resumed over another one's last checkpoint.
    """
    checkpoint = Path(config.ckpt_path) if config.ckpt_path else None
    named = Path(config.output_dir) if config.output_dir else None
    if command != "fit":
        assert checkpoint is not None
        protocol = "split" if config.data.split_file else config.data.protocol
        return RunFolder(named or checkpoint.parent / f"{command}-{protocol}", resumed=True)
    if checkpoint is None:
        path = named or next_run_dir(run_name)
        return RunFolder(path, numbered=named is None, overwrite=config.overwrite)
    if named is not None and named.resolve() != checkpoint.parent.resolve():
        return RunFolder(named, overwrite=config.overwrite)
    last = checkpoint.parent / LAST_FILE
    if last.exists() and not last.samefile(checkpoint) and not config.overwrite:
        raise UserError(
            f"{printable(checkpoint)} would be resumed in a folder whose {LAST_FILE} is another checkpoint, and "
            f"replace it: name another --output_dir, or give --overwrite to replace it"
        )
    return RunFolder(checkpoint.parent, resumed=True)


def next_run_dir(name: str, runs: Path = RUNS) -> Path:
    """``checkpoints/<name>/<number>``: the first number that no run has taken."""
    return next_number(runs / name)
