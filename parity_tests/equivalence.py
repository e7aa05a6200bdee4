"""Are the two systems equivalent when each trains with its own random numbers? Trains, tabulates, tests.

    python -m parity_tests.equivalence train --data.root CIFAKE.zip --work FOLDER --seeds 0 1 2 3 4
    python -m parity_tests.equivalence verdict

``train`` cuts one clean split, runs ``tf_reference fit`` and ``lightning_cifake fit`` on the same files once a seed,
each as a user would run it (own initialisation, order, augmentation, dropout and JPEG decoder), asks both about
CIFAKE's own 20,000 test images and writes one row a run and every decision to ``docs/parity/equivalence``. Finished
runs are kept: stopped, it goes on. ``verdict`` tests what is there.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.files import write_whole

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "parity" / "equivalence"
FRAMEWORKS = ("tensorflow", "lightning")
MARGIN = 0.015  # of accuracy, and of AUROC: differences below it are none, fixed before the first run
ALPHA = 0.05
SAMPLE, EPOCHS, SPLIT_SEED = 10_000, 4, 0

Row = dict[str, Any]


def train(root: str, work: Path, seeds: Sequence[int], epochs: int, sample: int, threads: int) -> None:
    """Runs what is not yet there, the two frameworks side by side, and writes the table after each."""
    split, data = _prepare(root, work, sample)
    plan = {"sample": sample, "epochs": epochs, "split_seed": SPLIT_SEED, "threads": threads, "protocol": "clean"}

    def queue(framework: str) -> None:
        for seed in seeds:
            folder = work / f"{framework}-{seed}"
            if not (folder / "done.json").is_file():
                _run(framework, seed, folder, root, split, data, epochs, threads)
            collect(work, plan)

    with ThreadPoolExecutor(len(FRAMEWORKS)) as pool:
        list(pool.map(queue, FRAMEWORKS))


def _prepare(root: str, work: Path, sample: int) -> tuple[Path, Path]:
    """(split.json, folder with the files that TensorFlow reads: those of the split, and CIFAKE's test part)."""
    images = load_images(root)
    split = make_split(images, "clean", SPLIT_SEED, sample)
    path, data = work / "split.json", work / "files"
    work.mkdir(parents=True, exist_ok=True)
    write_split(path, images, split)
    wanted = [*np.concatenate([split.train, split.val, split.test]), *np.flatnonzero(images.parts == "test")]
    names = {images.paths[i] for i in wanted}
    if data.is_dir() and sum(1 for _ in data.rglob("*.jpg")) == len(names):
        return path, data
    print(f"unpacking {len(names):,} files for TensorFlow", flush=True)
    with zipfile.ZipFile(root) as archive:
        for entry in archive.namelist():
            name = entry.split("/DATASET/")[-1]
            if name in names:
                target = data / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))
                names.discard(name)
    if names:
        raise SystemExit(f"error: {root} lacks {len(names)} of the split's files, first {min(names)}")
    return path, data


def _run(
    framework: str, seed: int, folder: Path, root: str, split: Path, data: Path, epochs: int, threads: int
) -> None:
    python = [sys.executable, "-m"]
    test = folder / "official"
    if framework == "tensorflow":
        fit = ["tf_reference", "fit", "--data", data, "--split", split, "--weights", "none", "--seed", seed]
        fit += ["--epochs", epochs, "--output", folder]
        ask = ["tf_reference", "evaluate", "--model", folder / "ai_imageclassifier.keras"]
        ask += ["--data", data / "test", "--all", "--output", test]
    else:
        fit = ["lightning_cifake", "fit", "--config", "clean", "--data.root", root, "--data.split_file", split]
        fit += ["--seed_everything", seed, "--data.seed", seed, "--trainer.max_epochs", epochs, "--output_dir", folder]
        ask = ["lightning_cifake", "test", "--ckpt_path", folder / "best.ckpt", "--output_dir", test]
        ask += ["--data.protocol", "official", "--data.sample", "null", "--data.split_file", "null"]
    count = str(threads)
    environment = {
        **os.environ, "OMP_NUM_THREADS": count, "TF_NUM_INTRAOP_THREADS": count, "TF_NUM_INTEROP_THREADS": count
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for command in (fit, ask):
        with (folder / "log.txt").open("a") as log:
            finished = subprocess.run(
                [*python, *(str(part) for part in command)], stdout=log, stderr=log, env=environment, check=False
            )
        if finished.returncode:
            raise SystemExit(f"error: {framework}, seed {seed}: see {folder / 'log.txt'}")
    seconds = round(time.monotonic() - started, 1)
    write_whole(folder / "done.json", json.dumps({"seconds": seconds, "date": date.today().isoformat()}))
    print(f"{framework} seed {seed}: {seconds:.0f} s", flush=True)


def collect(work: Path, plan: dict[str, Any], output: Path = FOLDER) -> None:
    """Writes runs.csv, decisions.npz and plan.json of the runs that are done."""
    rows, decisions, labels = [], {}, None
    for framework in FRAMEWORKS:
        for done in sorted(work.glob(f"{framework}-*/done.json"), key=lambda path: int(path.parent.name.split("-")[1])):
            folder = done.parent
            seed = int(folder.name.split("-")[1])
            paths, target, prob = _predictions(folder / "official" / "predictions.csv")
            if labels is None:
                labels, first = target, paths
            assert paths == first and np.array_equal(target, labels), "both are asked about the same images"
            metrics = binary_metrics(prob, target)
            losses, accuracies = _validation(framework, folder)
            rows.append(
                {
                    "framework": framework,
                    "seed": seed,
                    "accuracy": metrics["accuracy"],
                    "auroc": metrics["auroc"],
                    "epochs": len(losses),
                    "best_epoch": int(np.argmin(losses)),
                    "best_val_loss": min(losses),
                    "best_val_accuracy": accuracies[int(np.argmin(losses))],
                    **json.loads(done.read_text()),
                }
            )
            decisions[f"{framework}-{seed}"] = np.packbits(prob > 0.5)
    if not rows:
        return
    output.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    packed = io.BytesIO()
    np.savez_compressed(packed, labels=np.packbits(labels > 0), images=len(labels), **decisions)
    write_whole(output / "plan.json", json.dumps(plan, indent=1) + "\n")
    write_whole(output / "decisions.npz", packed.getvalue())
    write_whole(output / "runs.csv", text.getvalue())


def _predictions(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names as FAKE/1.jpg, labels, probabilities of REAL), by name, whatever folder each was given."""
    with path.open(newline="") as file:
        rows = [
            ("/".join(Path(row["path"]).parts[-2:]), row["label"] in ("1", "REAL"), float(row["prob_real"]))
            for row in csv.DictReader(file)
        ]
    rows.sort()
    names, labels, prob = zip(*rows, strict=True)
    return list(names), np.array(labels, np.int64), np.array(prob, np.float32)


def _validation(framework: str, folder: Path) -> tuple[list[float], list[float]]:
    if framework == "tensorflow":
        history = json.loads((folder / "history.json").read_text())
        return history["val_loss"], history["val_accuracy"]
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["val_loss"]) for row in rows], [float(row["val_accuracy"]) for row in rows]


def read_runs(folder: Path = FOLDER) -> tuple[list[Row], dict[str, np.ndarray], np.ndarray]:
    """(rows, decisions ``framework-seed`` -> (N,) bool, labels (N,) bool) as :func:`collect` wrote them."""
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
    margin), the larger of the two p-values, ``verdict`` (``equivalent``, ``different``: the 95 % interval leaves out 0
    and the 90 % one is not within the margin, or ``inconclusive``), and ``seeds_needed``: a framework, for a power of
    80 % if the true difference is none. Source: Schuirmann 1987.
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
    """All tests on what :func:`collect` wrote."""
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
    figures["disagreement"] = {
        "tensorflow_tensorflow": _disagreement(decisions, combinations(names["tensorflow"], 2)),
        "lightning_lightning": _disagreement(decisions, combinations(names["lightning"], 2)),
        "tensorflow_lightning": _disagreement(decisions, product(names["tensorflow"], names["lightning"])),
    }
    return figures


def _disagreement(decisions: dict[str, np.ndarray], pairs: Any) -> float:
    """Mean share of images about which the two models of a pair decide differently."""
    return float(np.mean([np.mean(decisions[a] != decisions[b]) for a, b in pairs]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m parity_tests.equivalence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train what is not yet trained, and write the table")
    training.add_argument("--data.root", dest="root", default=os.environ.get("CIFAKE_ROOT"), help="CIFAKE's zip")
    training.add_argument("--work", type=Path, required=True, help="folder for models and logs; finished runs are kept")
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    training.add_argument("--epochs", type=int, default=EPOCHS)
    training.add_argument("--sample", type=int, default=SAMPLE)
    training.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    commands.add_parser("verdict", help="test what the table holds")
    options = parser.parse_args(arguments)
    if options.command == "train":
        if not options.root or not zipfile.is_zipfile(options.root):
            parser.error(f"--data.root: expected CIFAKE's zip, came {options.root}")
        train(options.root, options.work, options.seeds, options.epochs, options.sample, options.threads)
        return 0
    print(json.dumps(verdict(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
