"""A benchmark's record -> the page that people read, its tables and its picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lightning_cifake.benchmark.comparisons import COMPARISONS, ratio_of, terms
from lightning_cifake.benchmark.engines import ENGINES
from lightning_cifake.benchmark.figures import BATCHES
from lightning_cifake.evaluation.canvas import STYLE, save_figure
from lightning_cifake.evaluation.colours import BLUE, GREY, VERMILION
from lightning_cifake.text import code_block, code_span, markdown

PICTURE = "benchmark.png"


def page(record: dict[str, Any]) -> str:
    """Markdown: what was compared, on what, and every figure with its spread."""
    parts = [
        "# Benchmark",
        introduction(record),
        f"![Images/s of each engine]({PICTURE})",
        "## Training",
        training_table(record),
        "## Inference",
        inference_table(record),
        "## What is compared with what",
        comparison_text(record),
        "## Pair by pair",
        "How many times the rate of the engine above the row's has, round by round: median (lowest to highest).",
        "Training:",
        ratio_table(record["ratios"]["training"]),
        "Inference, 32 images at once:",
        ratio_table(record["ratios"]["answering_32"]),
        "## The limit of this machine",
        limit_text(record),
        "## The same answers",
        agreement_text(record),
    ]
    if record["failed"]:
        parts += [
            "## Not measured",
            "\n".join(f"- {code_span(name)}: {markdown(why)}" for name, why in record["failed"].items()),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(record: dict[str, Any]) -> str:
    settings, machine = record["settings"], record["machine"]
    versions = ", ".join(markdown(f"{name} {version}") for name, version in record["versions"].items() if version)
    engines = "\n".join(f"- `{name}`: {ENGINES[name].about}{_batch_note(name, settings)}" for name in record["engines"])
    gpu = f", {markdown(machine['gpu']['name'])}" if machine["gpu"] else ""
    told = f" ({markdown(', '.join(machine['features']))})" if machine["features"] else ""
    return (
        f"{markdown(record['date'])}, {markdown(machine['processor'])}{told}, {machine['cores']} cores{gpu}; device "
        f"{markdown(settings['device'])}, "
        f"{settings['threads']} threads for every engine, precision {markdown(settings['precision'])}, batches of "
        f"{settings['batch_size']} ({settings['tuned_batch_size']} where tuned), {settings['rounds']} rounds, "
        f"{settings['starts']} starts; {versions}.\n\n"
        f"{code_block(record['command'])}\n\n"
        f"{engines}\n\n"
        "Each engine is a process of its own; they take turns, round by round. A figure is the median over the rounds, "
        "in brackets the lowest and the highest."
    )


def _batch_note(name: str, settings: dict[str, Any]) -> str:
    return f", batches of {settings['tuned_batch_size']}" if ENGINES[name].large else ""


def comparison_text(record: dict[str, Any]) -> str:
    """Every comparison whose engines were both measured, and whether it is of like with like."""
    rows = [
        [code_span(each.ours), code_span(each.theirs), each.doing, spread_text(found, "{:.2f}"), terms(record, each)]
        for each in COMPARISONS
        if (found := ratio_of(record, each)) is not None
    ]
    if not rows:
        return ""
    return (
        "Terms are equal where both engines work in the same precision and on the same number of images at once.\n\n"
        + table(["engine", "times the rate of", "in", "median (lowest to highest)", "equal terms"], rows)
    )


def training_table(record: dict[str, Any]) -> str:
    """A row an engine that trains."""
    images = record["settings"]["train_images"]
    header = [
        "engine",
        "start to first step",
        f"start to the end of the first epoch ({images:,} JPEG files)",
        "images/s",
        "times tf",
        "of the limit",
        "waiting for data",
        "peak memory",
    ]
    rows = []
    for name, each in record["engines"].items():
        found = each["training"]
        if found["images_per_second"] is None:
            continue
        rows.append(
            [
                f"`{name}`",
                _seconds(found["start_to_first_step_s"]),
                _seconds(found["first_epoch_s"]),
                spread_text(found["images_per_second"], "{:,.0f}"),
                _times(record["ratios"]["training"], name),
                _percent(each["limit"].get("training")),
                _percent(found["waiting_share"] and found["waiting_share"]["median"], 1),
                _mib(found["peak_mib"]),
            ]
        )
    return table(header, rows)


def inference_table(record: dict[str, Any]) -> str:
    """A row an engine that answers."""
    header = ["engine", "start to first answer", "one image, ms: p50 / p95 / p99"]
    header += [f"images/s at {batch}" for batch in BATCHES] + ["times tf at 32", "of the limit at 32", "peak memory"]
    rows = []
    for name, each in record["engines"].items():
        found = each["answering"]
        if found["one_image_ms"] is None:
            continue
        single = " / ".join(f"{found['one_image_ms'][key]:.1f}" for key in ("p50", "p95", "p99"))
        rows.append(
            [f"`{name}`", _seconds(found["cold_start_s"]), single]
            + [spread_text(found["images_per_second"][str(batch)], "{:,.0f}") for batch in BATCHES]
            + [_times(record["ratios"]["answering_32"], name), _percent(each["limit"].get("answering_32"))]
            + [_mib(found["peak_mib"])]
        )
    return table(header, rows)


def ratio_table(ratios: dict[str, dict[str, Any]]) -> str:
    names = list(ratios)
    rows = [
        [f"`{row}`", *(spread_text(ratios[column].get(row), "{:.2f}") if row != column else "" for column in names)]
        for row in names
    ]
    return table(["", *(f"`{name}`" for name in names)], rows)


def limit_text(record: dict[str, Any]) -> str:
    limit = record["limit"]
    if not limit:
        return ""
    products = " and ".join(
        f"{rate / 1e9:,.0f} GFLOP/s{f' ({markdown(precision)})' if len(limit['operations_per_second']) > 1 else ''}"
        for precision, rate in limit["operations_per_second"].items()
    )
    lines = [f"Measured here: {products} in matrix products, {limit['bytes_per_second'] / 1e9:,.1f} GB/s in copies."]
    for name, step in limit["steps"].items():
        lines.append(
            f"- {name}: {step['operations'] / 1e9:,.2f} GFLOP, {step['bytes'] / 1e6:,.0f} MB, "
            f"not under {1e3 * step['seconds']:,.1f} ms: {step['images'] / step['seconds']:,.0f} images/s"
        )
    lines.append(
        "Operations are those of the convolutions' formula, padding included: a kernel's taps that only ever see "
        "padding need not be computed, so more than 100 % would not be a contradiction. int8 is held against float32's "
        "rate."
    )
    return "\n".join(lines[:1]) + "\n\n" + "\n".join(lines[1:-1]) + "\n\n" + lines[-1]


def agreement_text(record: dict[str, Any]) -> str:
    found = record["agreement"]
    if not found["images"]:
        return ""
    lines = [
        f"The weights of {code_span(record['settings']['weights'])}, asked about the same {found['images']:,} images. "
        + (record["parity"] or "")
    ]
    if record["half_differences"]:
        found_by = "; ".join(
            f"{code_span(name)} {each['mean']:.1g} on average, {each['max']:.1g} at the most"
            for name, each in record["half_differences"].items()
        )
        lines.append(
            f"In {markdown(record['settings']['precision'])} they differ from their own in float32: {found_by}."
        )
    lines.append(table(["engine", "accuracy"], [[f"`{n}`", f"{v:.2%}"] for n, v in found["accuracy"].items()]))
    lines.append(
        f"{found['disagreeing']} images are not decided alike by all"
        + ("; P(REAL) by each:" if found["listed"] else ".")
    )
    if found["listed"]:
        names = list(found["accuracy"])
        rows = [
            [code_span(each["path"]), each["label"], *(f"{each['prob_real'][name]:.4f}" for name in names)]
            for each in found["listed"]
        ]
        lines.append(table(["image", "is", *(f"`{name}`" for name in names)], rows))
        if found["disagreeing"] > len(found["listed"]):
            lines.append(f"The first {len(found['listed'])} are listed.")
    return "\n\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread_text(found: dict[str, Any] | None, form: str) -> str:
    if found is None:
        return "not measured"
    low, high = form.format(found["low"]), form.format(found["high"])
    return form.format(found["median"]) + (f" ({low} to {high})" if len(found["all"]) > 1 else "")


def _seconds(found: dict[str, Any] | None) -> str:
    return spread_text(found, "{:.1f}") + (" s" if found else "")


def _times(ratios: dict[str, dict[str, Any]], name: str) -> str:
    found = ratios.get(name, {}).get("tf")
    return "" if found is None else f"{found['median']:.2f}"


def _percent(share: float | None, digits: int = 0) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def _mib(peak: float | None) -> str:
    return "?" if peak is None else f"{peak:,.0f} MiB"


def draw(record: dict[str, Any], path: Path) -> None:
    """Images/s, training on the left, inference of 32 at once on the right; whiskers from lowest to highest round."""
    parts = []
    for title, pick in (
        ("Training", lambda each: each["training"]["images_per_second"]),
        ("Inference, 32 images at once", lambda each: each["answering"]["images_per_second"]["32"]),
    ):
        found = {name: pick(each) for name, each in record["engines"].items() if pick(each) is not None}
        if found:
            parts.append((title, found))
    if not parts:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6 * len(parts), 3.6), layout="constrained")
        for axes, (title, found) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            medians = [each["median"] for each in found.values()]
            below = [each["median"] - each["low"] for each in found.values()]
            above = [each["high"] - each["median"] for each in found.values()]
            colours = [VERMILION if name.startswith("tf") else BLUE for name in found]
            bars = axes.barh(
                list(found), medians, xerr=[below, above], color=colours, ecolor=GREY, capsize=3, height=0.65
            )
            axes.bar_label(bars, [f" {median:,.0f}" for median in medians], label_type="center", color="white")
            axes.invert_yaxis()
            axes.set_title(title)
            axes.set_xlabel("images/s")
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        save_figure(figure, path)
