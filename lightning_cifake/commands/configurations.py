"""The configurations that are shipped: what ``--config NAME`` means."""

from pathlib import Path

from lightning_cifake.console import say
from lightning_cifake.errors import UserError
from lightning_cifake.machine import is_first_process
from lightning_cifake.shipped import config_dir
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable


def shipped_configs() -> list[str]:
    """Their names, those of a sub-folder as ``networks/NAME``, behind the others."""
    found = [path.relative_to(config_dir()).with_suffix("") for path in config_dir().rglob("*.yaml")]
    return [path.as_posix() for path in sorted(found, key=lambda path: (len(path.parts), path))]


def find_config(value: str) -> Path:
    """A file as it is, or the shipped configuration of that name.

    Raises:
        UserError: there is neither.
    """
    path = Path(value)
    if path.is_file():
        return path
    names = shipped_configs()
    if value in names:
        return config_dir() / f"{value}.yaml"
    raise UserError(
        f"--config: expected a YAML file or one of {', '.join(names)}, got {printable(value) or 'nothing'}"
        f"{did_you_mean(value, names)}"
    )


def note_hidden(value: str) -> None:
    """Says so where a file of the user's own has the name of a shipped configuration."""
    if value in shipped_configs() and Path(value).is_file():
        note(f"config: the file {value} that is here, not the shipped configuration of that name")


def note(line: str) -> None:
    """To standard error, once where several processes run the same command."""
    if is_first_process():
        say(line)
