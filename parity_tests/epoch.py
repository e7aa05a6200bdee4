"""A whole published epoch in both frameworks at once, in float64: 625 steps of 32 and the validation.

    python -m parity_tests.epoch --data.root CIFAKE.zip --model TRAINED.keras

Begins at the weights of a model that ``tf_reference`` trained, at a late learning rate (replay.LATE_LEARNING_RATE says
why). Ours trains under Lightning as ever; TensorFlow's is handed the same order, draws and dropout masks (replay.py). A
third network, ours with each weight moved by one unit in the last place, trains along: what rounding alone does.
The course is written to docs/parity/epoch as JSON, every few steps, and as a picture.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from lightning_cifake import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import versions
from lightning_cifake.files import write_whole
from lightning_cifake.machine import processor
from parity_tests.replay import LATE_LEARNING_RATE, Course, train_side_by_side
from parity_tests.twins import load_theirs

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "parity" / "epoch"
SAMPLE, STEPS = 20_000, 625
FLOOR = 1e-17  # added where a logarithm is taken: a difference of exactly 0 has none


def run(root: str, model: Path, learning_rate: float, folder: Path, steps: int | None, weights_every: int) -> None:
    import keras  # after torch: the other order ends in an LLVM error
    import tensorflow as tf

    data = CIFAKEDataModule(root=root, protocol="published", sample=SAMPLE, batch_size=32)
    data.prepare_data()  # the user's mistakes come out before anything is written
    try:
        trained = keras.models.load_model(model)
    except ValueError as error:  # Keras's one for a file that is none of its own
        reason = str(error).partition(". ")[0]
        raise UserError(f"{model}: expected a .keras file that tf_reference trained ({reason})") from error
    start = {
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "learning_rate": learning_rate,
        "cifake": Path(root).name,
    }
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)

    def note(step: int, course: Course) -> None:
        if step % weights_every == 0 or step == 1:
            seconds = time.monotonic() - started
            ours, theirs = course.our_loss[-1], course.their_loss[-1]
            apart, nudged = course.weights[-1][1], course.nudged_weights[-1][1]
            print(
                f"step {step}, {seconds:.0f} s: loss {ours:.4f}, apart {abs(ours - theirs):.1e}; weights {apart:.1e}, "
                f"one unit in the last place {nudged:.1e}",
                flush=True,
            )
            write(folder, course, start, seconds)

    course, _, _ = train_side_by_side(
        tf,
        keras,
        data,
        steps,
        start=lambda network: load_theirs(network, trained),
        weights_every=weights_every,
        nudge=True,
        progress=note,
        learning_rate=learning_rate,
    )
    write(folder, course, start, time.monotonic() - started)
    draw(course, folder / "growth.png")


def write(folder: Path, course: Course, start: dict[str, Any], seconds: float) -> None:
    """Writes course.json; readable at any time during a run."""
    facts = {
        "date": date.today().isoformat(),
        "seconds": round(seconds),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "start": start,
    }
    write_whole(folder / "course.json", json.dumps({**facts, **asdict(course)}) + "\n")


def read(folder: Path = FOLDER) -> tuple[Course, dict[str, Any]]:
    """(the course, the facts beside it) as :func:`write` left them."""
    content = json.loads((folder / "course.json").read_text())
    names = Course.__dataclass_fields__
    return Course(**{name: content.pop(name) for name in names}), content


def draw(course: Course, path: Path) -> None:
    """The two growths over the steps, of the loss and of the weights, on logarithmic axes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    steps = np.arange(1, len(course.our_loss) + 1)
    ours, theirs, nudged = map(np.asarray, (course.our_loss, course.their_loss, course.nudged_loss))
    left.semilogy(steps, np.abs(ours - theirs) + FLOOR, lw=0.8, label="Lightning against TensorFlow")
    left.semilogy(
        steps, np.abs(ours - nudged) + FLOOR, lw=0.8, label="Lightning against itself, each weight moved by 1 ulp"
    )
    left.set(title="Difference of a step's loss", xlabel="step", ylabel="absolute difference")
    for pairs, label in ((course.weights, "TensorFlow"), (course.nudged_weights, "1 ulp")):
        right.semilogy(*zip(*pairs, strict=True), marker=".", label=label)
    right.set(title="Largest difference of any weight", xlabel="step")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m parity_tests.epoch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data.root", dest="root", default=os.environ.get("CIFAKE_ROOT"), help="CIFAKE's zip or folder"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=os.environ.get("PARITY_MODEL"),
        help="where to begin: a .keras file of tf_reference",
    )
    parser.add_argument(
        "--learning_rate",
        type=float,
        default=LATE_LEARNING_RATE,
        help="before the epoch's decay (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, help="stops after so many (default: the whole epoch)")
    parser.add_argument("--weights_every", type=int, default=25, help="steps between two comparisons of all weights")
    options = parser.parse_args()
    if not options.root:
        parser.error("--data.root: expected CIFAKE's zip or folder")
    if options.model is None or not Path(options.model).is_file():
        parser.error(f"--model: expected a .keras file that tf_reference trained, got {options.model}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    matplotlib.use("Agg")
    try:
        run(options.root, options.model, options.learning_rate, options.output, options.steps, options.weights_every)
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
