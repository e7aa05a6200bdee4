"""How a measurement in this folder ends: its record, on which machine and by which command; a mistake in one line."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import public_words, sealed_json, write_whole
from lightning_cifake.machine import cores, processor

Record = Callable[[argparse.Namespace], dict[str, Any]]


def recorded(record: Record, given: argparse.Namespace, arguments: Sequence[str] | None = None) -> int:
    """The exit code.

    Args:
        record: measures what the arguments say.
        given: the arguments; ``output`` is the file, None for none.
        arguments: as they were typed; by default this process's.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", f"docs/results/{Path(sys.argv[0]).name}", *public_words(typed)])
    try:
        made = {**record(given), "machine": f"{processor()}, {cores()} cores", "command": command}
        if given.output is not None:
            write_whole(given.output, sealed_json(made, indent=1))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
