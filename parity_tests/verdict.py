"""The verdict on independent trainings of the two systems: what equivalence.py recorded, and the tests on it."""

import csv
import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "parity" / "equivalence"
PILOT = FOLDER / "pilot"
"""Five seeds each, which gave the plan its deviations."""
HALF = FOLDER / "half"
"""Lightning alone on a GPU, in half precision and in float32; judged against the TensorFlow of :data:`FOLDER`."""
PLAN, RUNS, PREDICTIONS, DECISIONS, PAGE = "plan.json", "runs.csv", "predictions.npz", "decisions.npz", "README.md"
FRAMEWORKS = ("tensorflow", "lightning")
MEASURES = ("accuracy", "auroc")
ALPHA = 0.05
POWER = 0.8
LEVELS = 65_535
"""A probability is kept in 16 bits, as so many of these; above half of them an image is called real."""

Row = dict[str, Any]


def read_plan(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / PLAN).read_text())
    return found


def read_runs(folder: Path) -> tuple[list[Row], dict[str, np.ndarray], np.ndarray]:
    """(rows, decisions ``framework-seed`` -> (N,) bool, labels (N,) bool) as ``equivalence.collect`` wrote them."""
    with (folder / RUNS).open(newline="") as file:
        rows: list[Row] = [{**row, **{key: float(row[key]) for key in MEASURES}} for row in csv.DictReader(file)]
    if (folder / PREDICTIONS).is_file():
        values, labels = read_predictions(folder)
        return rows, {name: value > LEVELS // 2 for name, value in values.items()}, labels
    with np.load(folder / DECISIONS) as packed:  # of the pilot, which kept no probabilities
        count = int(packed["images"])
        bits = {name: np.unpackbits(packed[name])[:count] > 0 for name in packed.files if name != "images"}
    return rows, {name: value for name, value in bits.items() if name != "labels"}, bits["labels"]


def read_predictions(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(``framework-seed`` -> (N,) uint16, P(REAL) times :data:`LEVELS`; labels (N,) bool)."""
    with np.load(folder / PREDICTIONS) as packed:
        found = {name: packed[name] for name in packed.files}
    return found, found.pop("labels") > 0


def on_a_gpu(plan: dict[str, Any]) -> bool:
    """Is it of Lightning alone on a GPU, and not of both frameworks on a CPU?"""
    return "systems" in plan


def systems_of(plan: dict[str, Any]) -> dict[str, list[str]]:
    """What is trained: a name in the column ``framework`` -> what is added to Lightning's commands."""
    found: dict[str, list[str]] = plan.get("systems", {name: [] for name in FRAMEWORKS})
    return found


def missing_runs(folder: Path) -> list[tuple[str, int]]:
    """(framework, seed) of the plan's trainings that are not recorded yet; a GPU's system by system."""
    rows = read_runs(folder)[0] if (folder / RUNS).is_file() else []
    done = {(row["framework"], int(row["seed"])) for row in rows}
    plan = read_plan(folder)
    if on_a_gpu(plan):
        wanted = [(name, seed) for name in systems_of(plan) for seed in plan["seeds"]]
    else:
        wanted = [(name, seed) for seed in plan["seeds"] for name in systems_of(plan)]
    return [each for each in wanted if each not in done]


def equivalence_test(theirs: Sequence[float], ours: Sequence[float], margin: float) -> dict[str, Any]:
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
        "seeds_needed": seeds_needed((float(theirs.std(ddof=1)), float(ours.std(ddof=1))), margin),
    }


def power_of(deviations: tuple[float, float], runs: int, margin: float, difference: float = 0.0) -> float:
    """How often two one-sided Welch t-tests call two systems equivalent, of so many runs each.

    Args:
        deviations: standard deviation between seeds, of each system.
        difference: the true one, of the same unit as the margin.

    The usual approximation by shifted t-distributions, with Welch's degrees of freedom; a test holds it against draws.
    Source: Chow, Shao and Wang, Sample Size Calculations in Clinical Research, 2008, section 3.2.
    """
    first, second = (deviation**2 / runs for deviation in deviations)
    if first + second == 0:
        return float(abs(difference) < margin)
    error = np.sqrt(first + second)
    freedom = (runs - 1) * (first + second) ** 2 / (first**2 + second**2)
    needed = stats.t.ppf(1 - ALPHA, freedom)
    below, above = (stats.t.cdf((margin + side * difference) / error - needed, freedom) for side in (-1, 1))
    return float(max(0.0, below + above - 1))


def seeds_needed(deviations: tuple[float, float], margin: float) -> int:
    """Runs of each system for a power of :data:`POWER` when the true difference is none."""
    for runs in range(2, 100_000):
        if power_of(deviations, runs, margin) >= POWER:
            return runs
    raise ValueError(f"no number of runs reaches a margin of {margin} with deviations of {deviations}")


def mcnemar(theirs: np.ndarray, ours: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test on (N,) bool decisions of two models about the same images.

    Returns ``only_theirs_right``, ``only_ours_right`` (counts) and ``p``, of both being right equally often.
    """
    b = int(((theirs == labels) & (ours != labels)).sum())
    c = int(((theirs != labels) & (ours == labels)).sum())
    p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return {"only_theirs_right": b, "only_ours_right": c, "p": p}


def verdict(folder: Path) -> dict[str, Any]:
    """All tests on what ``equivalence.collect`` wrote."""
    rows, decisions, labels = read_runs(folder)
    theirs, ours = (_of(rows, name) for name in FRAMEWORKS)
    plan = read_plan(folder)
    figures: dict[str, Any] = {"plan": plan, "images": len(labels), **_tests(theirs, ours, plan["margin"])}
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


def half_verdict(folder: Path = HALF, against: Path = FOLDER) -> dict[str, dict[str, dict[str, Any]]]:
    """Each system of which all runs are there -> measure -> :func:`equivalence_test` against TensorFlow's runs.

    Empty while some of TensorFlow's are missing.
    """
    if missing_runs(against):
        return {}
    theirs = _of(read_runs(against)[0], "tensorflow")
    plan, complete = _complete(folder)
    return {system: _tests(theirs, rows, plan["margin"]) for system, rows in complete.items()}


def precision_verdict(folder: Path = HALF, against: Path = FOLDER) -> dict[str, dict[str, dict[str, Any]]]:
    """Lightning against Lightning: each half precision against float32 on the GPU, and that against the CPU's.

    What was compared -> measure -> :func:`equivalence_test`; what is incomplete is left out.
    """
    plan, complete = _complete(folder)
    if "float32" not in complete:
        return {}
    found = {
        f"{system} against float32, both on the GPU": _tests(complete["float32"], rows, plan["margin"])
        for system, rows in complete.items()
        if system != "float32"
    }
    if not missing_runs(against):
        on_cpu = _of(read_runs(against)[0], "lightning")
        found["float32 on the GPU against float32 on a CPU"] = _tests(on_cpu, complete["float32"], plan["margin"])
    return found


def together(folders: Sequence[Path], margin: float) -> dict[str, dict[str, Any]]:
    """Measure -> :func:`equivalence_test` on the runs of both frameworks in all these folders."""
    rows = [row for folder in folders for row in read_runs(folder)[0]]
    return _tests(*(_of(rows, name) for name in FRAMEWORKS), margin)


def _complete(folder: Path) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    """(plan, its systems of which all runs are there -> their rows)."""
    plan, missing = read_plan(folder), {name for name, _ in missing_runs(folder)}
    rows = read_runs(folder)[0] if (folder / RUNS).is_file() else []
    return plan, {name: _of(rows, name) for name in systems_of(plan) if name not in missing}


def _of(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["framework"] == name]


def _tests(theirs: list[Row], ours: list[Row], margin: float) -> dict[str, dict[str, Any]]:
    return {
        measure: equivalence_test([row[measure] for row in theirs], [row[measure] for row in ours], margin)
        for measure in MEASURES
    }


def _pairs(decisions: dict[str, np.ndarray], labels: np.ndarray, pairs: Any) -> dict[str, Any]:
    """Of all pairs of models: how many, the mean share of images decided differently, and McNemar below ALPHA."""
    found = [(decisions[a], decisions[b]) for a, b in pairs]
    return {
        "pairs": len(found),
        "disagreement": float(np.mean([np.mean(a != b) for a, b in found])),
        "significant": sum(mcnemar(a, b, labels)["p"] < ALPHA for a, b in found),
    }
