"""The leaderboard's rows as cells: for Markdown, and for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_cifake.benchmark.records import at
from lightning_cifake.console import print_rows
from lightning_cifake.text import code_span, markdown

HEADER = (
    "run", "network", "accuracy, %", "AUROC", "without twins, %", "AUROC", "parameters", "multiply-adds",
    "training, images/s", "inference, images/s", "minutes of training", "file, MB",
)  # fmt: skip
TESTED_ON = "tested on"


def cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A header, and a line of texts a row; names of elsewhere as they are. Columns that are empty are left out; one
    that says what was tested on is there where not all rows were tested on the same images."""
    lines = [_line(row) for row in rows]
    header = [*HEADER]
    if len({tuple(row["tested_on"].values()) for row in rows}) > 1:
        header.append(TESTED_ON)
        for line, row in zip(lines, rows, strict=True):
            line.append(f"{row['tested_on']['protocol'] or 'unknown'}, {row['tested_on']['images']:,}")
    kept = [at for at in range(len(header)) if any(line[at] for line in lines)]
    return [header[at] for at in kept], [[line[at] for at in kept] for line in lines]


def _line(row: Mapping[str, Any]) -> list[str]:
    without = row["without_twins"]
    training, answering = at(row["speed"], "training", "median"), at(row["speed"], "answering", "median")
    minutes = (
        "" if row["minutes"] is None else f"{row['minutes']:,.0f}" if row["minutes"] >= 10 else f"{row['minutes']:.1f}"
    )
    return [
        row["name"],
        row["network"] or "",
        _share(row),
        _auroc(row["auroc"]),
        f"{_share(without)} ({without['images']:,})" if without else "",
        _auroc(without and without["auroc"]),
        _count(row["parameters"]),
        _count(row["multiply_adds"]),
        "" if training is None else f"{training:,.0f}",
        "" if answering is None else f"{answering:,.0f}",
        f"{minutes} ({row['machine']})" if minutes and row["machine"] else minutes,
        "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
    ]


def _share(found: Mapping[str, Any]) -> str:
    """``92.62 [92.25, 92.97]`` of one run, ``98.12 ± 0.20`` of several."""
    low, high = found["interval"]
    mean = f"{found['accuracy']:.2%}".rstrip("%")
    if found["interval_of"] == "seeds":
        return f"{mean} ± {50 * (high - low):.2f}"
    return f"{mean} [{low:.2%}, {high:.2%}]".replace("%", "")


def _auroc(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: float | None) -> str:
    """``23.6 M``, ``141 k``."""
    if value is None:
        return ""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return str(int(value))


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header, lines = cells(rows)
    texts = [[code_span(line[0]), *(markdown(cell) for cell in line[1:])] for line in lines]
    runs = [row["runs"] for row in rows]
    for text, count in zip(texts, runs, strict=True):
        text[0] += f", {count} seeds" if count > 1 else ""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *texts])


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """To standard output."""
    header, lines = cells(rows)
    for line, row in zip(lines, rows, strict=True):
        line[0] += f", {row['runs']} seeds" if row["runs"] > 1 else ""
    print_rows(header, lines, words=2)
