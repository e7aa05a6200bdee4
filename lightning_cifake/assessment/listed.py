"""Images that a CSV lists: a column of paths, one of labels, and where there is one, of generators."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lightning_cifake.data.decode import Origin
from lightning_cifake.data.layout import Entry
from lightning_cifake.data.sources import Source, stamp
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_bounded
from lightning_cifake.text import printable, reason_of

MAX_BYTES = 2**28  # of a CSV: some two million rows
_NAMED = 8  # labels that a message names


def is_csv(root: str) -> bool:
    """Whether a CSV is meant, by its name; a folder of such a name is one."""
    return root.lower().endswith(".csv") and not Path(root).is_dir()


def listed_images(path: Path, labels: Mapping[str, int]) -> tuple[Origin, dict[str, str]]:
    """What a CSV lists, to be decoded, and each path's generator, "" for none.

    The first row names the columns: ``path`` and ``label``, perhaps ``generator``, others are passed over. Paths are
    relative to the CSV's folder, or absolute. A file that is not there is an image that cannot be read.

    Args:
        path: the CSV, UTF-8 with or without a mark, as spreadsheets write it.
        labels: label in small letters -> FAKE (0) or REAL (1).

    Raises:
        UserError: it cannot be read, lacks a column, lists nothing or an image twice, or has labels that are not known.
    """
    shown = printable(path)
    entries: list[Entry] = []
    generators: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for number, row in _rows(path):
        name, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        if not name or "\0" in name:
            raise UserError(f"{shown}, row {number}: expected a path, got {printable(name) or 'nothing'}")
        if name in generators:
            raise UserError(f"{shown}, row {number}: expected each image once, got {printable(name)} again")
        generators[name] = (row.get("generator") or "").strip()
        if (known := labels.get(label.casefold())) is None:
            unknown[label] += 1
        else:
            entries.append(Entry(name, known, "", 0))
    if unknown:
        raise UserError(f"{shown}: expected the labels FAKE and REAL, got {_described(unknown)}; {_hint(unknown)}")
    if not entries:
        raise UserError(f"{shown} lists no images")

    def key() -> str:
        digest = hashlib.sha256(_read(path) + str(path.parent.absolute()).encode(errors="surrogateescape"))
        for entry in entries:
            digest.update(f"{stamp(str(path.parent / entry.path))}\0{entry.label}\0".encode(errors="surrogateescape"))
        return f"csv {digest.hexdigest()}"

    source = Source(path.parent, entries, {entry.path: entry.path for entry in entries})
    return Origin(str(path), key(), lambda: source, key, both_classes=False), generators


def _rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    """The rows by their columns' names in small letters, numbered as a spreadsheet does."""
    shown = printable(path)
    try:
        rows = list(csv.reader(io.StringIO(_read(path).decode("utf-8-sig", errors="surrogateescape"), newline="")))
    except csv.Error as error:
        raise UserError(f"{shown} is no CSV: {reason_of(error)}") from error
    columns = [name.strip().casefold() for name in rows[0]] if rows else []
    for wanted in ("path", "label"):
        if columns.count(wanted) != 1:
            got = ", ".join(map(printable, columns[:_NAMED])) or "nothing"
            raise UserError(f"{shown}: expected a first row that names the columns path and label, got {got}")
    width = len(columns)
    padded = [(number, row + [""] * (width - len(row))) for number, row in enumerate(rows[1:], 2) if any(row)]
    return [(number, dict(zip(columns, row[:width], strict=True))) for number, row in padded]


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {printable(path)}: {reason_of(error)}") from error


def _described(unknown: Counter[str]) -> str:
    most = [f"{printable(label) or 'an empty one'} ({count:,})" for label, count in unknown.most_common(_NAMED)]
    rest = len(unknown) - len(most)
    return ", ".join([*most, f"and {rest:,} more"] if rest else most)


def _hint(unknown: Counter[str]) -> str:
    names = [label for label, _ in unknown.most_common(2) if label]
    if len(names) < 2 or any(letter in name for name in names for letter in ",="):
        names = ["ai", "photo"]
    fake, real = map(printable, names)
    return f"say which is which, as --labels {fake}=FAKE,{real}=REAL, or the other way round"
