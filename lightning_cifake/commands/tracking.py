"""A progress bar for what shows none by itself: rows that go elsewhere than to the terminal, or none at all."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def tracked(rows: Iterable[T], total: int | None, what: str = "images", silent: bool = False) -> Iterator[T]:
    """The same rows, counted on standard error; without a bar where lines on a terminal are progress enough.

    Args:
        rows: one an image.
        total: None where it is not known.
        what: they are.
        silent: nothing is printed while they come.
    """
    if total == 1 or not sys.stderr.isatty() or (sys.stdout.isatty() and not silent):
        yield from rows
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (MofNCompleteColumn(), TextColumn(what), BarColumn(), TimeElapsedColumn())
    # rich takes standard output for itself while it draws: the rows would go to the terminal, and not where they belong
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False) as progress:
        yield from progress.track(rows, total=total)
