"""What Lightning and its parser refuse, as one line that says what was expected and what it got."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_cifake.errors import UserError
from lightning_cifake.parser_messages import parser_reason
from lightning_cifake.text import printable, reason_of

_JUDGES = {"lightning", "lightning_fabric", "jsonargparse", "lightning_utilities"}  # packages that look at arguments


@contextmanager
def in_one_line(reported_here: bool = True) -> Iterator[None]:
    """Inside, what Lightning or the parser itself raises becomes a UserError: it refuses an argument.

    What is raised below them, by torch or by this project, passes as it is.
    """
    try:
        yield
    except (ArgumentError, MisconfigurationException) as error:
        raise _with_rank(UserError(parser_reason(error)), reported_here) from error
    except (UserError, OSError, Warning):  # a warning, where the user has made them errors
        raise
    except Exception as error:
        where = _place(error)
        if where is None:
            raise
        said = parser_reason(error)
        # a division by zero says nothing without its place
        shown = said if isinstance(error, ValueError | TypeError | ImportError) else f"{said} ({where})"
        raise _with_rank(UserError(shown), reported_here) from error


def of_restoring(error: Exception) -> bool:
    """Whether it was raised while a checkpoint's state was put back, and not where an argument was looked at."""
    frames = traceback.extract_tb(error.__traceback__)
    return _place(error) is None or any(PurePath(frame.filename).stem == "checkpoint_connector" for frame in frames)


def _with_rank(error: UserError, reported_here: bool) -> UserError:
    error.reported_by_rank_zero = not reported_here
    return error


def _place(error: Exception) -> str | None:
    """``lightning/pytorch/loops/fit_loop.py:296`` where one of the judges raised it itself; None elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    parts = PurePath(frames[-1].filename).parts
    at = next((at for at, part in enumerate(parts) if part in _JUDGES and "site-packages" in parts[:at]), None)
    return None if at is None else f"{'/'.join(parts[at:])}:{frames[-1].lineno}"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def of_the_system(error: OSError, folder: Path) -> str:
    """Blames the run's folder for what it did itself; for anything else the system's words, and the file it names."""
    where = "" if error.filename is None else f": {printable(error.filename)}"
    at = None if error.filename is None else Path(str(error.filename))
    of_the_folder = at is not None and (at == folder or folder in at.parents or at in folder.parents)
    if error.errno in _FULL or of_the_folder:
        return f"cannot write the results: {reason_of(error)}{where or f': {printable(folder)}'}"
    return f"{reason_of(error)}{where}"
