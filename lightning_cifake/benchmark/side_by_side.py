"""Benchmarks of several machines on one page: a folder of records, one a machine and precision."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.benchmark.comparisons import COMPARISONS, Comparison, ratio_of, terms
from lightning_cifake.benchmark.engines import ENGINES
from lightning_cifake.benchmark.page import spread_text, table
from lightning_cifake.benchmark.processors import title
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json
from lightning_cifake.text import markdown, printable

RECORD = "benchmark.json"
PAGE = "README.md"
Records = Mapping[str, Mapping[str, Any]]
"""Records by the name of their folder."""


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every ``NAME/benchmark.json`` of a folder, by NAME.

    Raises:
        UserError: one of them is damaged, or no record of ``benchmark``.
    """
    found = {}
    for path in sorted(folder.glob(f"*/{RECORD}")):
        record, _ = read_json(path)
        missing = {"machine", "settings", "engines", "ratios"} - set(record)
        if missing or "features" not in record["machine"]:
            raise UserError(f"{printable(path)}: expected a record that benchmark wrote, got another file")
        found[path.parent.name] = record
    return found


def groups(records: Records) -> dict[str, Records]:
    """The records that can be held side by side, under their section's title: processors first, float32 first."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, record in sorted(records.items(), key=lambda item: (*_kind(item[1]), item[0])):
        device, precision = _kind(record)
        where = "On a processor" if device == "cpu" else "On a GPU"
        found.setdefault(f"{where}, {'float32' if precision == '32-true' else precision}", {})[name] = record
    return dict(found)


def picture_of(heading: str) -> str:
    """The file of a section's picture."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()) + ".png"


def _kind(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["settings"]["device"], record["settings"]["precision"]


def overview(records: Records) -> str:
    """Markdown: the machines, and for each device and precision what is compared with what, and the rates."""
    parts = [
        "# Benchmarks by machine",
        "A record a machine and precision, each measured in one run. A figure is the median over the run's rounds, in "
        "brackets the lowest and the highest. Ratios depend on the machine, so each has its own column.",
        machines_table(records),
    ]
    for heading, group in groups(records).items():
        parts += [f"## {heading}"]
        if any(ratio_of(record, each) for record in group.values() for each in COMPARISONS):
            parts += [f"![Times the rate, machine by machine]({picture_of(heading)})", ratios_table(group)]
        parts += ["Images/s:", rates_table(group)]
    parts += [
        "A second machine adds its record, and makes this page again, with",
        "```\npython -m lightning_cifake benchmark --records docs/benchmark\n```",
    ]
    return "\n\n".join(parts) + "\n"


def machines_table(records: Records) -> str:
    rows = []
    for name, record in records.items():
        settings = record["settings"]
        versions = ", ".join(
            markdown(f"{package} {record['versions'][package]}")
            for package in ("torch", "tensorflow", "onnxruntime")
            if record["versions"].get(package)
        )
        precision = "float32" if settings["precision"] == "32-true" else settings["precision"]
        link = f"[{markdown(title(record))}]({name}/{PAGE})"
        counts = f"{settings['rounds']} / {settings['starts']}"
        rows.append([link, precision, str(settings["threads"]), counts, markdown(record["date"]), versions])
    return table(["machine", "precision", "threads", "rounds / starts", "date", "versions"], rows)


def ratios_table(group: Records) -> str:
    """How many times the second engine's rate the first one has on each machine, and over all of them."""
    several = len(group) > 1
    rows = []
    for each in COMPARISONS:
        found = {name: ratio_of(record, each) for name, record in group.items()}
        if any(found.values()):
            rows.append(
                [f"`{each.ours}`", f"`{each.theirs}`", each.doing, _terms(group, each)]
                + [spread_text(ratio, "{:.2f}") if ratio else "" for ratio in found.values()]
                + ([range_text([ratio["median"] for ratio in found.values() if ratio], ".2f")] if several else [])
            )
    header = ["engine", "times the rate of", "in", "equal terms", *_titles(group)]
    return table([*header, *(["range"] if several else [])], rows)


def _terms(group: Records, comparison: Comparison) -> str:
    said = [terms(record, comparison) for record in group.values() if ratio_of(record, comparison)]
    return "; ".join(dict.fromkeys(said))


def rates_table(group: Records) -> str:
    """Images/s of each engine on each machine, training and inference."""
    columns: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]] = (
        ("training", lambda each: _rate(each["training"]["images_per_second"])),
        ("inference at 32", lambda each: _rate(each["answering"]["images_per_second"]["32"])),
        ("one image, ms", lambda each: f"{ms['p50']:.1f}" if (ms := each["answering"]["one_image_ms"]) else ""),
    )
    header = ["engine", *(f"{what}: {name}" for what, _ in columns for name in _titles(group))]
    rows = []
    for engine in ENGINES:
        cells = [
            cell(record["engines"][engine]) if engine in record["engines"] else ""
            for _, cell in columns
            for record in group.values()
        ]
        if any(cells):
            rows.append([f"`{engine}`", *cells])
    return table(header, rows)


def _titles(group: Records) -> list[str]:
    return [markdown(title(record)) for record in group.values()]


def _rate(found: Mapping[str, Any] | None) -> str:
    return f"{found['median']:,.0f}" if found else ""


def range_text(values: Sequence[float], form: str) -> str:
    """``1.49 to 1.92``, or the one figure where all are written alike."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
