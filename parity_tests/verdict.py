"""The verdict on independent trainings of the two systems: equivalence tests, McNemar, and the page that tells them."""

import csv
import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from parity_tests.report import table

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "parity" / "equivalence"
FRAMEWORKS = ("tensorflow", "lightning")
MARGIN = 0.015  # of accuracy, and of AUROC: differences below it are none, fixed before the first run
ALPHA = 0.05

Row = dict[str, Any]


def read_runs(folder: Path = FOLDER) -> tuple[list[Row], dict[str, np.ndarray], np.ndarray]:
    """(rows, decisions ``framework-seed`` -> (N,) bool, labels (N,) bool) as ``equivalence.collect`` wrote them."""
    with (folder / "runs.csv").open(newline="") as file:
        rows: list[Row] = [
            {**row, **{key: float(row[key]) for key in ("accuracy", "auroc")}} for row in csv.DictReader(file)
        ]
    with np.load(folder / "decisions.npz") as packed:
        count = int(packed["images"])
        bits = {name: np.unpackbits(packed[name])[:count] > 0 for name in packed.files if name != "images"}
    return rows, {name: value for name, value in bits.items() if name != "labels"}, bits["labels"]


def equivalence_test(theirs: Sequence[float], ours: Sequence[float], margin: float = MARGIN) -> dict[str, Any]:
    """Two one-sided Welch t-tests: is the difference of the means, ours less theirs, within the margin?

    Returns means, standard deviations, difference, its 90 % interval (the tests at 5 % ask whether it lies within the
    margin), ``p``, the larger of the two, ``p_none``, of no difference at all (Welch), ``verdict`` (``equivalent``,
    ``different``: the 95 % interval leaves out 0 and the 90 % one is not within the margin, or ``inconclusive``), and
    ``seeds_needed``: a framework, for a power of 80 % if the true difference is none. Source: Schuirmann 1987.
    """
    theirs, ours = np.asarray(theirs, float), np.asarray(ours, float)
    upper = stats.ttest_ind(ours - margin, theirs, equal_var=False, alternative="less").pvalue
    lower = stats.ttest_ind(ours + margin, theirs, equal_var=False, alternative="greater").pvalue
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(1 - 2 * ALPHA)
    wide = test.confidence_interval(1 - ALPHA)
    p = float(max(upper, lower))
    apart = not wide.low <= 0 <= wide.high
    verdict = "equivalent" if p < ALPHA else "different" if apart else "inconclusive"
    return {
        "theirs": {"mean": float(theirs.mean()), "sd": float(theirs.std(ddof=1)), "runs": len(theirs)},
        "ours": {"mean": float(ours.mean()), "sd": float(ours.std(ddof=1)), "runs": len(ours)},
        "difference": float(ours.mean() - theirs.mean()),
        "interval_90": [float(interval.low), float(interval.high)],
        "p": p,
        "p_none": float(test.pvalue),
        "margin": margin,
        "verdict": verdict,
        "seeds_needed": seeds_needed(theirs.var(ddof=1) + ours.var(ddof=1), margin),
    }


def seeds_needed(variance_sum: float, margin: float = MARGIN, power: float = 0.8) -> int:
    """Runs a framework for two one-sided t-tests of the given power when the true difference is none.

    ``variance_sum`` is the sum of the two variances between seeds.
    """
    for runs in range(2, 100_000):
        error = np.sqrt(variance_sum / runs)
        freedom = 2 * (runs - 1)
        reach = (margin / error) - stats.t.ppf(1 - ALPHA, freedom) if error else np.inf
        if 2 * stats.t.cdf(reach, freedom) - 1 >= power:
            return runs
    raise ValueError(f"no number of runs reaches a margin of {margin} with a variance of {variance_sum}")


def mcnemar(theirs: np.ndarray, ours: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test on (N,) bool decisions of two models about the same images.

    Returns ``only_theirs_right``, ``only_ours_right`` (counts) and ``p``, of both being right equally often.
    """
    b = int(((theirs == labels) & (ours != labels)).sum())
    c = int(((theirs != labels) & (ours == labels)).sum())
    p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return {"only_theirs_right": b, "only_ours_right": c, "p": p}


def verdict(folder: Path = FOLDER) -> dict[str, Any]:
    """All tests on what ``equivalence.collect`` wrote."""
    rows, decisions, labels = read_runs(folder)
    by = {name: [row for row in rows if row["framework"] == name] for name in FRAMEWORKS}
    theirs, ours = by["tensorflow"], by["lightning"]
    figures: dict[str, Any] = {"plan": json.loads((folder / "plan.json").read_text()), "images": len(labels)}
    for measure in ("accuracy", "auroc"):
        figures[measure] = equivalence_test([row[measure] for row in theirs], [row[measure] for row in ours])
    pairs = {int(row["seed"]): [f"{name}-{row['seed']}" for name in FRAMEWORKS] for row in ours}
    figures["mcnemar"] = [
        {"seed": seed, **mcnemar(decisions[tensorflow], decisions[lightning], labels)}
        for seed, (tensorflow, lightning) in pairs.items()
        if tensorflow in decisions
    ]
    names = {name: [key for key in decisions if key.startswith(name)] for name in FRAMEWORKS}
    figures["pairs"] = {
        "two of TensorFlow": _pairs(decisions, labels, combinations(names["tensorflow"], 2)),
        "two of Lightning": _pairs(decisions, labels, combinations(names["lightning"], 2)),
        "one of each": _pairs(decisions, labels, product(names["tensorflow"], names["lightning"])),
    }
    return figures


def _pairs(decisions: dict[str, np.ndarray], labels: np.ndarray, pairs: Any) -> dict[str, Any]:
    """Of all pairs of models: how many, the mean share of images decided differently, and McNemar below ALPHA."""
    found = [(decisions[a], decisions[b]) for a, b in pairs]
    return {
        "pairs": len(found),
        "disagreement": float(np.mean([np.mean(a != b) for a, b in found])),
        "significant": sum(mcnemar(a, b, labels)["p"] < ALPHA for a, b in found),
    }


def render(folder: Path = FOLDER) -> str:
    """The verdict as a page, in Markdown."""
    rows, _, _ = read_runs(folder)
    figures = verdict(folder)
    plan = figures["plan"]
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    days = sorted({row["date"] for row in rows})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    verdicts = [f"{measure}: **{figures[measure]['verdict']}**" for measure in ("accuracy", "auroc")]
    parts = [
        "# Trained independently, are the two systems equivalent?",
        f"{'; '.join(verdicts)}, at a margin of {100 * MARGIN:.1f} points (two one-sided Welch t-tests at "
        f"{100 * ALPHA:.0f} %).",
        f"{len(rows)} trainings, {when}: `python -m parity_tests.equivalence train`, then `verdict`, which writes this "
        "page. Both systems train on one clean split of "
        f"{plan['sample']:,} images of CIFAKE (70/20/10, seed {plan['split_seed']}), from random weights, "
        f"{plan['epochs']} epochs in float32, each with its own initialisation, order, augmentation, dropout and JPEG "
        "decoder, and are then asked about CIFAKE's own "
        f"{figures['images']:,} test images. The one change to the recipe, on both sides, is the learning rate's "
        f"decay: {plan['lr_decay']} an epoch instead of 0.95, so that a short training comes to rest; at 0.95 the "
        "accuracy after so few epochs varied by 3 points between seeds of one system. Processor: "
        f"{plan['processor']}, {plan['threads']} thread(s) a training, two at a time; {versions}.",
        table(
            "measure | TensorFlow, mean (sd) | Lightning, mean (sd) | difference | 90 % interval | p of equivalence "
            "| verdict | p of no difference at all | runs each for a power of 80 %",
            "l r r r r r l r r",
            [_measure_line(measure, figures[measure]) for measure in ("accuracy", "auroc")],
        ),
        "p of equivalence: how often a true difference of the margin would look as small as this. The last column "
        "holds if there is no true difference; equivalent within the margin does not say that there is none.",
        "## Runs",
        table(
            "framework | seed | accuracy | AUROC | best epoch | its val_loss | seconds",
            "l r r r r r r",
            [
                f"{row['framework']} | {row['seed']} | {row['accuracy']:.4f} | {row['auroc']:.4f} | "
                f"{int(row['best_epoch']) + 1} | {float(row['best_val_loss']):.4f} | {float(row['seconds']):.0f}"
                for row in rows
            ],
        ),
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
        "[runs.csv](runs.csv) and decisions.npz (every decision of every model) are what this page is computed from.",
    ]
    return "\n\n".join(parts) + "\n"


def _measure_line(measure: str, found: dict[str, Any]) -> str:
    sides = [f"{found[side]['mean']:.4f} ({found[side]['sd']:.4f})" for side in ("theirs", "ours")]
    low, high = found["interval_90"]
    return (
        f"{measure} | {' | '.join(sides)} | {found['difference']:+.4f} | {low:+.4f} to {high:+.4f} | "
        f"{found['p']:.2g} | {found['verdict']} | {found['p_none']:.2g} | {found['seeds_needed']}"
    )
