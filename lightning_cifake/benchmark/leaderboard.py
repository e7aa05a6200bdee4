"""Recorded runs and exports -> the rows of one table, best first: what a network reaches, and what it costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_cifake.benchmark.records import Evaluated, Export, Found, Run, at, course_of, minutes_to
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.intervals import seeds_interval, wilson_interval
from lightning_cifake.files import read_json
from lightning_cifake.text import printable
from lightning_cifake.training.experiments import machine_text

TARGET = 0.97  # validation accuracy, to which the time is told
_OURS = "lightning_cifake.networks."


def make_rows(found: Found, speed: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rows: a configuration's seeds are one, an export whose answers are others is one.

    Args:
        found: of :func:`records.read_records`.
        speed: of :func:`read_speed`.

    Returns:
        Plain values, for JSON. Rows tested on other images than most come last. Each has

        ``name``, ``network``, ``precision`` (of an export), ``seeds``, ``runs``;
        ``tested_on``: protocol, number and digest of the test images;
        ``accuracy``, the mean of its runs, ``interval``, and ``interval_of``: ``images`` (Wilson's, one run; of an
        export that was evaluated the bootstrap's) or ``seeds`` (Student's, of the mean); ``auroc``;
        ``without_twins``: the same without test images that were trained on, themselves or as a twin;
        ``parameters``, ``multiply_adds``; ``epochs``, ``minutes``, ``machine``, ``minutes_to_target``;
        ``bytes`` and ``sha256`` of its file; ``speed``: of ``speed``'s row of this name.
        What is not recorded is None.
    """
    groups: dict[str, list[Run]] = {}
    for run in found.runs:
        groups.setdefault(run.name, []).append(run)
    rows = [_row_of_runs(name, runs) for name, runs in groups.items()]
    of_checkpoint = {
        run.trained.get("checkpoint_sha256"): row for row in rows for run in groups[row["name"]] if run.trained
    }
    for export in found.exports:
        row = of_checkpoint.get(at(export.manifest, "model", "checkpoint_sha256"))
        if row is not None and at(export.manifest, "model", "precision") == "float32":
            row |= {name: row[name] or export.manifest["model"][name] for name in ("bytes", "sha256")}
        else:
            evaluated = found.evaluations.get(export.manifest["model"]["sha256"])
            rows.append(_row_of_export(export, row, evaluated))
    rows = _each_once(rows)
    for row in rows:
        row["speed"] = at(speed, "rows", row["name"])
    usual = Counter(_tested_on(row) for row in rows).most_common(1)
    return sorted(rows, key=lambda row: (_tested_on(row) != usual[0][0], -row["accuracy"], row["name"]))


def _row_of_runs(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    figures = [run.figures for run in runs]
    first = runs[0]
    parameters, multiply_adds = _costs(first.network, first.trained)
    machine = first.trained.get("machine")
    return {
        "name": name,
        "network": _network_name(first.network, first.trained.get("framework")),
        "precision": None,
        "seeds": [run.trained.get("seed") for run in runs],
        "runs": len(runs),
        "tested_on": _images_of(figures[0]),
        **_share([each["accuracy"] for each in figures], [each["images"] for each in figures]),
        "auroc": _mean([each.get("auroc") for each in figures]),
        "without_twins": _without_twins(figures),
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "epochs": _mean([run.trained.get("epochs") for run in runs]),
        "minutes": _mean([run.minutes for run in runs]),
        "machine": machine_text(machine) if isinstance(machine, dict) else first.trained.get("accelerator"),
        "target": TARGET,
        "minutes_to_target": _mean([minutes_to(course_of(run.history), TARGET) for run in runs]),
        "bytes": None,
        "sha256": None,
    }


def _row_of_export(export: Export, run: Mapping[str, Any] | None, evaluated: Evaluated | None) -> dict[str, Any]:
    """Of an exported model whose answers are not its run's, or whose run is not here."""
    model, real = export.manifest["model"], export.manifest["real"]
    precision = model.get("precision")
    if run is None:
        spec = model.get("network") if isinstance(model.get("network"), Mapping) else None
        parameters, multiply_adds = _costs(spec, {})
        known: dict[str, Any] = {**dict.fromkeys(("epochs", "minutes", "machine")), "network": _network_name(spec)}
        known |= {"parameters": parameters, "multiply_adds": multiply_adds}
    row = {
        **(run or known),
        "name": f"{run['name']} in {precision}" if run else export.path.stem,
        "precision": precision,
        "seeds": [],
        "runs": 1,
        "tested_on": _images_of(real),
        **_share([real["onnxruntime"]["accuracy"]], [real["images"]]),
        "auroc": real["onnxruntime"].get("auroc"),
        "without_twins": None,
        "target": TARGET,
        "minutes_to_target": None,
        "bytes": model["bytes"],
        "sha256": model["sha256"],
    }
    if evaluated and [evaluated.data.get("digest"), evaluated.all["images"]] == [
        real.get("data_digest"),
        real["images"],
    ]:
        row |= {name: evaluated.all[name] for name in ("accuracy", "interval", "interval_of", "auroc")}
        if evaluated.unseen:
            left_out = evaluated.all["images"] - evaluated.unseen["images"]
            row["without_twins"] = {**evaluated.unseen, "left_out": left_out}
    return row


def _share(shares: Sequence[float], images: Sequence[int]) -> dict[str, Any]:
    mean = fmean(shares)
    if len(shares) > 1:
        return {"accuracy": mean, "interval": list(seeds_interval(shares)), "interval_of": "seeds"}
    interval = wilson_interval(round(mean * images[0]), images[0])
    return {"accuracy": mean, "interval": list(interval), "interval_of": "images"}


def _without_twins(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """None where it is not known of every run what it was trained on, or nothing is left."""
    seen = [at(each, "seen_in_training", "images") for each in figures]
    shares = [at(each, "seen_in_training", "accuracy_without") for each in figures]
    if None in seen or None in shares:
        return None
    left = [each["images"] - count for each, count in zip(figures, seen, strict=True)]
    if min(left) < 1:
        return None
    auroc = _mean([at(each, "seen_in_training", "auroc_without") for each in figures])
    return {"images": left[0], "left_out": seen[0], **_share(shares, left), "auroc": auroc}


def _costs(spec: Mapping[str, Any] | None, trained: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """As recorded; counted where they are not, of networks that come with this package: nothing else that a record
    names is imported."""
    recorded = trained.get("parameters"), trained.get("multiply_adds")
    if any(recorded) or spec is None or not str(spec.get("class_path")).startswith(_OURS):
        return recorded
    from lightning_cifake.networks.costs import costs_of
    from lightning_cifake.networks.registry import build_network

    try:
        return costs_of(build_network(spec), spec.get("init_args", {}).get("image_size", 32))
    except UserError:
        return recorded


def _network_name(spec: Mapping[str, Any] | None, framework: str | None = None) -> str | None:
    """``resnet50``; the class of a network that has no short name; and the framework, where another one trained it."""
    from lightning_cifake.networks.registry import SHIPPED

    path = str((spec or {}).get("class_path") or "")
    names = {value: key for key, value in SHIPPED.items()}
    name = names.get(path) or path.rpartition(".")[2] or None
    return f"{name} ({framework})" if framework else name


def _images_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"protocol": record.get("protocol"), "images": record["images"], "data_digest": record.get("data_digest")}


def _tested_on(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row["tested_on"].values())


def _mean(values: Sequence[Any]) -> Any:
    """None where one is missing."""
    known = [value for value in values if isinstance(value, int | float)]
    return None if len(known) < len(values) or not known else fmean(known) if len(set(known)) > 1 else known[0]


def _each_once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one name, of two folders, are told apart by a number."""
    taken: Counter[str] = Counter()
    for row in rows:
        taken[row["name"]] += 1
        if taken[row["name"]] > 1:
            row["name"] = f"{row['name']} ({taken[row['name']]})"
    return list(rows)


def read_speed(path: Path) -> dict[str, Any]:
    """A record of :mod:`network_speed`.

    Raises:
        UserError: it is none, or is damaged.
    """
    content, _ = read_json(path)
    if not isinstance(content.get("rows"), dict) or not isinstance(content.get("machine"), dict):
        raise UserError(f"{printable(path)}: expected a record of leaderboard --measure, got another file")
    return content
