"""What the pages' figures are taken from: files that commands recorded, and what is computed of them."""

import csv
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "docs/results"
EVALUATIONS = "docs/evaluations"

sys.path.insert(0, str(ROOT))  # run as a script, docs/figures.py finds the packages of this checkout

from lightning_cifake.benchmark.side_by_side import groups, range_text, read_records  # noqa: E402
from lightning_cifake.evaluation.intervals import seeds_interval  # noqa: E402
from lightning_cifake.shipped import MODELS  # noqa: E402

BENCHMARKS = "docs/benchmark"
RANGES = {
    "benchmark": "On a processor, float32",
    "benchmark-bf16": "On a processor, bf16-mixed",
    "benchmark-gpu": "On a GPU, float32",
    "benchmark-gpu-bf16": "On a GPU, bf16-mixed",
    "benchmark-gpu-fp16": "On a GPU, 16-mixed",
}
"""Sources of several records, by their section on docs/benchmark's page: a figure is the range over them."""
SOURCES: dict[str, str | Callable[[], Any]] = {
    "gpu": f"{BENCHMARKS}/gpu/steps.json",
    "gpu-compiled": f"{BENCHMARKS}/gpu/compiled.json",
    "gpu-t4": f"{BENCHMARKS}/gpu/t4/metrics.json",
    "published": f"{RESULTS}/published/metrics.json",
    "published-official": f"{RESULTS}/published/test-official/metrics.json",
    "early-stop": f"{RESULTS}/published-early-stop/metrics.json",
    "early-stop-official": f"{RESULTS}/published-early-stop/test-official/metrics.json",
    "clean": f"{RESULTS}/clean/metrics.json",
    "clean-official": f"{RESULTS}/clean/test-official/metrics.json",
    "official": f"{RESULTS}/official/metrics.json",
    "halving": f"{RESULTS}/official-halving/metrics.json",
    "cpu": f"{RESULTS}/official-cpu/metrics.json",
    "float32": f"{RESULTS}/official-halving/cifake-float32.json",
    "float16": f"{RESULTS}/official-halving/cifake-float16.json",
    "int8": f"{RESULTS}/official-halving/cifake-int8.json",
    **{name: f"checkpoints/{Path(model.file).stem}.json" for name, model in MODELS.items()},  # their manifests
    "compact-cpu": f"{RESULTS}/compact-two-cores/metrics.json",
    **{f"evaluation-{name}": f"{EVALUATIONS}/{name}/metrics.json" for name in MODELS},
    **{name: lambda name=name: _benchmarks(RANGES[name]) for name in RANGES},
    "seeds-bf16": f"{BENCHMARKS}/bf16/bf16-mixed.json",
    "seeds-float32": f"{BENCHMARKS}/bf16/float32.json",
    "seeds-of-both": lambda: _bf16_against_float32(),
    "busy": "docs/benchmark/busy.json",
    "minutes": "docs/minutes/minutes.json",
    "flips": "docs/reliability/flips.json",
    "leaderboard": "docs/leaderboard/leaderboard.json",
    "features": f"{RESULTS}/features/metrics.json",
    "features-validation": lambda: _features_validation(),
    "transfer": "docs/transfer/transfer.json",
    "larger": f"{RESULTS}/larger.json",
    "others": f"{RESULTS}/other-generators.json",
    "epoch": "docs/parity/epoch/course.json",
    "parity": lambda: _parity(),
    "equivalence": lambda: _equivalence(),
    "equivalence-plan": lambda: _plan(),
    "half-trained": lambda: _half_trained(),
    "half-gpu": "docs/parity/half_on_a_gpu.json",
    "load": "docs/serve/load.json",
    "road": f"{BENCHMARKS}/road.json",
    "road-slowest": lambda: {"help": max(each["seconds"]["median"] for each in value("road", "start.help").values())},
    "leak": lambda: _leak(),
}


@cache
def source(name: str) -> Any:
    if name not in SOURCES:
        raise SystemExit(f"no source {name}: expected one of {', '.join(SOURCES)}")
    found = SOURCES[name]
    return json.loads((ROOT / found).read_text()) if isinstance(found, str) else found()


def value(name: str, key: str) -> Any:
    """What a source holds under a key: ``model.bytes/1e6``, ``confusion_matrix.0.1``."""
    return _under(source(name), name, key)


def _under(found: Any, name: str, key: str) -> Any:
    path, _, divisor = key.partition("/")
    for part in path.split("."):
        try:
            found = found[int(part) if isinstance(found, list) else part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise SystemExit(f"{name} has nothing under {key}") from None
    return found / float(divisor) if divisor else found


def values(name: str, key: str) -> list[Any]:
    """What each record of a source of several holds; one that lacks it is left out."""
    found = []
    for record in source(name).values():
        try:
            found.append(_under(record, name, key))
        except SystemExit:
            continue
    if not found:
        raise SystemExit(f"{name} has nothing under {key}")
    return found


def text(name: str, key: str, form: str) -> str:
    """A figure as the pages write it: 92.62 %, 1,530, 2.5e-5; of several records 1.49 to 1.92."""
    made = range_text(values(name, key), form) if name in RANGES else format(value(name, key), form)
    made = re.sub(r"e([-+])0*(\d)", lambda e: f"e{e[1].replace('+', '')}{e[2]}", made)
    return made.replace("%", " %")


def _benchmarks(section: str) -> dict[str, Any]:
    """The records of a section, by the name of their folder."""
    return dict(groups(read_records(ROOT / BENCHMARKS)).get(section, {}))


def is_recorded(name: str) -> bool:
    """Whether a source that is a file is there."""
    return (ROOT / str(SOURCES[name])).is_file()


def is_evaluated(name: str) -> bool:
    return is_recorded(f"evaluation-{name}")


def _bf16_against_float32() -> dict[str, Any]:
    """How much more the recipe reaches in bf16, in points, seed by seed: ``points``, and the ends of its interval."""
    half, full = (source(f"seeds-{name}")["runs"] for name in ("bf16", "float32"))
    if set(half) != set(full):
        raise SystemExit("docs/benchmark/bf16: expected the same seeds of both")
    found = {}
    for measure in ("accuracy", "auroc"):
        apart = [100 * (half[seed][measure] - full[seed][measure]) for seed in half]
        low, high = seeds_interval(apart)
        found[measure] = {"points": fmean(apart), "low": low, "high": high}
    return found


PARITY_ROWS = {
    "loss_100": "loss of each of 100 steps, float64",
    "weights_100": "all weights and statistics after 100 steps, float64",
    "jpeg_decisions": "JPEG decoder against the accurate one: decisions changed",
    "jpeg_points": "JPEG decoder against the accurate one: change of accuracy",
    "course_bf16": "200 steps in bf16: loss of a step, mean of all: Lightning's distance from float64",
    "course_bf16_theirs": "200 steps in bf16: loss of a step, mean of all: TensorFlow's distance from float64",
    "course_fp16": "200 steps in fp16: loss of a step, mean of all: Lightning's distance from float64",
    "course_fp16_theirs": "200 steps in fp16: loss of a step, mean of all: TensorFlow's distance from float64",
    "epoch_step": "last compared step with all weights within 1e-8 of TensorFlow's",
    "epoch_weights": "all weights at its end, apart from TensorFlow's",
    "epoch_weights_nudged": "all weights at its end, apart from our own",
}
"""Measured values of docs/parity that the pages name: the end of the row's text."""


def _parity() -> dict[str, Any]:
    """How many claims and deliberate faults docs/parity holds, a claim's cases counted as one; PARITY_ROWS' values."""
    rows = json.loads((ROOT / "docs/parity/parity.json").read_text())["claims"]
    found: dict[str, Any] = {
        name: next((row["measured"] for row in rows if row["text"].endswith(end)), None)
        for name, end in PARITY_ROWS.items()
    }
    for kind, noun in (("claim", "claims"), ("fault", "faults")):
        verdicts: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            if row["kind"] == kind:
                verdicts.setdefault((row["rung"], row["text"]), set()).add(row["verdict"])
        found[noun] = len(verdicts)
        found[f"{noun}_hold"] = sum(each == {"holds"} for each in verdicts.values())
    return found


def _equivalence() -> dict[str, Any]:
    """The verdict on the independent trainings; ``pilot``: on the five before them, ``all``: on both."""
    from parity_tests.verdict import FOLDER, MEASURES, PILOT, together, verdict

    found = {"pilot": verdict(PILOT), **verdict(FOLDER)}
    found["all"] = together([FOLDER, PILOT], found["plan"]["margin"])
    for measure in MEASURES:
        for tests in (found, found["pilot"], found["all"]):
            _in_points(tests[measure])
    return found


def _in_points(test: dict[str, Any]) -> None:
    """Adds to an equivalence test its difference and interval, deviations and margin in points."""
    test["points"] = 100 * test["difference"]
    test["low"], test["high"] = (100 * end for end in test["interval_90"])
    for side in ("theirs", "ours"):
        test[side]["sd_points"] = 100 * test[side]["sd"]
    test["margin_points"] = 100 * test["margin"]


def _half_trained() -> dict[str, Any]:
    """Lightning on a GPU by precision, against TensorFlow; ``within``: fp16 and bf16 against its float32 there."""
    from parity_tests.verdict import half_verdict, precision_verdict

    found: dict[str, Any] = half_verdict()
    within = {name.split()[0]: tests for name, tests in precision_verdict().items() if name.endswith("both on the GPU")}
    for tests in [*found.values(), *within.values()]:
        for test in tests.values():
            _in_points(test)
    return {**found, "within": within}


def _plan() -> dict[str, Any]:
    """What the independent trainings were planned to be: ``margin_points``, ``seeds`` of them, ``power``."""
    from parity_tests.verdict import FOLDER, read_plan

    plan = read_plan(FOLDER)
    power = {name: list(found["by_difference"].values()) for name, found in plan["power"].items()}
    return {"margin_points": 100 * plan["margin"], "seeds": len(plan["seeds"]), "power": power}


def _leak() -> dict[str, float]:
    """What the tables of results say in differences and shares."""

    def points(one: str, other: str) -> float:
        return 100 * (value(one, "accuracy") - value(other, "accuracy"))

    def share(name: str, row: int, column: int) -> float:
        matrix = value(name, "confusion_matrix")  # rows: what the image is, columns: what is said; AI, then REAL
        return matrix[row][column] / sum(matrix[row])

    return {
        "published_lift": points("published", "published-official"),
        "clean_gap": points("clean-official", "clean"),
        "images_more": value("published", "split_sizes.train") - value("clean", "split_sizes.train"),
        "official_ai_found": share("official", 0, 0),
        "official_real_called_ai": share("official", 1, 0),
        "halving_ai_found": share("halving", 0, 0),
        "halving_real_called_ai": share("halving", 1, 0),
        **{
            f"{run}_error": 100 * (value(run, "accuracy") * (1 - value(run, "accuracy")) / value(run, "images")) ** 0.5
            for run in ("published", "clean", "halving")
        },
    }


def _features_validation() -> dict[str, dict[str, float]]:
    """Figures on validation of each part and fusion of `features`."""
    with (ROOT / RESULTS / "features" / "parts-validation.csv").open(encoding="utf-8") as file:
        return {row.pop("part"): {key: float(cell) for key, cell in row.items()} for row in csv.DictReader(file)}
