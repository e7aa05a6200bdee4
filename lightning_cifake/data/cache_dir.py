"""Where decoded images are kept where no folder is named: also for a user without a home.

By hand: platformdirs gives the folder's name, and does not say whether this user can write there.
"""

import logging
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

_NAME_ANOTHER = "name a folder of your own with --data.cache_dir, or $LIGHTNING_CIFAKE_CACHE"


def default_cache_dir() -> Path:
    """``$LIGHTNING_CIFAKE_CACHE``, or ``lightning_cifake`` in the user's cache folder, which need not exist yet.

    A user without a home, or with one that cannot be written (a container under another user id), gets a folder in the
    system's temporary one, which is this user's alone.

    Raises:
        UserError: there is no such place either, or somebody else has it.
    """
    if named := os.environ.get("LIGHTNING_CIFAKE_CACHE"):
        return expand_user(named)
    return _in_home() or _temporary()


def work_without_home() -> None:
    """Where there is no home to write to, gives other libraries a place beside ours, unless one is named.

    Matplotlib would warn, and make a new folder each time; torch would keep what it fetches in a folder named ``~``.
    """
    if _in_home() is not None:
        return
    with suppress(UserError):
        folder = default_cache_dir()
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
        os.environ.setdefault("TORCH_HOME", str(folder / "torch"))
        os.environ.setdefault("KERAS_HOME", str(folder / "keras"))


def _in_home() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():  # the specification: relative paths are to be ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # no HOME, and a user id that the system does not know
            return None
    folder = Path(base) / "lightning_cifake"
    return folder if folder.is_absolute() and _usable(folder) else None


def _usable(folder: Path) -> bool:
    """Whether a folder is there, or can be made."""
    try:
        if folder.is_dir():
            return os.access(folder, os.R_OK | os.X_OK)  # a cache that others have filled may be read
        above = next(each for each in folder.parents if each.exists())
        return above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except OSError:
        return False


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"lightning_cifake-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()  # not a link that somebody else has put there
    except OSError as error:
        raise UserError(
            f"there is no home folder to keep decoded images in, nor a temporary one ({reason_of(error)}): "
            f"{_NAME_ANOTHER}"
        ) from error
    foreign = hasattr(os, "getuid") and (found.st_uid != user or found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or foreign:
        raise UserError(
            f"there is no home folder to keep decoded images in, and {printable(folder)} is not this user's alone: "
            f"{_NAME_ANOTHER}"
        )
    _say(folder)
    return folder


@cache
def _say(folder: Path) -> None:
    log.info("there is no home folder: decoded images are kept in %s", printable(folder))
