"""The figures in README.md and docs/, and the model card, made again from the files that commands recorded.

    python docs/figures.py            # says which figures are not what was recorded; exit code 1 if any
    python docs/figures.py --write    # writes the recorded ones

A figure is followed by a comment that names its source, its key and its form, which readers of the page do not see:

    92.62 %<!-- halving accuracy .2% -->
    20.0 MB<!-- int8 model.bytes/1e6 .1f -->
    1.49 to 1.92<!-- benchmark ratios.training.lightning.tf.median .2f -->    of several records: their range

Sources are the names in SOURCES (figures_sources.py). A key goes down with dots, a divisor may follow it; the form is
one of `format`'s. A whole table that is made from the records stands between `<!-- table NAME -->` and
`<!-- end of table -->`; TABLES (figures_tables.py) has the functions that make them. `tests/docs/test_figures.py` runs
this over every page.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # loaded by a test, it finds its other files

from figures_sources import BENCHMARKS, RANGES, ROOT, is_evaluated, source, text
from figures_tables import TABLES

from lightning_cifake.benchmark.page import page as benchmark_page
from lightning_cifake.benchmark.side_by_side import overview, read_records
from lightning_cifake.shipped import MODELS

CARD = "checkpoints/MODEL_CARD.md"
ABOUT = "checkpoints/about.md"  # the part of it that a person wrote
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?"
MARK = re.compile(
    rf"(?:(?P<low>{NUMBER})(?P<to>\s+to\s+))?(?P<number>{NUMBER})(?P<unit>[^\S\n]?[A-Za-z*`]*)"
    r"<!-- (?P<source>[\w-]+) (?P<key>\S+) (?P<form>\S+) -->"
)
TABLE = re.compile(r"(?P<start><!-- table (?P<name>[\w-]+) -->)\n.*?\n(?P<end><!-- end of table -->)", re.DOTALL)


def refresh(page: str) -> str:
    """The text of a page with every marked figure and table as recorded."""
    page = TABLE.sub(lambda found: f"{found['start']}\n\n{TABLES[found['name']]()}\n\n{found['end']}", page)
    return MARK.sub(_recorded, page)


def _recorded(found: re.Match[str]) -> str:
    # a range is one figure, of several records; elsewhere "3 to" before a figure is prose
    before = f"{found['low']}{found['to']}" if found["low"] and found["source"] not in RANGES else ""
    comment = f"<!-- {found['source']} {found['key']} {found['form']} -->"
    return before + text(found["source"], found["key"], found["form"]) + f"{found['unit']}{comment}"


def pages() -> list[Path]:
    others = [ROOT / name for name in ("README.md", "checkpoints/README.md", ABOUT)]
    return [*others, *sorted((ROOT / "docs").rglob("*.md"))]


def card() -> str:
    """The released models' card, as `report --card` makes it (checkpoints/README.md has the command)."""
    from lightning_cifake.assessment.card import make_card, subjects_of

    evaluations = [source(f"evaluation-{name}") for name in MODELS if is_evaluated(name)]
    return make_card(subjects_of(evaluations, [source(name) for name in MODELS]), refresh((ROOT / ABOUT).read_text()))


def benchmark_pages() -> dict[Path, str]:
    """The page of each machine, and the one of all of them, as `benchmark --records docs/benchmark` makes them."""
    folder = ROOT / BENCHMARKS
    records = read_records(folder)
    each = {folder / name / "README.md": benchmark_page(record) for name, record in records.items()}
    return {folder / "README.md": overview(records), **each}


def main() -> int:
    write, stale = "--write" in sys.argv[1:], 0
    made = {ROOT / CARD: card(), **benchmark_pages()}
    for path in dict.fromkeys([*pages(), *made]):
        before = path.read_text() if path.exists() else ""
        after = made[path] if path in made else refresh(before)
        if after == before:
            continue
        stale += 1
        if write:
            path.write_text(after)
            print(f"{path.relative_to(ROOT)}: written")
            continue
        for old, new in zip(before.splitlines(), after.splitlines(), strict=False):
            if old != new:
                print(f"{path.relative_to(ROOT)}\n  it says  {old}\n  recorded {new}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    raise SystemExit(main())
