"""The parser of every command but Lightning's three: jsonargparse's, whose refusals are one line that helps.

A command's module adds its arguments to a :class:`Parser`; :func:`parse` makes one and reads a command line with it.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from lightning_cifake.commands.configurations import find_config
from lightning_cifake.commands.program import as_typed, program
from lightning_cifake.errors import UserError
from lightning_cifake.parser_messages import parser_reason
from lightning_cifake.spelling import NO_FLAG, no_such_flag
from lightning_cifake.text import printable
from lightning_cifake.yaml_file import read_yaml

# how argparse and jsonargparse begin it, and how it is said here
_UNKNOWN = "unrecognized arguments: "
_REQUIRED = "the following arguments are required: "


class ConfigFile(ActionConfigFile):
    """``--config FILE``: YAML that is bounded and plain, or the name of a shipped configuration."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if not values.startswith("{"):  # JSON: what a checkpoint's run was started with; users name files
            path = find_config(values)
            read_yaml(path)  # refuses what is none in one line, and what would unfold to gigabytes
            values = str(path)
        super().__call__(parser, cfg, values, option_string)


class RightNames:
    """A parser's mixin: a flag that there is not is answered with the one that was probably meant."""

    renamed: Mapping[str, str] = {}
    """Flags of an earlier version, and what they are called now."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(self._with_right_name(message), ex)  # type: ignore[misc]
        raise AssertionError  # it has exited, or raised

    def _with_right_name(self, message: str) -> str:
        if not message.startswith(_UNKNOWN):
            return message
        unknown = message.removeprefix(_UNKNOWN)
        flag = unknown.split()[0].partition("=")[0] if unknown.split() else unknown
        if flag in self.renamed:
            return f"{NO_FLAG}{flag}, which is called {self.renamed[flag]} now"
        if not flag.startswith("-"):
            return self._too_many(unknown)
        return no_such_flag(flag, self._option_string_actions)  # type: ignore[attr-defined]

    def _too_many(self, unknown: str) -> str:
        listed = [action.metavar for action in self._actions if action.nargs == "*"]  # type: ignore[attr-defined]
        where = f": expected all {listed[0]}s side by side, flags before or behind them" if listed else ""
        return f"not expected: {unknown}{where}"


class Parser(RightNames, ArgumentParser):
    """jsonargparse's, with ``--config`` and ``--print_config``, its help in groups with examples below.

    Args:
        command: its name, without the program's.
    """

    def __init__(self, command: str) -> None:
        super().__init__(
            prog=f"{program()} {command}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            exit_on_error=False,
            allow_abbrev=False,
        )
        # what begins with a minus and a digit is a value, as in --pixels -1-1: no flag here does
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def _with_right_name(self, message: str) -> str:
        if message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED).split(", ")
            return f"{_REQUIRED}{', '.join(self._as_flag(name) for name in names)}"
        return super()._with_right_name(message)

    def _as_flag(self, name: str) -> str:
        """``--ckpt_path``; a positional argument as it is shown in the help."""
        actions = {action.dest: action for action in self._actions}
        if name not in actions:
            return name
        return actions[name].option_strings[-1] if actions[name].option_strings else str(actions[name].metavar or name)

    def dump(self, cfg: Namespace, **kwargs: Any) -> str:
        """For ``--print_config``: YAML, with paths as text."""
        cfg = cfg.clone()
        for name, value in cfg.items():
            if isinstance(value, Path):
                cfg[name] = str(value)
        return super().dump(cfg, **kwargs).rstrip("\n") + "\n"

    def teach(self, description: str, examples: str) -> None:
        """What the command does, and how it is called."""
        self.description, self.epilog = description, as_typed(examples)

    def add_config(self) -> None:
        """``--config FILE`` of this command's own arguments, and ``--print_config``, which writes one."""
        self.add_argument("--config", action=_OptionsFile, metavar="FILE", help="YAML with these arguments")


class _OptionsFile(ActionConfigFile):
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if not Path(values).is_file():
            raise UserError(f"--config: expected a YAML file, got {printable(values) or 'nothing'}")
        read_yaml(Path(values))
        super().__call__(parser, cfg, values, option_string)


def make_parser(command: str, add_arguments: Callable[[Parser], None]) -> Parser:
    """The command's parser."""
    parser = Parser(command)
    add_arguments(parser)
    return parser


def parse(command: str, add_arguments: Callable[[Parser], None], arguments: Sequence[str]) -> Namespace:
    """A command line's values, by name; ``command_line`` among them holds what was given.

    Raises:
        UserError: an argument that there is not, or that is not what it should be. One line.
    """
    parser = make_parser(command, add_arguments)
    try:
        options = parser.parse_args(list(arguments))
    except ArgumentError as error:
        reason = parser_reason(error)
        if f"--{reason.partition(':')[0]}" in parser._option_string_actions:  # jsonargparse names the key alone
            reason = f"--{reason}"
        raise UserError(f"{reason} ({command} --help lists the arguments)") from error
    options.command_line = [command, *arguments]
    return options
