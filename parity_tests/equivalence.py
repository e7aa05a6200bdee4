"""Are the two systems equivalent when each trains with its own random numbers? Trains, tabulates, tests.

    python -m parity_tests.equivalence train --data.root CIFAKE.zip --work FOLDER --seeds 0 1 2 3 4
    python -m parity_tests.equivalence verdict

``train`` cuts one clean split, runs ``tf_reference fit`` and ``lightning_cifake fit`` on the same files once a seed,
each as a user would run it (own initialisation, order, augmentation, dropout and JPEG decoder), asks both about
CIFAKE's own 20,000 test images and writes one row a run and every decision to ``docs/parity/equivalence``. Finished
runs are kept: stopped, it resumes. ``verdict`` tests what is there.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.files import write_whole
from parity_tests.reference_run import unpack
from parity_tests.report import facts
from parity_tests.verdict import FOLDER, FRAMEWORKS, render

SAMPLE, EPOCHS, SPLIT_SEED = 10_000, 4, 0
# of the learning rate each epoch, where the paper has 0.95: that takes tens of epochs to come to rest, and after a few
# the accuracy of one system alone varied by 3 points from seed to seed: 60 runs a framework to decide
LR_DECAY = 0.5


def train(root: str, work: Path, seeds: Sequence[int], epochs: int, sample: int, threads: int) -> None:
    """Runs what is not yet there, two at a time, and writes the table after each."""
    split, data = _prepare(root, work, sample)
    here = facts()
    plan = {
        "sample": sample,
        "epochs": epochs,
        "lr_decay": LR_DECAY,
        "split_seed": SPLIT_SEED,
        "threads": threads,
        "protocol": "clean",
        "processor": here["machine"]["processor"],
        "versions": here["versions"],
    }

    def run(job: tuple[int, str]) -> None:
        seed, framework = job
        folder = work / f"{framework}-{seed}"
        if not (folder / "done.json").is_file():
            _run(framework, seed, folder, root, split, data, epochs, threads)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(run, product(seeds, FRAMEWORKS)):
            collect(work, plan)


def _prepare(root: str, work: Path, sample: int) -> tuple[Path, Path]:
    """(split.json, folder with the files that TensorFlow reads: those of the split, and CIFAKE's test part)."""
    images = load_images(root)
    split = make_split(images, "clean", SPLIT_SEED, sample)
    path, data = work / "split.json", work / "files"
    work.mkdir(parents=True, exist_ok=True)
    write_split(path, images, split)
    wanted = [*np.concatenate([split.train, split.val, split.test]), *np.flatnonzero(images.parts == "test")]
    print(f"unpacking for TensorFlow what is not yet there of {len(wanted):,} files", flush=True)
    unpack(root, {images.paths[i] for i in wanted}, data)
    return path, data


def _run(
    framework: str, seed: int, folder: Path, root: str, split: Path, data: Path, epochs: int, threads: int
) -> None:
    python = [sys.executable, "-m"]
    test = folder / "official"
    if framework == "tensorflow":
        fit = ["tf_reference", "fit", "--data.root", data, "--split", split, "--weights", "none", "--seed", seed]
        fit += ["--epochs", epochs, "--lr_decay", LR_DECAY, "--output", folder]
        ask = ["tf_reference", "evaluate", "--model", folder / "ai_imageclassifier.keras"]
        ask += ["--data.root", data / "test", "--all", "--output", test]
    else:
        fit = ["lightning_cifake", "fit", "--config", "clean", "--data.root", root, "--data.split_file", split]
        fit += ["--seed_everything", seed, "--data.seed", seed, "--trainer.max_epochs", epochs]
        fit += ["--model.lr_decay", LR_DECAY, "--output_dir", folder]
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m parity_tests.equivalence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train what is not yet trained, and write the table")
    training.add_argument("--data.root", dest="root", default=os.environ.get("CIFAKE_ROOT"), help="CIFAKE")
    training.add_argument("--work", type=Path, required=True, help="folder for models and logs; finished runs are kept")
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    training.add_argument("--epochs", type=int, default=EPOCHS)
    training.add_argument("--sample", type=int, default=SAMPLE)
    training.add_argument("--threads", type=int, default=1, help="of each of the two processes")
    commands.add_parser("verdict", help="test what the table holds, print it and write the page")
    options = parser.parse_args(arguments)
    if options.command == "train":
        if not options.root or not Path(options.root).exists():
            parser.error(f"--data.root: expected CIFAKE's zip or folder, got {options.root}")
        train(options.root, options.work, options.seeds, options.epochs, options.sample, options.threads)
        return 0
    if not (FOLDER / "runs.csv").is_file():
        parser.error(f"there are no runs in {FOLDER}: train first")
    write_whole(FOLDER / "README.md", page := render())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
