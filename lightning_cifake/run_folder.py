"""A run's folder: the names of its files, who may write into it, and what is read back from its configuration."""

import hashlib
import logging
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.files import FileLock, read_bounded, remove_abandoned, write_whole
from lightning_cifake.hub import CALIBRATION
from lightning_cifake.migration import migrate_config
from lightning_cifake.text import printable, reason_of
from lightning_cifake.yaml_file import MAX_BYTES, parse_yaml

log = logging.getLogger(__name__)

RUNS = Path("checkpoints")  # runs go to checkpoints/<name>/<number>
BEST, LAST = "best", "last"
BEST_FILE, LAST_FILE = f"{BEST}.ckpt", f"{LAST}.ckpt"
CONFIG, SPLIT, METRICS, HISTORY = "config.yaml", "split.json", "metrics.json", "history.csv"
REPORT, PREDICTIONS = "classification_report.txt", "predictions.csv"
PARTS = "parts.csv"
HISTORY_PICTURE, CONFUSION, ROC = "history.png", "confusion_matrix.png", "roc.png"
PAGE = "report.html"
LOCK = ".lock"

RUN_FILES = (
    BEST_FILE, LAST_FILE, CONFIG, SPLIT, METRICS, HISTORY, HISTORY_PICTURE, REPORT, PREDICTIONS, PARTS,
    CONFUSION, ROC, PAGE, f"{BEST_FILE}{CALIBRATION}", f"{LAST_FILE}{CALIBRATION}",
)  # fmt: skip
"""What a run leaves, but for its loggers' folders; ``--overwrite`` removes these and nothing else."""


class RunFolder:
    """The folder that a run writes to: chosen early, claimed as late as can be, by one process at a time.

    Args:
        path: the folder; for ``numbered`` ones the one that is likely to be free.
        numbered: the next number is taken where another process took this one first.
        resumed: a run is resumed in it; else one that holds a run already is refused.
        overwrite: the files of the run that it holds are removed as it is claimed.
    """

    def __init__(self, path: Path, numbered: bool = False, resumed: bool = False, overwrite: bool = False) -> None:
        self.path = path
        self.numbered, self.resumed, self.overwrite = numbered, resumed, overwrite
        self._lock: FileLock | None = None
        self._made: list[Path] = []  # folders, outermost first
        self._before: dict[str, bytes | None] = {}  # what files that a run begins with held

    def check(self) -> None:
        """Refuses a folder that cannot be had, before anything is written. :meth:`claim` asks again.

        Raises:
            UserError: it holds a run.
        """
        if self.numbered or self.resumed or self.overwrite:
            return
        held = files_of_run(self.path)
        if held:
            shown = printable(self.path)
            resume = (
                f"resume it (fit --ckpt_path {printable(self.path / LAST_FILE)}), "
                if self.path / LAST_FILE in held
                else ""
            )
            raise UserError(
                f"{shown} holds a run already ({', '.join(path.name for path in held[:3])}): {resume}"
                "name another --output_dir, or give --overwrite to remove it and train anew in its place"
            )

    def claim(self) -> None:
        """Makes the folder where it is missing, and locks it until :meth:`release` or the process's end.

        Raises:
            UserError: it holds a run, or another process is using it.
            OSError: it cannot be made.
        """
        if self.numbered:
            self._make_numbered()
        else:
            self._made = [path for path in (self.path, *self.path.parents) if not path.exists()][::-1]
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        if not lock.acquire():
            raise UserError(
                f"{printable(self.path)} is in use by another process that writes into it: wait for its end, or name "
                "another folder with --output_dir"
            )
        self._lock = lock
        remove_abandoned(self.path)  # a killed run's half-written checkpoints: hundreds of MB each
        self._before = {name: _content(self.path / name) for name in (CONFIG, SPLIT)}
        try:
            self.check()
        except UserError:
            self.release()
            raise
        if self.overwrite and not self.resumed:
            for path in files_of_run(self.path):
                path.unlink()

    def _make_numbered(self) -> None:
        """By mkdir, which succeeds in one of the processes that ask for the same number."""
        runs = self.path.parent
        self._made = [path for path in (runs, *runs.parents) if not path.exists()][::-1]
        while True:
            runs.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir()
                break
            except FileExistsError:
                self.path = next_number(runs)
            except FileNotFoundError:  # another process gave its folder back, and this one with it
                continue
        self._made.append(self.path)

    def give_back(self) -> None:
        """Undoes what a run that never reached its first step has done.

        Removes the folder that :meth:`claim` made, with those above it, where no checkpoint has been written; in one
        that was there its configuration and split are as they were.
        """
        if self._lock is None:
            return
        if self.path not in self._made:
            self._put_back()
            return
        if any((self.path / name).exists() for name in (BEST_FILE, LAST_FILE)):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()
        for folder in reversed(self._made[: self._made.index(self.path)]):
            try:
                folder.rmdir()
            except OSError:  # another run is in it
                break

    def _put_back(self) -> None:
        if self.overwrite and not self.resumed:  # what was there is gone
            return
        for name, content in self._before.items():
            if content is None:
                (self.path / name).unlink(missing_ok=True)
            else:
                write_whole(self.path / name, content)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release(remove=True)
            self._lock = None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def files_of_run(path: Path) -> list[Path]:
    """What a run has left in a folder."""
    return [path / name for name in RUN_FILES if (path / name).exists()]


def next_number(runs: Path) -> Path:
    """The first number under ``runs`` that is above every one that is taken."""
    taken = [int(path.name) for path in runs.glob("*") if path.name.isascii() and path.name.isdecimal()]
    return runs / str(max(taken, default=0) + 1)


# What is read back from a run's config.yaml: names and plain values, nothing that could name a class to import.

_HEADER = (
    "# What this run was started with. Resuming it reads this again; to change it, name it: --config config.yaml\n"
)
_SEAL = re.compile(rb"\A(?:#[^\n]*\n)?# sha256: ([0-9a-f]{64})\n")
CLASSES_OF_MODEL = ("network", "optimizer", "scheduler", "loss")
_SECTIONS = ("data", "model", "trainer")
OF_ONE_COMMAND = (
    "ckpt_path", "output_dir", "overwrite", "new_data", "weights_only", "config", "verbose", "experiments",
    "prediction",
)  # fmt: skip
_WORDS_OF_TRAINER = frozenset(
    (
        "accelerator", "strategy", "devices", "num_nodes", "precision", "max_time", "limit_train_batches",
        "limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval", "gradient_clip_algorithm",
        "deterministic", "default_root_dir",
    )
)  # fmt: skip
"""Arguments of the Trainer that may be words or lists; numbers name no code, whichever they are of."""
_WORD = re.compile(r"[\w:,+-]*", re.ASCII)  # no dots: no path of a class


class RunConfig(NamedTuple):
    """``values``: seed_everything, patience, ..., and the sections data, model and trainer. ``sealed``: unchanged since
    it was written; False where it carries no digest."""

    path: Path
    values: dict[str, Any]
    sealed: bool


def newest_checkpoints(runs: Path = RUNS) -> list[Path]:
    """Every run's ``best.ckpt``, the one that was written last first."""
    return sorted(runs.glob(f"*/*/{BEST_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)


def newest_checkpoint(runs: Path = RUNS) -> Path:
    """The ``best.ckpt`` that was written last.

    Raises:
        UserError: there is none.
    """
    found = newest_checkpoints(runs)
    if not found:
        raise UserError(
            f"no checkpoint given, and none found under {runs}/: give --ckpt_path FILE, or train one with fit"
        )
    log.info("checkpoint: %s (the newest; name another with --ckpt_path)", printable(found[0]))
    return found[0]


def sealed_config(text: str) -> str:
    """A run's configuration with a comment that holds its digest, for :func:`read_config`."""
    return f"{_HEADER}# sha256: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def read_config(folder: Path, sections: tuple[str, ...] = _SECTIONS) -> RunConfig | None:
    """The configuration in a run's folder; None without one. Nothing that it says is imported.

    Args:
        folder: the run's.
        sections: which of its sections are wanted; the others are not looked at.

    Raises:
        UserError: it cannot be read, was changed, or names classes. One line, with what to do.
    """
    path = folder / CONFIG
    shown = printable(path)
    if not path.exists():
        return None
    try:
        try:
            content = read_bounded(path, MAX_BYTES)
        except (OSError, ValueError) as error:
            raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
        sealed = _is_sealed(content, shown)
        values = migrate_config(_plain_values(parse_yaml(content, shown), shown, sections))
    except UserError as error:
        raise UserError(f"{error}; to take it as it is, name it: --config {shown}; or name another") from error
    if not sealed:
        log.warning("%s carries no digest: that it is as it was written is not checked", shown)
    return RunConfig(path, values, sealed)


def _is_sealed(content: bytes, shown: str) -> bool:
    seal = _SEAL.match(content)
    if seal is None:
        if b"sha256" in content[:300]:
            raise UserError(f"{shown} is damaged: its digest cannot be read")
        return False
    if hashlib.sha256(content[seal.end() :]).hexdigest().encode() != seal[1]:
        raise UserError(f"{shown} is not what the run wrote: it was changed, or is damaged")
    return True


def _plain_values(content: dict[str, Any], shown: str, sections: tuple[str, ...]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if name in _SECTIONS:
            if name in sections:
                kept[name] = _section(name, value, shown)
        elif name in OF_ONE_COMMAND or sections != _SECTIONS:
            continue
        elif isinstance(value, bool | int | float):  # seed_everything, patience, ...
            kept[name] = value
        elif value is not None:
            raise _names_more(shown, name, value)
    return kept


def _section(section: str, content: Any, shown: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{shown}: expected names and values under {section}, got {type(content).__name__}")
    if "class_path" in content:
        raise _names_more(shown, section, content)
    if section == "model":  # what names a class is the checkpoint's to say
        content = {name: value for name, value in content.items() if name not in CLASSES_OF_MODEL}
    if section != "trainer":
        return {name: _plain(f"{section}.{name}", value, shown) for name, value in content.items()}
    kept = {}
    for name, value in content.items():
        full = f"trainer.{name}"
        known = name in _WORDS_OF_TRAINER or isinstance(value, bool | int | float)
        if not known and value not in (None, [], {}):
            raise _names_more(shown, full, value)
        if not known:
            continue
        if isinstance(value, str) and name != "default_root_dir" and not _WORD.fullmatch(value):
            raise _names_more(shown, full, value)
        kept[name] = _plain(full, value, shown)
    return kept


def _plain(name: str, value: Any, shown: str) -> Any:
    """A value that is none of a class: a scalar, or a flat list or mapping of scalars."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    plain = all(part is None or isinstance(part, bool | int | float | str) for part in parts)
    if not plain or (isinstance(value, dict) and {"class_path", "init_args", "dict_kwargs"} & value.keys()):
        raise _names_more(shown, name, value)
    return value


def _names_more(shown: str, name: str, value: Any) -> UserError:
    what = printable(value)
    return UserError(
        f"{shown} says {printable(name)}: {what[:60]}{'...' if len(what) > 60 else ''}, which is more than the plain "
        "values that are read back without being asked for (it may name code to import)"
    )
