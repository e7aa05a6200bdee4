"""Which images are meant: files, folders, globs, and lists of paths."""

import codecs
import fnmatch
import glob
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.data.image_names import image_suffixes, is_hidden, is_image_name, suffix_of, walk
from lightning_cifake.deploy.load import Loaded
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.text import printable, reason_of, shorten

STDIN = "-"
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def find_images(patterns: Sequence[str], passed_over: Counter[str] | None = None) -> Iterator[Path | Loaded]:
    """Files as given, the images below folders, and what globs match; sorted within each, none twice.

    Below a folder the rule is that of training (:mod:`~lightning_cifake.data.image_names`): links are followed but in a
    loop, hidden files passed over. Each folder is listed once, and nothing is kept of it once its images have been
    given. A file given by name, or matched by a glob, is taken whatever its name is.

    Args:
        passed_over: counts the files below folders that are not named like images, by their suffix. Where it is given,
            a folder inside one that was named, which cannot be read, comes as an image with that error.

    Raises:
        UserError: something given does not exist, has no images, or matches nothing: raised at the call, before any
            image; or a folder that cannot be read.
    """
    for pattern in patterns:
        _require(pattern)
    return _found(patterns, Counter() if passed_over is None else passed_over, passed_over is None)


def _require(pattern: str) -> None:
    try:
        os.stat(pattern)  # noqa: PTH116 - Path would say "no folder" of one that may not be looked at
    except (FileNotFoundError, NotADirectoryError):
        pass  # a glob, or nothing
    except OSError as error:
        if not os.path.lexists(pattern):  # a link to itself will be an image with its error
            raise UserError(f"cannot read {printable(shorten(pattern))}: {reason_of(error)}") from error
    path = Path(pattern)
    if os.path.isdir(path):  # noqa: PTH112
        if not _any_image(path, frozenset()):
            raise UserError(
                f"{printable(pattern)} has no images in it: expected files that end in {' '.join(image_suffixes())}"
            )
    elif not os.path.lexists(path) and next(_glob(pattern), None) is None:
        raise UserError(
            f"{printable(pattern)} is no file, no folder, and matches nothing: expected files that end in "
            f"{' '.join(image_suffixes())}"
        )


def _any_image(folder: Path, above: frozenset[tuple[int, int]]) -> bool:
    """Whether an image lies below: as soon as the first is met, in any order."""
    try:
        stat = folder.stat()
        if (here := (stat.st_dev, stat.st_ino)) in above:
            return False
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if os.path.isdir(entry.path):  # noqa: PTH112
                    folders.append(Path(entry.path))
                elif is_image_name(entry.name):
                    return True
    except OSError as error:
        if above:  # it will come as an image with this error
            return True
        raise UserError(f"cannot read the folder {printable(folder)}: {reason_of(error)}") from error
    return any(_any_image(each, above | {here}) for each in folders)


def _found(patterns: Sequence[str], passed_over: Counter[str], strict: bool) -> Iterator[Path | Loaded]:
    single: set[str] = set()  # files given by name or glob
    folders: set[str] = set()  # those that have been listed whole
    for pattern in patterns:
        path = Path(pattern)
        if os.path.isdir(path):  # noqa: PTH112
            yield from _below(path, single, folders, passed_over, strict)
            continue
        for each in [path] if os.path.lexists(path) else _sorted_glob(pattern):
            name = str(each)
            listed = str(each.parent) in folders and is_image_name(each.name) and not is_hidden(each.name)
            if not listed and name not in single:
                if len(patterns) > 1:
                    single.add(name)
                yield each


def _below(
    top: Path, single: set[str], folders: set[str], passed_over: Counter[str], strict: bool
) -> Iterator[Path | Loaded]:
    problems: list[tuple[str, OSError]] = []
    before, current, new = frozenset(folders), None, True
    for relative, path in walk(top, None if strict else lambda path, error: problems.append((path, error))):
        if problems:
            yield from _unreadable(problems)
        name = relative.rpartition("/")[2]
        folder = path[: -len(name) - 1]
        if folder != current:
            current, new = folder, folder not in before
            folders.add(folder)
        if not new:
            continue
        if not is_image_name(name):
            passed_over[suffix_of(name)] += 1
        else:
            each = Path(path)
            if not single or str(each) not in single:
                yield each
    yield from _unreadable(problems)


def _unreadable(problems: list[tuple[str, OSError]]) -> Iterator[Loaded]:
    while problems:
        path, error = problems.pop(0)
        yield Loaded(path, None, f"cannot read the folder: {reason_of(error)}")


def _sorted_glob(pattern: str) -> list[Path]:
    return sorted(_glob(pattern), key=str)


def _glob(pattern: str) -> Iterator[Path]:
    """The files that a pattern matches; ``**`` stands for any folders, hidden ones and loops of links left out."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from (Path(name) for name in glob.iglob(pattern) if os.path.isfile(name))  # noqa: PTH113, PTH207
        return
    # not glob's own **, which goes round in a loop of links, twice as often with each further one
    at = parts.index("**")
    base = str(Path(*parts[:at])) if at else "."
    for folder in sorted(glob.glob(base)):  # noqa: PTH207
        if os.path.isdir(folder):  # noqa: PTH112
            for relative, path in walk(folder):
                if _fits(relative.split("/"), parts[at:]) and os.path.isfile(path):  # noqa: PTH113
                    yield Path(folder) / relative if at else Path(relative)


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        rest = patterns[1:]
        return not rest or any(_fits(names[skipped:], rest) for skipped in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def read_paths(listing: str) -> Iterator[Path]:
    """The paths in a file, one a line; ``-``: those on standard input, as they come.

    UTF-8, with a byte-order mark or without, or UTF-16, as Windows writes lists; lines end as on Linux or on Windows.
    Bytes that are not UTF-8 stand for themselves.

    Raises:
        UserError: the file cannot be read: at the call; or it is not UTF-16 to its end.
    """
    if listing == STDIN:
        return _lines(getattr(sys.stdin, "buffer", sys.stdin), "standard input")
    path = expand_user(listing)
    try:
        if path.is_file() or not path.exists() or path.is_dir():
            path.open("rb").close()  # a pipe (`--paths_from <(find ...)`) can be opened once only
    except (OSError, ValueError) as error:
        raise _unreadable_list(printable(listing), error) from error
    return _lines_of(path)


def _lines_of(path: Path) -> Iterator[Path]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable_list(printable(path), error) from error
    with file:
        yield from _lines(file, printable(path))


def _unreadable_list(shown: str, error: Exception) -> UserError:
    return UserError(f"cannot read the paths in {shown}: {reason_of(error)}")


def _lines(file: Any, shown: str) -> Iterator[Path]:
    if not isinstance(file, io.BufferedIOBase):  # a text stream in standard input's place
        yield from (Path(line.rstrip("\n")) for line in file if line.strip())
        return
    encoding, errors = _encoding(file)
    text = io.TextIOWrapper(file, encoding, errors, newline="\n")  # type: ignore[type-var]
    try:
        while line := _next_line(text, shown):
            name = line.removesuffix("\n")
            if name.endswith("\r") and not os.path.lexists(name):
                name = name[:-1]
            if name.strip():
                yield Path(name)
    finally:
        text.detach()  # it would close standard input as it goes


def _next_line(text: "io.TextIOWrapper[Any]", shown: str) -> str:
    try:
        return text.readline()
    except UnicodeError as error:
        raise UserError(f"cannot read the paths in {shown}: it begins as UTF-16 and continues otherwise") from error
    except OSError as error:
        raise _unreadable_list(shown, error) from error


def _encoding(file: Any) -> tuple[str, str]:
    """How a list is written, by its first bytes; and what to do with others."""
    peek = getattr(file, "peek", None)
    start: bytes = peek(4) if peek else b""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding, "strict" if encoding == "utf-16" else "surrogateescape"
    # without a mark: of the first two letters, which are a drive's, a dot or the like, every other byte is 0
    zeros = [byte == 0 for byte in start[:4]]
    if zeros == [False, True] * 2:
        return "utf-16-le", "strict"
    if zeros == [True, False] * 2:
        return "utf-16-be", "strict"
    return "utf-8", "surrogateescape"
