"""What a command line of ``fit``, ``validate`` or ``test`` names, before Lightning and its parser are imported."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable
from lightning_cifake.training.trainer_arguments import RUN, TRAINER


class Given(NamedTuple):
    """The few arguments that decide what is read and refused first; as text, None where they are not given."""

    help: bool
    print_config: bool
    configs: list[str]
    ckpt_path: str | None
    data_root: str | None
    model: str | None
    weights: str | None
    trainer: dict[str, str]  # by name, those that trainer_arguments has a rule for, and accelerator
    run: dict[str, str]


def read_given(arguments: Sequence[str]) -> Given:
    """Reads these and passes over all others, which are the real parser's to take or to refuse.

    Raises:
        UserError: a command line that no parser could take.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-c", "--config", action="append", default=[], nargs="?", const="")
    names = [f"trainer.{name}" for name in (*TRAINER, "accelerator")] + list(RUN)
    for name in ("print_config", "ckpt_path", "data.root", "model", "model.weights", *names):
        # a value that is missing is for the real parser to say
        parser.add_argument(f"--{name}", nargs="?", const="" if name == "print_config" else None)
    try:
        found = vars(parser.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError as error:
        raise UserError(printable(error)) from error
    named = {name: found[name] for name in names if found[name] is not None}
    return Given(
        help=found["help"],
        print_config=found["print_config"] is not None,
        configs=found["config"],
        ckpt_path=found["ckpt_path"],
        data_root=found["data.root"],
        model=found["model"],
        weights=found["model.weights"],
        trainer={name.partition(".")[2]: text for name, text in named.items() if name.startswith("trainer.")},
        run={name: text for name, text in named.items() if not name.startswith("trainer.")},
    )
