"""Are the two systems equivalent when each trains with its own random numbers? Plans, trains, tabulates, tests.

    python -m parity_tests.equivalence plan --seeds 5 6 7 8
    python -m parity_tests.equivalence train --data.root CIFAKE.zip --work FOLDER
    python -m parity_tests.equivalence verdict

``plan`` writes down the margin, the seeds and the power that they give, before anything is trained; ``train`` takes
nothing else. It cuts one clean split, runs ``tf_reference fit`` and ``lightning_cifake fit`` on the same files once a
seed, each as a user would run it (own initialisation, order, augmentation, dropout and JPEG decoder), asks both about
CIFAKE's own 20,000 test images and writes one row a run and every probability to ``docs/parity/equivalence``. What is
recorded there is not trained again: stopped, it resumes, on another machine too. ``verdict`` tests what is there, once
all is.
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
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.files import write_whole
from parity_tests.reference_run import run_here, unpack
from parity_tests.report import facts
from parity_tests.verdict import (
    FOLDER,
    FRAMEWORKS,
    HALF,
    LEVELS,
    MEASURES,
    PAGE,
    PILOT,
    PLAN,
    PREDICTIONS,
    RUNS,
    missing_runs,
    on_a_gpu,
    power_of,
    read_plan,
    read_predictions,
    read_runs,
    systems_of,
)
from parity_tests.verdict_page import page_of

SAMPLE, EPOCHS, SPLIT_SEED = 10_000, 4, 0
# of the learning rate each epoch, where the paper has 0.95: that takes tens of epochs to come to rest, and after a few
# the accuracy of one system alone varied by 3 points from seed to seed: 60 runs a framework to decide
LR_DECAY = 0.5
MARGIN = 0.01  # of accuracy, and of AUROC: differences below it are none
SEEDS = range(5, 25)  # the pilot had 0 to 4
DIFFERENCES = (0.0, 0.0025, 0.005)  # true ones, for which the power is written down
THREADS = 1  # of each of two processes
JOBS = 2  # processes at a time
SYSTEMS = {
    name: ["--trainer.accelerator", "gpu", "--trainer.precision", precision]
    for name, precision in {"fp16": "16-mixed", "float32": "32-true", "bf16": "bf16-mixed"}.items()
}
"""Lightning's on a GPU, in the order in which they are trained."""


def make_plan(seeds: Sequence[int], margin: float, pilot: Path = PILOT, half: bool = False) -> dict[str, Any]:
    """What is fixed before the first training, with the power that it gives by the pilot's deviations."""
    rows = read_runs(pilot)[0]
    power = {}
    for measure in MEASURES:
        first, second = (
            float(np.std([row[measure] for row in rows if row["framework"] == name], ddof=1)) for name in FRAMEWORKS
        )
        shares = {str(each): round(power_of((first, second), len(seeds), margin, each), 4) for each in DIFFERENCES}
        power[measure] = {"deviations": [first, second], "by_difference": shares}
    return {
        "written": date.today().isoformat(),
        "margin": margin,
        "seeds": list(seeds),
        "power": power,
        "protocol": "clean",
        "sample": SAMPLE,
        "split_seed": SPLIT_SEED,
        "epochs": EPOCHS,
        "lr_decay": LR_DECAY,
        "threads": THREADS,
        **({"systems": SYSTEMS} if half else {}),
    }


def train(root: str, work: Path, output: Path = FOLDER, jobs: int = JOBS) -> None:
    """Runs what is not yet recorded, some at a time, and writes the table after each."""
    plan = read_plan(output)
    here = facts()
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    where = f"{_device() if on_a_gpu(plan) else here['machine']['processor']}; {versions}"
    split, data = _prepare(root, work, plan)
    count = str(plan["threads"])
    os.environ.update(OMP_NUM_THREADS=count, TF_NUM_INTRAOP_THREADS=count, TF_NUM_INTEROP_THREADS=count)
    one = partial(_run, root=root, work=work, split=split, data=data, plan=plan, where=where)
    # a GPU's trainings are so short that starting Python twice for each would take as long
    pool: Executor = ThreadPoolExecutor(jobs)
    if on_a_gpu(plan):
        pool = ProcessPoolExecutor(jobs, get_context("spawn"))
    with pool:
        for _ in pool.map(one, missing_runs(output)):
            collect(work, output)
            write_whole(output / PAGE, page_of(output))


def _device() -> str:
    """The GPU's name.

    Raises:
        UserError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError("--half: torch finds no GPU on this machine")
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _prepare(root: str, work: Path, plan: dict[str, Any]) -> tuple[Path, Path]:
    """(split.json, folder with the files that TensorFlow reads: those of the split, and CIFAKE's test part)."""
    images = load_images(root)
    split = make_split(images, plan["protocol"], plan["split_seed"], plan["sample"])
    path, data = work / "split.json", work / "files"
    work.mkdir(parents=True, exist_ok=True)
    write_split(path, images, split)
    if on_a_gpu(plan):  # Lightning reads what the images were decoded to
        return path, data
    wanted = [*np.concatenate([split.train, split.val, split.test]), *np.flatnonzero(images.parts == "test")]
    print(f"unpacking for TensorFlow what is not yet there of {len(wanted):,} files", flush=True)
    unpack(root, {images.paths[i] for i in wanted}, data)
    return path, data


def _run(
    job: tuple[str, int], root: str, work: Path, split: Path, data: Path, plan: dict[str, Any], where: str
) -> None:
    """One training and its test, unless it is done: each command in a process of its own, or a GPU's in this one."""
    system, seed = job
    folder = work / f"{system}-{seed}"
    if (folder / "done.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for module, arguments in _commands(system, seed, folder, root, split, data, plan):
        with (folder / "log.txt").open("a") as log:
            if on_a_gpu(plan):
                finished = run_here(module, *arguments, check=False)
                log.write(f"{finished.stdout}\n{finished.stderr}\n")
            else:
                command = [sys.executable, "-m", module, *map(str, arguments)]
                finished = subprocess.run(command, stdout=log, stderr=log, text=True, check=False)
        if finished.returncode:
            raise SystemExit(f"error: {system}, seed {seed}: see {folder / 'log.txt'}")
    seconds = round(time.monotonic() - started, 1)
    write_whole(
        folder / "done.json", json.dumps({"seconds": seconds, "date": date.today().isoformat(), "where": where})
    )
    print(f"{system} seed {seed}: {seconds:.0f} s", flush=True)


def _commands(
    system: str, seed: int, folder: Path, root: str, split: Path, data: Path, plan: dict[str, Any]
) -> list[tuple[str, list[Any]]]:
    """(module, arguments) of the training, and of asking about CIFAKE's own test images."""
    test = folder / "official"
    if system == FRAMEWORKS[0]:
        fit = ["fit", "--data.root", data, "--split", split, "--weights", "none", "--seed", seed]
        fit += ["--epochs", plan["epochs"], "--lr_decay", plan["lr_decay"], "--output", folder]
        ask = ["evaluate", "--model", folder / "ai_imageclassifier.keras"]
        return [
            ("tf_reference", fit),
            ("tf_reference", [*ask, "--data.root", data / "test", "--all", "--output", test]),
        ]
    more = systems_of(plan)[system]
    fit = ["fit", "--config", plan["protocol"], "--data.root", root, "--data.split_file", split]
    fit += ["--seed_everything", seed, "--data.seed", seed, "--trainer.max_epochs", plan["epochs"]]
    fit += ["--model.lr_decay", plan["lr_decay"], "--output_dir", folder, *more]
    ask = ["test", "--ckpt_path", folder / "best.ckpt", "--output_dir", test]
    ask += ["--data.protocol", "official", "--data.sample", "null", "--data.split_file", "null", *more]
    return [("lightning_cifake", fit), ("lightning_cifake", ask)]


def collect(work: Path, output: Path = FOLDER) -> None:
    """Writes runs.csv and predictions.npz: what is recorded there, and the plan's runs that are done in work."""
    plan = read_plan(output)
    seeds, systems = plan["seeds"], list(systems_of(plan))
    recorded = read_runs(output)[0] if (output / RUNS).is_file() else []
    rows = {(row["framework"], int(row["seed"])): dict(row) for row in recorded}
    predictions, labels = read_predictions(output) if recorded else ({}, None)
    names: list[str] | None = None
    for framework in systems:
        for seed in seeds:
            folder = work / f"{framework}-{seed}"
            if (framework, seed) in rows or not (folder / "done.json").is_file():
                continue
            found, target, prob = _predictions(folder / "official" / "predictions.csv")
            if labels is None:
                labels = target > 0
            assert names in (None, found) and np.array_equal(target > 0, labels), "all are asked about the same images"
            names = found
            metrics = binary_metrics(prob, target)
            losses, accuracies = _validation(framework, folder)
            rows[framework, seed] = {
                "framework": framework,
                "seed": seed,
                "accuracy": metrics["accuracy"],
                "auroc": metrics["auroc"],
                "epochs": len(losses),
                "best_epoch": int(np.argmin(losses)),
                "best_val_loss": min(losses),
                "best_val_accuracy": accuracies[int(np.argmin(losses))],
                **json.loads((folder / "done.json").read_text()),
            }
            # up from a half and not to the nearest: a probability of one half is not real, as both systems have it
            predictions[f"{framework}-{seed}"] = np.ceil(prob.astype(np.float64) * LEVELS - 0.5).astype(np.uint16)
    if not rows:
        return
    ordered = [rows[framework, seed] for framework in systems for seed in seeds if (framework, seed) in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ordered[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    packed = io.BytesIO()
    np.savez_compressed(packed, labels=labels, **predictions)
    write_whole(output / PREDICTIONS, packed.getvalue())
    write_whole(output / RUNS, text.getvalue())


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
    planning = commands.add_parser("plan", help="write down what is to be trained, and the power that it gives")
    planning.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="SEED", help="of each system")
    planning.add_argument("--margin", type=float, default=MARGIN, help="differences below it are none (%(default)s)")
    training = commands.add_parser("train", help="train what the plan says and is not yet recorded")
    training.add_argument("--data.root", dest="root", default=os.environ.get("CIFAKE_ROOT"), help="CIFAKE")
    training.add_argument("--work", type=Path, required=True, help="folder for models and logs; finished runs are kept")
    training.add_argument("--jobs", type=int, default=JOBS, help="trainings at a time (%(default)s)")
    for one in (planning, training):
        one.add_argument("--half", action="store_true", help="Lightning alone, on a GPU, in fp16, float32 and bf16")
    commands.add_parser("verdict", help="test what the tables hold, print it and write the pages")
    options = parser.parse_args(arguments)
    folder = HALF if getattr(options, "half", False) else FOLDER
    if options.command == "plan":
        if (folder / RUNS).is_file():
            parser.error(f"{RUNS} holds runs of the plan that is there: a plan is not changed once they have begun")
        plan = make_plan(options.seeds, options.margin, half=options.half)
        write_whole(folder / PLAN, json.dumps(plan, indent=1) + "\n")
    elif not (folder / PLAN).is_file():
        parser.error(f"there is no plan in {folder.name}: write one first, by `plan`")
    elif options.command == "train":
        if not options.root or not Path(options.root).exists():
            parser.error(f"--data.root: expected CIFAKE's zip or folder, got {options.root}")
        try:
            train(options.root, options.work, folder, options.jobs)
        except UserError as error:
            parser.error(str(error))
    pages = {each: page_of(each) for each in (FOLDER, PILOT, HALF)}
    for each, page in pages.items():
        write_whole(each / PAGE, page)
    print(pages[folder])
    return 0


if __name__ == "__main__":
    sys.exit(main())
