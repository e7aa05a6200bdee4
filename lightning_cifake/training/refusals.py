"""What Lightning and its parser refuse, as one line that says what was expected and what it got."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of, shorten

_KEY = re.compile(r'(?:Parser key "(?P<key>[^"]*)":)?(?P<rest>.*)', re.DOTALL)
_CLASS = re.compile(
    r"Problem with given class_path '(?P<path>[^']*)':\s*(?P<reason>.*?)(?=\n\s*- |\nGiven value|\Z)", re.S
)
_EXPECTED = re.compile(r"Expected an? (?P<what><class '[^']*'>|typing\.Literal\[[^\]]*\]|[^\n.]+)")
_GOT = re.compile(r"(?:Given value: |Got value: )(?P<value>.*)", re.DOTALL)
_JUDGES = {"lightning", "lightning_fabric", "jsonargparse", "lightning_utilities"}  # packages that look at arguments


@contextmanager
def in_one_line(reported_here: bool = True) -> Iterator[None]:
    """Inside, what Lightning or the parser itself raises becomes a UserError: it refuses an argument.

    What is raised below them, by torch or by this project, passes as it is.
    """
    try:
        yield
    except (ArgumentError, MisconfigurationException) as error:
        raise _told(UserError(parser_reason(error)), reported_here) from error
    except (UserError, OSError, Warning):  # a warning, where the user has made them errors
        raise
    except Exception as error:
        where = _place(error)
        if where is None:
            raise
        said = parser_reason(error)
        # a division by zero says nothing without its place
        shown = said if isinstance(error, ValueError | TypeError | ImportError) else f"{said} ({where})"
        raise _told(UserError(shown), reported_here) from error


def of_restoring(error: Exception) -> bool:
    """Whether it was raised while a checkpoint's state was put back, and not where an argument was looked at."""
    frames = traceback.extract_tb(error.__traceback__)
    return _place(error) is None or any(PurePath(frame.filename).stem == "checkpoint_connector" for frame in frames)


def _told(error: UserError, reported_here: bool) -> UserError:
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


def parser_reason(error: BaseException) -> str:
    """A message of jsonargparse's, which lists every type it tried over several lines, as one short line."""
    text = str(error)
    found = _KEY.match(text)
    key, rest = (found["key"], found["rest"]) if found else (None, text)
    prefix = f"{printable(key)}: " if key else ""
    if made := _CLASS.search(rest):
        return f"{prefix}{printable(made['path'])}: {reason_of(ValueError(made['reason']))}"
    expected, got = _EXPECTED.findall(rest), _GOT.search(rest)
    if key and expected and got:
        # a union of classes also tries a path to a file of arguments: nobody meant that
        what = " or ".join(dict.fromkeys(_plain(one) for one in expected if not one.startswith("path but")))
        return f"{prefix}expected {shorten(what)}, got {shorten(printable(got['value'].strip()), 80)}"
    return reason_of(error)


def _plain(expected: str) -> str:
    if expected.startswith("typing.Literal["):
        return f"one of {expected[len('typing.Literal[') : -1].replace(chr(39), '')}"
    if expected.startswith("dot import path"):
        return "a class as package.module.Class"
    if expected.startswith("<class '"):
        name = expected[len("<class '") : -2].rpartition(".")[2]
        return {
            "NoneType": "null",
            "str": "text",
            "bool": "true or false",
            "float": "a number",
            "int": "a whole number",
        }.get(name, name)
    return printable(expected)
