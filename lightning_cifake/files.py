"""Files: written whole or not at all, locked while in use, and known by what they hold."""

import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and no temporary of another process is ever removed
    fcntl = None  # type: ignore[assignment]

MAX_JSON_BYTES = 64 * 2**20  # CIFAKE's split.json of 120,000 paths takes 4 MB
_DIGEST = "sha256"  # the key that a JSON file of ours carries its own digest under
_LOCK = "lock"
_LONGEST_STEM = 200  # bytes; most systems allow 255 in a name
_HALF_MADE = 3600.0  # seconds after which a temporary without its lock file is taken for abandoned


def expand_user(path: Path | str) -> Path:
    """A path as its user means it: ``~`` at its beginning is the home folder, unless there is a file of that name.

    Shells do this, but not behind ``--flag=``, in a configuration or in a variable. Without a home it stays as it is.
    """
    if not str(path).startswith("~") or os.path.lexists(path):  # the text as given: a Path makes ~/a of ./~/a
        return Path(path)
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or one without a home
        return path


def public_name(path: Path | str) -> str:
    """A path's last part: results and checkpoints are often published, and a home folder should not be."""
    path = expand_user(path)
    return path.name or path.resolve().name


def public_words(words: Iterable[str]) -> list[str]:
    """A command line to be published: of whole paths the last part, behind ``--flag=`` too."""
    found = []
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        found.append(f"{flag}{equals}{public_name(value)}" if value.startswith(("/", "~")) else word)
    return found


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, in a folder that is made where missing, whole or not at all; text as UTF-8.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    # surrogateescape: names of files that are not UTF-8 come back as the bytes they were
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {reason_of(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, of the same name and on the same disk, that takes ``path``'s place when the block ends well.

    The folder is made where it is missing. What is written is synced to the disk before it gets its name. Where the
    block raises, what was at ``path`` before is untouched and the temporary goes. What a killed process left behind is
    removed by the next one that writes the same ``path``.

    Raises:
        OSError: of the system, unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        temporary.replace(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into that takes ``path``'s place, and that of a folder there, when the block ends well.

    As :func:`replacing` does for a file: where the block raises, what was at ``path`` is untouched.

    Raises:
        OSError: of the system, unchanged.
    """
    path = path.resolve()  # behind a link: the folder goes, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, path.name) as folder:
        made, before = folder / "made", folder / "before"
        made.mkdir()
        yield made
        for each in made.rglob("*"):
            _sync(each)
        try:
            if path.is_dir():
                path.rename(before)
            made.rename(path)
        except BaseException:  # a signal between the two
            if before.is_dir() and not path.exists():
                before.rename(path)
            raise


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing with those above it; each that was made goes again if it ends up empty.

    Raises:
        OSError: of the system, unchanged.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in missing:
            with suppress(OSError):  # not empty
                each.rmdir()


@contextmanager
def output_folder(folder: Path, flag: str = "--output") -> Iterator[None]:
    """:func:`made_folder` for what a user names: what is wrong with it is said before any work is done.

    Raises:
        UserError: it is a file, cannot be made, or nothing can be written to it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}: expected a folder, got the file {printable(folder)}")
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
        except OSError as error:
            raise UserError(f"{flag}: cannot make {printable(folder)}: {reason_of(error)}") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"{flag}: nothing can be written to {printable(folder)}")
        yield


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder ``parent/.<name>.<random>.tmp`` that goes when the block ends, however it ends.

    It holds a lock for as long as this process lives, so that a later call with the same ``parent`` and ``name`` can
    tell the folders of killed processes, and remove them, from those of living ones, also of other machines and
    containers that share the disk.
    """
    remove_abandoned(parent, name)
    folder = Path(tempfile.mkdtemp(prefix=f".{_stem(name)}.", suffix=".tmp", dir=parent))
    descriptor = None
    try:
        # locked before it has its name: no process can meet the lock file unlocked
        being_made = folder / f"{_LOCK}.new"
        descriptor = os.open(being_made, os.O_RDWR | os.O_CREAT, 0o600)
        _try_lock(descriptor)
        being_made.rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(parent: Path, name: str | None = None) -> list[Path]:
    """Removes the temporaries for ``parent/name`` of processes that are dead; returns them. Never a living one's.

    Without a name, those of every file in ``parent``.
    """
    if fcntl is None:
        return []
    removed = []
    for folder in parent.glob(f".{'*' if name is None else glob.escape(_stem(name))}.*.tmp"):
        if folder.is_dir() and not folder.is_symlink() and _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _stem(name: str) -> str:
    """What a temporary's name begins with: the target's, where that leaves room for the rest."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_STEM else hashlib.sha256(encoded).hexdigest()[:32]


def _abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        with suppress(OSError):
            return time.time() - folder.stat().st_mtime > _HALF_MADE
        return False
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Locks an open file for this process, without waiting; False where another one holds it, or locks do not exist."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class FileLock:
    """An exclusive lock on a file, which is made where missing, until :meth:`release` or the process's end.

    The system gives it back when the process dies, however it dies. Where the system or the disk knows no locks,
    :meth:`acquire` always succeeds. By hand: inference locks with it too, and should need no package more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock without waiting; False where another process holds it.

        Raises:
            OSError: the file cannot be made or opened.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    os.close(descriptor)
                    return False
                # a disk that knows no locks: better unlocked than not at all
            if self._is_there(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # its last holder removed it in between: what was locked is no file any more

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self, remove: bool = False) -> None:
        """Gives the lock back; with ``remove`` the file goes, before anybody else can hold it."""
        if self._descriptor is not None:
            if remove:
                with suppress(OSError):
                    self.path.unlink()
            if fcntl is not None:  # said, not left to close: a child that was forked has the file open too
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock on a file, which is made for it and goes with it; waits for as long as another process has it.

    Args:
        path: of the lock file.
        on_wait: called once, before the first wait: to say what for.

    Raises:
        OSError: the lock file cannot be made.
    """
    lock = FileLock(path)
    announced = False
    while not lock.acquire():
        if not announced:
            on_wait()
            announced = True
        time.sleep(0.2)
    try:
        yield
    finally:
        lock.release(remove=True)


def _sync(path: Path) -> None:
    """To the disk, so that a power cut leaves the old file or the new one under the name, never half of one."""
    if not path.is_file():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> bytes:
    """A file's content, refused by its size before any of it is read.

    Raises:
        OSError: it cannot be read; it is no regular file.
        ValueError: it has more than ``limit`` bytes.
    """
    # without waiting: a pipe in a file's place would never end
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        if found.st_size > limit:
            raise ValueError(f"{found.st_size:,} bytes: expected at most {limit:,}")
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew
        raise ValueError(f"more than {limit:,} bytes: expected at most {limit:,}")
    return content


def json_digest(content: dict[str, Any]) -> str:
    """Hex SHA-256 of what a JSON object says, whatever its layout; its own digest left out."""
    said = {key: value for key, value in content.items() if key != _DIGEST}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sealed_json(content: dict[str, Any], indent: int | None = 2) -> str:
    """JSON that carries its own digest, which :func:`read_json` checks.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON cannot say.
    """
    return json.dumps({**content, _DIGEST: json_digest(content)}, indent=indent, allow_nan=False) + "\n"


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> tuple[dict[str, Any], bool]:
    """A JSON object from a file, without its digest, and whether it carried one: True where every byte was checked.

    Raises:
        UserError: no such file, too large, not JSON, not an object, or changed since it was written. One line, which
            begins with the path.
    """
    shown = printable(path)
    try:
        text = read_bounded(path, limit).decode("utf-8")
        content = json.loads(text, object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown} is damaged, or no JSON: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown}: expected a JSON object, got {type(content).__name__}")
    expected = content.pop(_DIGEST, None)
    if expected is not None and expected != json_digest(content):
        raise UserError(f"{shown} is damaged: it is not what was written (its SHA-256 does not fit)")
    return content, expected is not None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands in it twice")
    return content
