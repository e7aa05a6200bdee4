"""From what the tests recorded to one page and one JSON: docs/parity, made by ``python -m parity_tests --report``."""

import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json, sealed_json, write_whole
from lightning_cifake.machine import processor
from lightning_cifake.text import code_span, markdown, printable, reason_of
from parity_tests import tolerances, versions
from parity_tests.claims import FAILS, HOLDS, RUNGS, SAYS, SKIPPED, Note, Recorded, Row
from parity_tests.report_picture import CAPTION, draw

PAGE, DATA, PICTURE = "README.md", "parity.json", "margins.png"
PACKAGES = (
    "numpy",
    "torch",
    "lightning",
    "torchmetrics",
    "tensorflow",
    "keras",
    "scikit-learn",
    "pillow",
    "opencv-python-headless",
)


def facts() -> dict[str, Any]:
    """Date, machine, data and versions of this run."""
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    root, model = (os.environ.get(name) for name in ("CIFAKE_ROOT", "PARITY_MODEL"))
    return {
        "date": date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "cifake": Path(root).name if root else None,
        "model": Path(model).name if model else None,
        "versions": versions,
    }


def read_recorded(folder: Path) -> Recorded | None:
    """The JSON of an earlier report; None where there is none.

    Raises:
        UserError: it is not one.
    """
    path = folder / DATA
    if not path.exists():
        return None
    try:
        content, checked = read_json(path)
        if not checked:
            print(f"{printable(path)} carries no digest: the rows that it keeps are taken unchecked")
        return Recorded.from_json(content)
    except (UserError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{printable(path)}: expected the JSON of an earlier report ({reason_of(error)}); remove it, or give "
            "another --output"
        ) from error


def merge(now: Recorded, before: Recorded | None) -> Recorded:
    """This run's rows, and the earlier ones of tests that exist and did not run, with the date on which they did.

    A long test that was skipped this time (no CIFAKE, say) keeps what it once measured.
    """
    if before is None:
        return now
    by_test: dict[str, list[Row]] = {}
    for row in now.rows:
        by_test.setdefault(row.test, []).append(row)
    measured_before = {row.test for row in before.rows if row.verdict != SKIPPED}
    kept = set()
    for test in now.known_tests:
        rows = by_test.get(test, [])
        if not rows or (test in measured_before and all(row.long and row.verdict == SKIPPED for row in rows)):
            kept.add(test)
    return replace(
        now,
        rows=[row for row in before.rows if row.test in kept] + [row for row in now.rows if row.test not in kept],
        notes=[note for note in before.notes if note.test in kept]
        + [note for note in now.notes if note.test not in kept],
    )


def write_report(folder: Path, recorded: Recorded, pictures: Path) -> None:
    """Writes the pictures, the JSON and then the page, each whole or not at all.

    Raises:
        UserError: one of them cannot be written.
    """
    notes = [n for n in recorded.notes if not n.picture or any((p / n.picture).is_file() for p in (pictures, folder))]
    recorded = replace(recorded, notes=notes)
    content = sealed_json(recorded.to_json(), indent=1)
    page = render(recorded, versions.lines(folder))
    picture = draw(recorded.rows)
    write_whole(folder / PICTURE, picture)
    for note in notes:
        if note.picture and (pictures / note.picture).is_file():
            write_whole(folder / note.picture, (pictures / note.picture).read_bytes())
    write_whole(folder / DATA, content)
    write_whole(folder / PAGE, page)


def render(recorded: Recorded, on_versions: Sequence[str] = ()) -> str:
    """The page, in Markdown.

    Args:
        recorded: its rows.
        on_versions: of :func:`parity_tests.versions.lines`.
    """
    rows = recorded.rows
    parts = [
        "# Parity with TensorFlow, measured",
        _summary(recorded),
        f"![{CAPTION}]({PICTURE})\n\n*{CAPTION}*",
        _in_ten_lines(rows),
        "Written by `python -m parity_tests --report`; [parity.json](parity.json) holds every row, with the test it "
        "came from. A claim is asserted by the test that records it. `measured` is the worst case, `margin` how many "
        "times it fits into the tolerance; a tolerance of 0 counts what is unequal. What carries a date was measured "
        "then, and not again since.",
    ]
    for rung, title in RUNGS.items():
        parts += _rung(rung, title, rows, recorded.notes, recorded.facts["date"])
    parts += _faults([row for row in rows if row.kind == "fault"], recorded.facts["date"])
    parts += ["## Tolerances", _tolerances(rows), "## Tests", _tests(rows), "## Versions"]
    parts += [_versions(recorded.facts), *_on_versions(on_versions)]
    return "\n\n".join(parts) + "\n"


def _summary(recorded: Recorded) -> str:
    rows, machine = recorded.rows, recorded.facts["machine"]
    claims, faults = (_grouped(row for row in rows if row.kind == kind) for kind in ("claim", "fault"))
    data = recorded.facts["cifake"]
    where = (
        f"on images of CIFAKE ({code_span(data)})" if data else "without CIFAKE: on made images and the built-in demo"
    )
    model = recorded.facts.get("model")
    trained = (
        f"`tf_reference`'s {code_span(model)} (`PARITY_MODEL`)" if model else "a model of two epochs of 640 images"
    )
    return (
        f"**{_count_of(claims, 'claim', 'hold')}; {_count_of(faults, 'deliberate fault', 'seen')}.** "
        f"Measured {recorded.facts['date']} {where}, on {markdown(machine['processor'])}, {machine['cores']} cores, "
        f"{machine['torch threads']} torch thread(s). Trained weights are those of {trained}."
    )


def _in_ten_lines(rows: list[Row]) -> str:
    """A line a rung: what it claims in a sentence, how much of it holds, and the claim nearest to its tolerance."""
    lines = []
    for rung, title in RUNGS.items():
        claims, least, seen = _of_rung(rung, rows)
        number, holding = rung.partition(" ")[0], sum(row.verdict == HOLDS for row in claims)
        link = f"[{number}](#{_anchor(f'{number}. {title}')})"
        lines.append(f"{link} | {SAYS[rung]} | {holding} of {len(claims)} | {least if claims else ''} | {seen}")
    header = "rung | what is claimed | claims that hold | least margin | faults seen"
    return table(header, "l l r r r", lines)


def _of_rung(rung: str, rows: list[Row]) -> tuple[list[Row], str, str]:
    """Its claims; of them the least margin; and how many of its faults are seen, empty where it has none."""
    claims, faults = (
        [row for row, _ in _grouped(row for row in rows if (row.rung, row.kind) == (rung, kind))]
        for kind in ("claim", "fault")
    )
    margins = [row.tolerance / row.measured for row in claims if row.measured and row.tolerance]
    least = f"{_number(min(margins))}x" if margins else "exact"
    return claims, least, f"{sum(row.verdict == HOLDS for row in faults)} of {len(faults)}" if faults else ""


def _anchor(title: str) -> str:
    """A heading's, as Markdown's renderers make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _count_of(rows: list[tuple[Row, int]], noun: str, verb: str) -> str:
    count = {verdict: sum(row.verdict == verdict for row, _ in rows) for verdict in (HOLDS, FAILS, SKIPPED)}
    text = f"{len(rows)} {noun}{'s' * (len(rows) != 1)}, {count[HOLDS]} {verb}"
    text += f", {count[FAILS]} FAIL" if count[FAILS] else ""
    return text + (f", {count[SKIPPED]} not measured" if count[SKIPPED] else "")


def _rung(rung: str, title: str, rows: list[Row], notes: list[Note], today: str) -> list[str]:
    here = [row for row in rows if row.rung == rung]
    parts = [f"## {rung.partition(' ')[0]}. {title}"]
    claims = _grouped(row for row in here if row.kind == "claim")
    if claims:
        lines = [_claim_line(row, cases, today) for row, cases in claims]
        parts.append(table("claim | cases | measured | tolerance | margin | verdict", "l r r r r l", lines))
    figures = _grouped(row for row in here if row.kind == "figure")
    if figures:
        lines = [f"{_cell(row.text)}{_dated(row, today)} | {_number(row.measured, 4)} {row.unit}" for row, _ in figures]
        parts.append(table("also measured | ", "l r", lines))
    for note in notes:
        if note.rung == rung:
            parts.append(f"![{_cell(note.text)}]({note.picture})\n\n*{note.text}*" if note.picture else note.text)
    return parts if len(parts) > 1 else [*parts, "No test of this rung has run."]


def _claim_line(row: Row, cases: int, today: str) -> str:
    verdict = f"**{row.verdict.upper()}**" if row.verdict == FAILS else row.verdict
    if row.reason:
        verdict += f": {markdown(_one_line(row.reason))}"
    cells = (
        _cell(row.text),
        f"{cases:,}" if row.verdict != SKIPPED else "",
        _number(row.measured),
        _number(row.tolerance),
        _margin(row),
        verdict + _dated(row, today),
    )
    return " | ".join(cells)


def _margin(row: Row) -> str:
    if not row.measured or not row.tolerance or not math.isfinite(row.measured):
        return "exact" if row.measured == 0 else ""
    margin = row.tolerance / row.measured
    return f"{_number(margin)}x" if margin < 1e6 else "over 1,000,000x"


def _faults(rows: list[Row], today: str) -> list[str]:
    if not rows:
        return []
    lines = []
    for row, _ in _grouped(rows):
        verdict = "seen" if row.verdict == HOLDS else "**NOT SEEN**"
        test = row.test.partition("::")[2].partition("[")[0]
        bound = f"{_number(row.tolerance)} ({row.tolerance_name})"
        lines.append(
            f"{_cell(row.text)} | `{test}` | {_number(row.measured)} | {bound} | {verdict}{_dated(row, today)}"
        )
    intro = "What is broken by hand must move the figures far past their tolerance: a check of the checks."
    header = "fault put in | seen by | moved | more than | verdict"
    return ["## Deliberate faults", intro, table(header, "l l r r l", lines)]


def _tolerances(rows: list[Row]) -> str:
    used = {row.tolerance_name.rpartition(" ")[2] for row in rows}
    known = {name: value for name, value in vars(tolerances).items() if isinstance(value, tolerances.Tolerance)}
    lines = [f"`{name}` | {_number(known[name])} | {_cell(known[name].reason)}" for name in known if name in used]
    return table("name | value | reason", "l r l", lines)


def _tests(rows: list[Row]) -> str:
    """Folded away: a line for each test function with its time."""
    ordered = sorted(rows, key=lambda row: (row.rung, row.test.partition("[")[0]))
    lines = []
    for (_, function), group in groupby(ordered, key=lambda row: (row.rung, row.test.partition("[")[0])):
        of_test = list(group)
        seconds = sum({row.test: row.seconds for row in of_test}.values())
        long = ", long" if of_test[0].long else ""
        lines.append(f"`{function}` | {len(_grouped(of_test))} | {seconds:.1f} s{long}")
    folded = table("test | rows | time", "l r r", lines)
    return f"<details><summary>{len(lines)} tests, the rows each gives and its time</summary>\n\n{folded}\n\n</details>"


def _versions(run: dict[str, Any]) -> str:
    versions = ", ".join(markdown(f"{name} {version}") for name, version in run["versions"].items())
    return f"{versions}; {markdown(run['machine']['system'])}."


def _on_versions(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    header = "python | tensorflow | keras | torch | lightning | numpy | claims that hold | faults seen | date"
    return [
        "The fast claims were run on these sets of versions too, by `python -m parity_tests --versions`; a test of "
        "several cases counts a claim for each.",
        table(header, "l l l l l l r r l", list(lines)),
    ]


def short_table(recorded: Recorded) -> str:
    """For the terminal: a line a rung."""
    lines = [f"{'rung':<14}{'claims':>8}{'hold':>8}{'fail':>8}{'skipped':>9}{'faults seen':>13}{'least margin':>14}"]
    for rung in RUNGS:
        claims, least, seen = _of_rung(rung, recorded.rows)
        if not claims and not seen:
            continue
        counts = [sum(row.verdict == verdict for row in claims) for verdict in (HOLDS, FAILS, SKIPPED)]
        lines.append(f"{rung:<14}{len(claims):>8}{counts[0]:>8}{counts[1]:>8}{counts[2]:>9}{seen:>13}{least:>14}")
    return "\n".join(lines)


def _grouped(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """One row for each text and tolerance, the worst of its cases, with their number; in the order of recording."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.rung, row.kind, row.text, row.tolerance_name), []).append(row)
    return [(min(group, key=_badness), sum(row.cases for row in group)) for group in groups.values()]


def _badness(row: Row) -> tuple[int, float]:
    """Failures first, then what was skipped, then by how far it is off."""
    measured = 0.0 if row.measured is None else row.measured
    if math.isnan(measured):
        measured = math.inf
    return (FAILS, SKIPPED, HOLDS).index(row.verdict), measured if row.kind == "fault" else -measured


def _dated(row: Row, today: str) -> str:
    return f" ({row.date})" if row.date != today else ""


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    if math.isfinite(value) and float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    if 10**digits <= abs(value) < 1e6:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}".replace("e-0", "e-")


def _cell(text: str) -> str:
    """A test's own words, which may be Markdown."""
    return printable(_one_line(text)).replace("|", "\\|")


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def table(header: str, sides: str, lines: list[str]) -> str:
    """A table in Markdown: ``header`` and lines with `` | `` between cells, ``sides`` an l or r for each column."""
    rule = " | ".join("---:" if side == "r" else "---" for side in sides.split())
    return "\n".join(f"| {line} |" for line in (header, rule, *lines))
