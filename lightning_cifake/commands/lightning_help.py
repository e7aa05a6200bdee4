"""The form of what ``fit --help``, ``validate --help`` and ``test --help`` print."""

import re
from argparse import Action, RawDescriptionHelpFormatter
from typing import Any

from jsonargparse import DefaultHelpFormatter

from lightning_cifake.commands.lightning_about import ABOUT
from lightning_cifake.commands.program import as_typed, program


class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's, with types and defaults, that leaves the lines of a description as they are.

    Nor does it list every class of torch that could stand for an argument: its help names the project's own.
    """

    def _expand_help(self, action: Action) -> str:
        return re.sub(r",\s*known subclasses: [^)]*", "", super()._expand_help(action))


def parser_arguments() -> dict[str, dict[str, Any]]:
    """For LightningCLI: what the parser of each of its commands is made with."""
    return {
        command: {"description": as_typed(about), "usage": f"{program()} {command} [arguments]"}
        for command, about in ABOUT.items()
    }
