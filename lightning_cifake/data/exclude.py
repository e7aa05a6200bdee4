"""``data.exclude``: a list of images that are left out of every part, as ``audit`` writes one."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightning_cifake.data.decode import ImageSet
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, public_name, read_bounded
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import plural, printable, reason_of

EXCLUDED = "excluded"  # an image's part, in place of train, val or test
COMMENT = "#"
_MAX_BYTES = 2**28  # some seven million names


@dataclass(frozen=True)
class Exclusion:
    """A list of images to leave out.

    Attributes:
        file: its name, without folders.
        names: of the images, relative to the source, each once, by code point.
        sha256: hex digest of the names: the same whatever their order, and whatever is written beside them.
    """

    file: str
    names: tuple[str, ...]
    sha256: str

    def __str__(self) -> str:
        """What is recorded of it, and shown where another list was taken before."""
        return f"{self.file} ({plural(len(self.names), 'image')}, {self.sha256[:12]})"


def read_exclusion(path: Path | str, images: ImageSet) -> Exclusion:
    """Reads a list of names, one a line, as ``split.json`` has them: ``train/FAKE/1000.jpg``.

    Empty lines, and those that begin with ``#``, say nothing. An image that cannot be read, and is left out anyway, may
    be among the names.

    Raises:
        UserError: no such file, not text, or a name that the source does not have. One line.
    """
    path = expand_user(path)
    shown = f"data.exclude: {printable(path)}"
    try:
        text = read_bounded(path, _MAX_BYTES).decode(errors="surrogateescape").removeprefix("\ufeff")
    except FileNotFoundError as error:
        raise UserError(f"{shown} is not there: expected a file with the name of an image on each line") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    if "\0" in text:
        raise UserError(f"{shown}: expected text with the name of an image on each line, got another kind of file")
    known = set(images.paths) | {problem.path for problem in images.problems}
    lines = [line.rstrip("\r") for line in text.split("\n")]
    asked = {line for line in lines if line in known or (line.strip() and not line.lstrip().startswith(COMMENT))}
    if missing := [line for line in dict.fromkeys(lines) if line in asked and line not in known]:
        raise UserError(
            f"{shown} names {plural(len(missing), 'image')} that {printable(images.name)} does not have, first "
            f"{printable(missing[0])}{did_you_mean(missing[0], _alike(missing[0], known))}"
        )
    names = tuple(sorted(asked))
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape"))
    return Exclusion(public_name(path), names, digest.hexdigest())


def _alike(name: str, known: Collection[str]) -> list[str]:
    """Among which the one that was meant is looked for: those called the same elsewhere, or those of its folder."""
    folder, _, last = name.rpartition("/")
    return sorted(each for each in known if each.endswith(f"/{last}")) or sorted(
        each for each in known if each.rpartition("/")[0] == folder
    )


def without(images: ImageSet, exclusion: Exclusion) -> ImageSet:
    """The same images, where those of the list are of no part: no protocol takes them."""
    names = set(exclusion.names)
    left_out = np.array([path in names for path in images.paths])
    return replace(images, parts=np.where(left_out, EXCLUDED, images.parts))
