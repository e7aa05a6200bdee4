"""Logs of several trainings -> one record: minutes to each accuracy, its table and its picture, machine by machine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_cifake.benchmark.minutes_log import CLOCKS, TARGETS, Clock, Log
from lightning_cifake.benchmark.page import table
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.colours import BLUE, VERMILION
from lightning_cifake.text import markdown, printable

RECORD, PICTURE = "minutes.json", "minutes.png"
_AXES: dict[Clock, str] = {
    "paid": "Minutes from the start, one validation an epoch",
    "training": "Minutes of training alone",
    "wall": "Minutes of the wall clock",
}


def make_record(logs: Sequence[Log]) -> dict[str, Any]:
    """What the logs say, in plain values, for JSON; the runs of one machine side by side, in the logs' order.

    Each of ``runs`` has ``label`` and ``machine``, facts of its log, ``images_per_second`` and ``epochs_trained``,
    ``best`` (the highest accuracy), and by clock ``minutes`` (of the whole run), ``to`` (minutes to each of
    ``targets``, by its per cent; None where it was not reached) and ``course`` ((minutes, accuracy) of each pass).

    Raises:
        UserError: two logs are of other images, or one and the same.
    """
    first = logs[0]
    for log in logs[1:]:
        if any(log.header[name] != first.header[name] for name in ("train_images", "val_images", "val_digest")):
            raise UserError(
                f"expected logs of the same images, got {printable(first.path)} ({_images(first)}) and "
                f"{printable(log.path)} ({_images(log)})"
            )
    times = Counter((log.machine, log.header["title"]) for log in logs)
    runs = []
    for log in logs:
        seed = f", seed {log.header['seed']}" if times[log.machine, log.header["title"]] > 1 else ""
        runs.append({"label": log.header["title"] + seed, "machine": log.machine, **_facts(log), **_figures(log)})
    taken = Counter((run["machine"], run["label"]) for run in runs)
    for run in runs:
        if taken[run["machine"], run["label"]] > 1:
            raise UserError(
                f"expected each run once, got {printable(run['label'])} on {printable(run['machine'])} twice: --title "
                "of `minutes run` tells runs apart"
            )
    machines = list(dict.fromkeys(run["machine"] for run in runs))
    runs.sort(key=lambda run: machines.index(run["machine"]))
    return {
        "targets": list(TARGETS),
        "clocks": CLOCKS,
        **{name: first.header[name] for name in ("train_images", "val_images", "val_digest")},
        "runs": runs,
    }


def _images(log: Log) -> str:
    return (
        f"{log.header['train_images']:,} trained on, {log.header['val_images']:,} to validate, "
        f"{printable(log.header['val_digest'][:8])}"
    )


def _facts(log: Log) -> dict[str, Any]:
    names = (
        "system", "arguments", "command", "date", "versions", "seed", "precision", "batch_size", "epochs", "passes",
        "budget_minutes", "decodes", "training_began",
    )  # fmt: skip
    return {name: log.header.get(name) for name in names} | {"ended": log.ended}


def _figures(log: Log) -> dict[str, Any]:
    clocks: tuple[Clock, ...] = tuple(CLOCKS)
    return {
        "images_per_second": log.images_per_second,
        "epochs_trained": log.points[-1].epoch,
        "best": max((accuracy for _, accuracy in log.course()), default=None),
        "minutes": {clock: log.minutes(clock) for clock in clocks},
        "to": {clock: {_key(target): log.minutes_to(target, clock) for target in TARGETS} for clock in clocks},
        "course": {clock: log.course(clock) for clock in clocks},
    }


def _key(target: float) -> str:
    """In per cent: a key without a dot, so that docs/figures.py reaches it."""
    return f"{100 * target:g}"


def markdown_tables(record: Mapping[str, Any], clock: Clock = "paid") -> str:
    """A table a machine, a row a run."""
    targets = [_key(target) for target in record["targets"]]
    header = ["", *(f"{target} % after" for target in targets)]
    header += ["best seen", "images/s", "epochs", "precision"]
    parts = []
    for machine, runs in by_machine(record).items():
        rows = [
            [
                markdown(run["label"]),
                *(_minutes(run["to"][clock][target], run["minutes"][clock]) for target in targets),
                "" if run["best"] is None else f"{run['best']:.2%}".replace("%", " %"),
                f"{run['images_per_second']:,.0f}",
                f"{run['epochs_trained']:.1f} of {run['epochs']}",
                markdown(run["precision"]),
            ]
            for run in runs
        ]
        dates = " and ".join(sorted({run["date"] for run in runs}))
        parts += [f"**{markdown(machine)}**, {markdown(dates)}:", table(header, rows)]
    return "\n\n".join(parts)


def _minutes(found: float | None, whole: float) -> str:
    return f"not in {_number(whole)} min" if found is None else f"{_number(found)} min"


def _number(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes >= 1 else f"{minutes:.2f}"


def by_machine(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each machine, in their order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in record["runs"]:
        found.setdefault(run["machine"], []).append(run)
    return found


def draw(record: Mapping[str, Any], path: Path, clock: Clock = "paid") -> bool:
    """The courses, a panel a machine; whether there was one to draw.

    Raises:
        UserError: the file cannot be written.
    """
    from lightning_cifake.benchmark.leaderboard_pictures import COLOURS, draw_courses

    panels = {
        machine: {run["label"]: run["course"][clock] for run in runs} for machine, runs in by_machine(record).items()
    }
    targets = [target for target in record["targets"] if target > 0.9]
    # where Keras comes first it has vermilion, as in the benchmark's picture
    colours = (VERMILION, BLUE, *COLOURS[2:]) if record["runs"][0]["system"] == "keras" else COLOURS
    return draw_courses(panels, path, targets, _AXES[clock], colours)
