"""On which versions of the frameworks the ladder was run, and what held: a row for each set of them."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole
from lightning_cifake.text import markdown, printable, reason_of
from parity_tests.claims import FAILS, HOLDS, SKIPPED, Recorded

FILE = "versions.csv"
PACKAGES = ("python", "tensorflow", "keras", "torch", "lightning", "numpy")
COUNTS = ("claims", "hold", "fail", "skipped", "faults", "seen")
COLUMNS = (*PACKAGES, *COUNTS, "date", "processor")


def row_of(recorded: Recorded) -> dict[str, str]:
    """What one run of the tests found, as a row."""
    rows, facts = recorded.rows, recorded.facts
    claims, faults = ([row for row in rows if row.kind == kind] for kind in ("claim", "fault"))
    counts = {
        "claims": len(claims),
        **{name: sum(row.verdict == verdict for row in claims)
           for name, verdict in (("hold", HOLDS), ("fail", FAILS), ("skipped", SKIPPED))},
        "faults": len(faults),
        "seen": sum(row.verdict == HOLDS for row in faults),
    }  # fmt: skip
    versions = {name: facts["versions"].get(name, "") for name in PACKAGES}
    return {
        **versions,
        **{name: str(count) for name, count in counts.items()},
        "date": facts["date"],
        "processor": facts["machine"]["processor"],
    }


def read(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder; none where it has no file of them.

    Raises:
        UserError: the file is not one.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{printable(path)}: expected versions and counts, as CSV ({reason_of(error)})") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise UserError(f"{printable(path)}: expected the columns {', '.join(COLUMNS)}")
    return rows


def record(folder: Path, recorded: Recorded) -> None:
    """Writes a run's row, in the place of an earlier one of the same versions.

    Raises:
        UserError: what is there is no such file, or cannot be written.
    """
    new = row_of(recorded)
    kept = [row for row in read(folder) if any(row[name] != new[name] for name in PACKAGES)]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted([*kept, new], key=_age))
    write_whole(folder / FILE, text.getvalue())


def lines(folder: Path) -> list[str]:
    """The rows of the page's table: its cells with `` | `` between them."""
    return [
        " | ".join(
            [
                *(markdown(row[name]) for name in PACKAGES),
                f"{row['hold']} of {row['claims']}" + (f", {row['skipped']} not measured" * (row["skipped"] != "0")),
                f"{row['seen']} of {row['faults']}",
                markdown(row["date"]),
            ]
        )
        for row in read(folder)
    ]


def _age(row: dict[str, Any]) -> list[tuple[int, ...]]:
    """The oldest first."""
    return [_numbers(row[name]) for name in ("tensorflow", "keras", "torch", "python")]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
