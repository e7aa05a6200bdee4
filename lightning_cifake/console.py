"""The standard streams, whatever the console takes: no name of a file can end a command."""

import codecs
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from lightning_cifake.text import printable

EXACT_NAMES = "lightning_cifake.exact_names"
"""A handler of encoding errors: in UTF-8 a byte of a file's name that is not UTF-8 comes out as that byte. What else an
encoding lacks is escaped, as with ``backslashreplace``."""


def _exact_names(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.encoding.replace("-", "").lower() == "utf8":
        with suppress(UnicodeEncodeError):
            return codecs.lookup_error("surrogateescape")(error)
    return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(EXACT_NAMES, _exact_names)


@contextmanager
def exact_names() -> Iterator[None]:
    """Inside, standard output writes names byte for byte where it is UTF-8 and no terminal."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        yield
        return
    before = stream.errors or "strict"
    stream.reconfigure(errors=EXACT_NAMES)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it flushes; what it cannot write has been said
            stream.reconfigure(errors=before)


def prepare_streams() -> None:
    """Makes standard output and error take any text, and be there at all.

    A character that the console's encoding lacks is printed as ``\\u4e2d`` (and a byte of a name that is not UTF-8 as
    ``\\udc80``) where Python would raise. A stream that the process was started without (``>&-``, a service, pythonw)
    is replaced by one that goes nowhere. Idempotent.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123 - for the process's life
            if stream.fileno() <= 2:  # the free number that was missing: children are started with it, too
                os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """A line to standard error, lost where nobody can take it: a command's exit code does not depend on its words."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # full, gone, closed
        _drop(sys.stderr)


def print_rows(header: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> None:
    """A table to standard output, as wide as it needs to be where that is no terminal.

    Args:
        header: names of the columns.
        lines: the cells, shown as :func:`~lightning_cifake.text.printable` has them.
        words: so many columns are words, which begin at the left; figures end at the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*header, box=box.SIMPLE, pad_edge=False)
    for column in made.columns[words:]:
        column.justify = "right"
    for line in lines:
        made.add_row(*(Text(printable(cell)) for cell in line))
    Console(width=None if sys.stdout.isatty() else 10_000).print(made)


def is_of_output(error: OSError) -> bool:
    """Whether standard output raised this: it takes nothing more (its reader is gone, its disk is full).

    The system does not tell where a write without a file's name went. What was buffered fails again; an unbuffered
    stream is asked with an empty line.
    """
    if error.filename is not None:
        return False
    try:
        sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as again:
        return again.errno == error.errno
    except ValueError:  # closed
        return False
    return False


def drop_output() -> None:
    """What standard output holds and could not write goes nowhere."""
    _drop(sys.stdout)


def _drop(stream: TextIO) -> None:
    # Python's last flush would complain of it again, and make the exit code 120
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
