"""One configuration trained with several seeds: the runs that are done, and the mean and spread of their figures.

The runs lie side by side as ``seed-0``, ``seed-1``, ..., which ``leaderboard`` takes for one row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lightning_cifake.benchmark.records import Run, at, read_run
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.intervals import seeds_interval
from lightning_cifake.run_folder import METRICS, files_of_run
from lightning_cifake.text import printable

FIGURES: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "auroc": ("auroc",),
    "average_precision": ("average_precision",),
    "precision": ("precision",),
    "recall": ("recall",),
    "f1": ("f1",),
    "accuracy_without_twins": ("seen_in_training", "accuracy_without"),
    "auroc_without_twins": ("seen_in_training", "auroc_without"),
}
"""By name, where it stands in a test's metrics.json; precision, recall, F1 and average precision are of REAL."""


def seed_folder(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}"


@dataclass
class Seeds:
    """What lies in a folder of runs. ``done``: by seed. ``problems``: by seed, why one that has begun is not done."""

    done: dict[int, Run] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)


def read_seeds(folder: Path, seeds: Sequence[int]) -> Seeds:
    """The runs of some seeds, as far as they are there."""
    found = Seeds()
    for seed in seeds:
        place = seed_folder(folder, seed)
        if not files_of_run(place):
            continue
        try:
            run = read_run(folder, place, [])
            trained = run.trained.get("seed")
            if trained not in (None, seed):
                raise UserError(
                    f"{printable(place / METRICS)}: expected a run of seed {seed}, got {printable(trained)}"
                )
            found.done[seed] = run
        except UserError as error:
            found.problems[seed] = str(error)
    return found


def row_of(run: Run) -> dict[str, Any]:
    """A run's figures by name, ``epochs`` and ``minutes``; None for what is not recorded."""
    return {
        **{name: at(run.figures, *keys) for name, keys in FIGURES.items()},
        "epochs": run.trained.get("epochs"),
        "minutes": run.minutes,
    }


def mean_and_spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """``mean``; ``deviation``, the standard deviation of one run; ``interval``, Student's 95 % of the mean.

    Both are None of one value, and all is None where a value is missing.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    several = len(known) > 1
    return {
        "mean": fmean(known),
        "deviation": stdev(known) if several else None,
        "interval": list(seeds_interval(known)) if several else None,
    }


def summary(done: Mapping[int, Run]) -> dict[str, Any]:
    """Plain values, for JSON: ``runs``, a row by seed, and ``figures``, by name."""
    rows = {str(seed): row_of(run) for seed, run in sorted(done.items())}
    names = next(iter(rows.values()), {})
    return {"runs": rows, "figures": {name: mean_and_spread([row[name] for row in rows.values()]) for name in names}}


def print_table(record: Mapping[str, Any]) -> None:
    """A line a seed, then the mean, its interval and the spread; to standard output.

    Args:
        record: of :func:`summary`.
    """
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = [name for name, figure in record["figures"].items() if figure is not None]
    table = Table("seed", *(_TITLES[name] for name in columns), box=box.SIMPLE, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for seed, row in record["runs"].items():
        table.add_row(seed, *(_cell(name, row[name]) for name in columns))
    if len(record["runs"]) > 1:
        table.add_section()
        figures = [record["figures"][name] for name in columns]
        table.add_row("mean", *(_cell(name, each["mean"]) for name, each in zip(columns, figures, strict=True)))
        halves = [
            each["interval"][1] - each["mean"] if name in FIGURES else None
            for name, each in zip(columns, figures, strict=True)
        ]
        table.add_row("± (95 %)", *(_cell(name, half) for name, half in zip(columns, halves, strict=True)))
        deviations = [each["deviation"] for each in figures]
        table.add_row("spread", *(_cell(name, each) for name, each in zip(columns, deviations, strict=True)))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


_TITLES = {
    "accuracy": "accuracy, %",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "precision": "precision, %",
    "recall": "recall, %",
    "f1": "F1, %",
    "accuracy_without_twins": "without twins, %",
    "auroc_without_twins": "AUROC",
    "epochs": "epochs",
    "minutes": "minutes",
}


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in ("epochs", "minutes"):
        return f"{value:.1f}"
    return f"{100 * value:.2f}" if _TITLES[name].endswith("%") else f"{value:.4f}"
