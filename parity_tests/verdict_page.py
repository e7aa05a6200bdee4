"""The page of the independent trainings, in Markdown: the plan, what is there of it, and the verdict once all is."""

from pathlib import Path
from typing import Any

from parity_tests.report import table
from parity_tests.verdict import (
    ALPHA,
    FOLDER,
    MEASURES,
    PREDICTIONS,
    RUNS,
    Row,
    half_verdict,
    missing_runs,
    on_a_gpu,
    precision_verdict,
    read_plan,
    read_runs,
    systems_of,
    verdict,
)

TITLE = "# Trained independently, are the two systems equivalent?"
_HEADER = (
    "measure | {} | {} | difference | 90 % interval | p of equivalence | verdict "
    "| p of no difference at all | runs each for a power of 80 %"
)
_ALIGNED = "l r r r r r l r r"
_PROGRAM = "python -m parity_tests.equivalence"


def page_of(folder: Path) -> str:
    """The page of a folder of runs, of both frameworks or of Lightning on a GPU."""
    return render_half(folder) if on_a_gpu(read_plan(folder)) else render(folder)


def render(folder: Path) -> str:
    """The page of a folder of runs; without a verdict where some are missing."""
    parts = [TITLE, *(_under_way(folder) if missing_runs(folder) else _judged(folder))]
    return "\n\n".join(part for part in parts if part) + "\n"


HALF_TITLE = "# Trained in half precision on a GPU, is Lightning equivalent to TensorFlow in float32?"


def render_half(folder: Path, against: Path = FOLDER) -> str:
    """The page of Lightning's runs on a GPU; a system has a verdict once all its runs are there."""
    plan = read_plan(folder)
    rows = read_runs(folder)[0] if (folder / RUNS).is_file() else []
    judged, within = half_verdict(folder, against), precision_verdict(folder, against)
    counts = ", ".join(f"{count} of {len(plan['seeds'])} in {name}" for name, count in _done(folder).items())
    where = " ".join(f"{place}." for place in sorted({row["where"] for row in rows}))
    seconds = "They ran some at a time on one GPU: their seconds say nothing of its speed."
    parts = [
        HALF_TITLE,
        f"{len(rows)} trainings of Lightning on a GPU{_when(rows)} ({counts}): `{_PROGRAM} plan --half`, then "
        f"`{_PROGRAM} train --half`. Same split, epochs, schedule and test images as [the trainings of both on a "
        "CPU](../README.md), whose TensorFlow in float32 each is held against. They are trained and asked in one "
        f"precision, with Lightning's own loss scaling in fp16. {seconds} {where}".strip(),
        "A system is judged once all its seeds are there, each by itself: two one-sided Welch t-tests at "
        f"{100 * ALPHA:.0f} %, a margin of {100 * plan['margin']:.1f} points, and no correction for three systems.",
        _half_table(judged, "TensorFlow, on a CPU", "Lightning, on a GPU"),
        "The systems are held against the same trainings of TensorFlow: what chance made of those is in all of them. "
        "Whether it is the precision that makes a difference is seen of Lightning against itself. This was not "
        "fixed before:"
        if within
        else "",
        _half_table(within, "the second", "the first"),
        *_planned(plan, up="../"),
        *(["## Runs", _runs(rows)] if rows else []),
        f"[runs.csv](runs.csv) and {PREDICTIONS} (each probability that each model gave) are what this page is "
        "computed from."
        if rows
        else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _half_table(tests: dict[str, dict[str, dict[str, Any]]], theirs: str, ours: str) -> str:
    lines = [_measure_line(f"{name}: {measure}", tests[name][measure]) for name in tests for measure in tests[name]]
    return table(_HEADER.format(theirs, ours), _ALIGNED, lines) if lines else ""


def _done(folder: Path) -> dict[str, int]:
    """How many of each system's runs are there."""
    plan, missing = read_plan(folder), [name for name, _ in missing_runs(folder)]
    return {name: len(plan["seeds"]) - missing.count(name) for name in systems_of(plan)}


def _when(rows: list[Row]) -> str:
    """ ", first day to last day", or nothing."""
    days = sorted({row["date"] for row in rows})
    return f", {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""


def _under_way(folder: Path) -> list[str]:
    plan = read_plan(folder)
    wanted, done = len(plan["seeds"]), _done(folder)
    rows = read_runs(folder)[0] if (folder / RUNS).is_file() else []
    return [
        f"**Under way: {done['tensorflow']} of {wanted} trainings of TensorFlow are done, and {done['lightning']} of "
        f"{wanted} of Lightning.** There is no verdict before all are: to look early, and to stop when it suits, is no "
        "test.",
        _setting(plan, rows),
        *_planned(plan),
        *(["## Runs so far", _runs(rows)] if rows else []),
    ]


def _judged(folder: Path) -> list[str]:
    rows, _, _ = read_runs(folder)
    figures = verdict(folder)
    plan = figures["plan"]
    verdicts = [f"{measure}: **{figures[measure]['verdict']}**" for measure in MEASURES]
    kept = f"{PREDICTIONS} (each probability that each model gave)"
    if not (folder / PREDICTIONS).is_file():
        kept = "decisions.npz (every decision of every model)"
    return [
        f"{'; '.join(verdicts)}, at a margin of {100 * plan['margin']:.1f} points (two one-sided Welch t-tests at "
        f"{100 * ALPHA:.0f} %).",
        _setting(plan, rows),
        table(
            _HEADER.format("TensorFlow, mean (sd)", "Lightning, mean (sd)"),
            _ALIGNED,
            [_measure_line(measure, figures[measure]) for measure in MEASURES],
        ),
        "p of equivalence: how often a true difference of the margin would look as small as this. The last column "
        "holds if there is no true difference; equivalent within the margin does not say that there is none.",
        *_planned(plan),
        "## Runs",
        _runs(rows),
        "## McNemar, seed by seed",
        table(
            "seed | TensorFlow alone right | Lightning alone right | p",
            "r r r r",
            [
                f"{pair['seed']} | {pair['only_theirs_right']:,} | {pair['only_ours_right']:,} | {pair['p']:.2g}"
                for pair in figures["mcnemar"]
            ],
        ),
        "McNemar's test compares two trained models, not two systems: with so many images any two trainings differ by "
        "it, those of one framework too. What tells of the systems is whether pairs across the frameworks differ more "
        "than pairs within one:",
        table(
            "pairs of models | number | images decided differently | of them p < 0.05",
            "l r r r",
            [
                f"{name} | {pair['pairs']} | {100 * pair['disagreement']:.2f} % | {pair['significant']}"
                for name, pair in figures["pairs"].items()
            ],
        ),
        f"[runs.csv](runs.csv) and {kept} are what this page is computed from.",
    ]


def _setting(plan: dict[str, Any], rows: list[Row]) -> str:
    """How they are trained, and where the runs that are there were."""
    text = (
        f"{len(rows)} trainings{_when(rows)}: `{_PROGRAM} train`, then `verdict`, which writes this page. Both systems "
        f"train on one {plan['protocol']} split of {plan['sample']:,} images of CIFAKE (70/20/10, seed "
        f"{plan['split_seed']}), from random weights, {plan['epochs']} epochs in float32, each with its own "
        "initialisation, order, augmentation, dropout and JPEG decoder, and are then asked about CIFAKE's own 20,000 "
        "test images. The one change to the recipe, on both sides, is the learning rate's decay: "
        f"{plan['lr_decay']} an epoch instead of 0.95, so that a short training comes to rest; at 0.95 the accuracy "
        "after so few epochs varied by 3 points between seeds of one system. "
        f"{plan['threads']} thread(s) a training, two at a time."
    )
    where = sorted({row["where"] for row in rows if "where" in row})
    if "processor" in plan:  # of the pilot: all its runs were made in one place
        versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
        where = [f"{plan['processor']}; {versions}"]
    return f"{text} {' '.join(f'{place}.' for place in where)}".strip()


def _planned(plan: dict[str, Any], up: str = "") -> list[str]:
    """What was fixed before the first run; nothing where the plan tells no power (the pilot's)."""
    if "power" not in plan:
        return []
    differences = list(next(iter(plan["power"].values()))["by_difference"])
    lines = []
    for measure, found in plan["power"].items():
        deviations = " and ".join(f"{100 * deviation:.2f}" for deviation in found["deviations"])
        shares = " | ".join(f"{100 * found['by_difference'][each]:.0f} %" for each in differences)
        lines.append(f"{measure} | {deviations} | {shares}")
    half, of_all = (" --half", "each system") if on_a_gpu(plan) else ("", "both systems")
    header = " | ".join(f"power at a true difference of {100 * float(each):g}" for each in differences)
    return [
        "## What was fixed before",
        f"Written on {plan['written']}, before the first of these runs, by `{_PROGRAM} plan{half}`: the margin, "
        f"{100 * plan['margin']:.1f} points of accuracy and of AUROC; the seeds, {plan['seeds'][0]} to "
        f"{plan['seeds'][-1]}, of {of_all}; and how often so many seeds would show the two equivalent, by the "
        f"deviations between seeds of [five earlier ones each]({up}pilot/README.md), whose runs are not counted here.",
        table(
            f"measure | deviation of TensorFlow and of Lightning, points | {header}",
            f"l r {'r ' * len(differences)}".strip(),
            lines,
        ),
    ]


def _runs(rows: list[Row]) -> str:
    return table(
        "framework | seed | accuracy | AUROC | best epoch | its val_loss | seconds",
        "l r r r r r r",
        [
            f"{row['framework']} | {row['seed']} | {row['accuracy']:.4f} | {row['auroc']:.4f} | "
            f"{int(row['best_epoch']) + 1} | {float(row['best_val_loss']):.4f} | {float(row['seconds']):.0f}"
            for row in rows
        ],
    )


def _measure_line(measure: str, found: dict[str, Any]) -> str:
    sides = [f"{found[side]['mean']:.4f} ({found[side]['sd']:.4f})" for side in ("theirs", "ours")]
    low, high = found["interval_90"]
    return (
        f"{measure} | {' | '.join(sides)} | {found['difference']:+.4f} | {low:+.4f} to {high:+.4f} | "
        f"{found['p']:.2g} | {found['verdict']} | {found['p_none']:.2g} | {found['seeds_needed']}"
    )
