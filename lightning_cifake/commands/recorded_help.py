"""What ``fit --help``, ``validate --help`` and ``test --help`` list, as a file: to read it takes no torch.

``python -m lightning_cifake.commands.recorded_help`` writes the file anew, from the parsers: after each change of an
argument of the data, the model or the run, or of what its docstring says. With other versions of the packages that the
arguments come from, the parsers themselves are asked.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.commands.lightning_about import ABOUT
from lightning_cifake.commands.program import as_typed, program
from lightning_cifake.errors import UserError
from lightning_cifake.spelling import no_such_flag

FILE = Path(__file__).with_name("recorded_help.json")
_NAMES = "{configurations}"  # as they are when help is asked for
OF = ("jsonargparse", "lightning", "torch")  # what arguments and their types in words come from


def versions() -> dict[str, str]:
    """Of what the arguments come from, without a local part (``+cpu``)."""
    return {name: metadata.version(name).partition("+")[0] for name in OF}


@cache
def recorded() -> dict[str, Any] | None:
    """What was recorded; None of other versions than are installed, or where it cannot be read."""
    with suppress(OSError, ValueError, metadata.PackageNotFoundError):
        found = json.loads(FILE.read_text(encoding="utf-8"))
        if found["versions"] == versions():
            return found
    return None


class _Shown(argparse.RawDescriptionHelpFormatter):
    """Shows arguments whose texts are ready."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return str(action.metavar)

    def _expand_help(self, action: argparse.Action) -> str:
        return str(action.help)


def help_of(command: str) -> str | None:
    """What the command's ``--help`` prints, as wide as the terminal is; None: its parser is to be asked."""
    found = recorded()
    if found is None:
        return None
    formatter = _Shown(prog=f"{program()} {command}")
    formatter.add_usage(f"{program()} {command} [arguments]", [], [])
    formatter.add_text(as_typed(ABOUT[command]))
    configurations = ", ".join(shipped_configs())
    for group in (found["groups"][number] for number in found["commands"][command]):
        formatter.start_section(group["title"])
        formatter.add_text(group["description"])
        for flags, shown, text in group["arguments"]:
            formatter.add_argument(_argument(flags, shown, text.replace(_NAMES, configurations)))
        formatter.end_section()
    return formatter.format_help()


def _argument(flags: list[str], shown: str, text: str) -> argparse.Action:
    return argparse.Action(flags, "", nargs=0, metavar=shown, help=text)


def check_flags(command: str, arguments: Sequence[str]) -> None:
    """Refuses the first that is no flag of the command, nor an argument of a class that one of its flags names.

    With other versions than recorded nothing is refused here: the parser does it.

    Raises:
        UserError: one that there is not.
    """
    if (found := recorded()) is None:
        return
    flags = found["flags"][command]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag not in flags and not any(above in flags for above in _above(flag)):
            raise UserError(no_such_flag(flag, flags))


def _above(flag: str) -> Iterator[str]:
    """``--trainer.logger`` of ``--trainer.logger.save_dir``; ``--trainer.callbacks`` of ``--trainer.callbacks+``."""
    while "." in flag:  # --data and --trainer are no classes of the user's choice: all that they take is known
        yield flag.removesuffix("+")
        flag = flag.rpartition(".")[0]


def record() -> None:
    """Asks the parsers, and writes the file."""
    from lightning_cifake.commands.lightning_arguments import TrainingParser
    from lightning_cifake.commands.lightning_help import Formatter
    from lightning_cifake.commands.torch_side import import_training_side
    from lightning_cifake.files import write_whole

    texts: dict[argparse.Action, list[str]] = {}
    sections: list[dict[str, Any]] = []
    names = ", ".join(shipped_configs())

    class Recording(Formatter):
        """Notes what it is given to show."""

        def start_section(self, heading: str | None) -> None:
            sections.append({"title": heading, "description": None, "arguments": []})
            super().start_section(heading)

        def add_text(self, text: str | None) -> None:
            if sections:  # else the command's own, above all sections
                sections[-1]["description"] = text
            super().add_text(text)

        def _format_action(self, action: argparse.Action) -> str:
            shown = self._format_action_invocation(action), self._expand_help(action) if action.help else ""
            texts[action] = [text.replace(names, _NAMES) for text in shown]
            return super()._format_action(action)

        def add_argument(self, action: argparse.Action) -> None:
            if action.help != argparse.SUPPRESS:
                sections[-1]["arguments"].append(action)
            super().add_argument(action)

    class Asked(BaseException):
        """The parser that is to print its help."""

    def asked(parser: Any, *_: Any) -> None:
        raise Asked(parser)

    TrainingParser.print_help = asked  # type: ignore[assignment, method-assign]
    groups: list[Any] = []
    commands: dict[str, list[int]] = {}
    flags: dict[str, list[str]] = {}
    for command in ABOUT:
        try:
            import_training_side(command).run(command, ["--help"], command)
        except Asked as found:
            (parser,) = found.args
        parser.formatter_class = lambda prog, **_: Recording(prog, width=10_000)
        sections.clear()
        parser.format_help()
        commands[command] = []
        for section in sections:
            section["arguments"] = [[action.option_strings, *texts[action]] for action in section["arguments"]]
            if section not in groups:
                groups.append(section)
            commands[command].append(groups.index(section))
        flags[command] = [*parser._option_string_actions]
    content = {"versions": versions(), "groups": groups, "commands": commands, "flags": flags}
    write_whole(FILE, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    record()
