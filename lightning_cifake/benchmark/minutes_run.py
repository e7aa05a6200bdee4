"""One training as its user would start it, in a process of its own, watched until an accuracy or a time is reached."""

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from lightning_cifake.benchmark.engines import last_words, with_reference
from lightning_cifake.benchmark.minutes_log import FORM, KIND, LogWriter, Stopwatch
from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.decode import ImageSet, is_demo, load_images
from lightning_cifake.data.layout import parse_classes
from lightning_cifake.data.protocols import Protocol, Split, make_split
from lightning_cifake.data.sources import Source, open_source
from lightning_cifake.deploy.manifest import environment_info
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import versions
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user, public_name, public_words, temporary_folder
from lightning_cifake.text import plural, printable

log = logging.getLogger(__name__)

PROTOCOL: Protocol = "official"
SPLIT_SEED = 0
"""The split is one for all systems and all seeds: what is compared is measured on the same images."""
CALLBACK = "lightning_cifake.benchmark.minutes_callback.MinutesCallback"
NEVER = 1_000_000  # epochs of patience: a run goes on to its end or its budget


class System(NamedTuple):
    """``configs`` are ``fit``'s arguments; none where Keras trains."""

    title: str
    configs: tuple[str, ...] = ()


SYSTEMS = {
    "keras": System("Keras as published"),
    "lightning": System("Lightning as published", ("--config", "published")),
    "recipe": System("the recipe, --config cpu", ("--config", "official", "--config", "cpu")),
    "compact": System(
        "the compact network",
        ("--config", "official", "--config", "networks/compact", "--trainer.precision", "bf16-mixed"),
    ),
}


@dataclass(frozen=True)
class Plan:
    """What is trained, and for how long.

    Attributes:
        system: a name of :data:`SYSTEMS`.
        root: of the images, as ``--data.root``.
        budget: minutes from the start of the process.
        until: ends at the first pass that reaches this accuracy; None: goes on.
        passes: validations an epoch.
        seed: of weights, augmentation and dropout.
        sample: trains and validates on so many images; all where there is none.
        kept: opens decoded images that were kept, where there are any, instead of decoding as a first run does.
        title: of the table; the system's own where there is none.
        more: further arguments of ``fit``.
    """

    system: str
    root: str
    budget: float = 30.0
    until: float | None = None
    passes: int = 3
    seed: int = 0
    sample: int | None = None
    kept: bool = False
    title: str | None = None
    more: Sequence[str] = ()


def run(plan: Plan, output: Path, words: Sequence[str], report: Callable[[Mapping[str, Any]], None]) -> str:
    """Trains and writes the log, line by line; returns why it ended.

    Args:
        plan: see there.
        output: the log, a new file. It is made when training begins.
        words: the command's, for the log.
        report: is given the first line as training begins, and each line of a pass as it is written.

    Raises:
        UserError: the data or the system cannot be had, or training failed; a log with passes in it is kept, and says
            so.
    """
    keras = not SYSTEMS[plan.system].configs
    if output.exists():
        raise UserError(f"{printable(output)} is there already: expected a new file, --output names one")
    if keras and plan.more:
        raise UserError(
            f"{printable(plan.more[0])}: expected no further arguments, they are those of fit; keras has none"
        )
    environment = dict(os.environ)
    if keras:
        require("tf", "tensorflow", "keras", what="keras")
        environment |= with_reference()
    if is_demo(plan.root):
        raise UserError("--data.root: expected CIFAKE, a folder or a zip with train/ and test/ in it, got demo")
    images = load_images(plan.root)
    split = make_split(images, PROTOCOL, SPLIT_SEED, plan.sample)
    header = {
        "kind": KIND,
        "form": FORM,
        "system": plan.system,
        "title": plan.title or SYSTEMS[plan.system].title,
        "arguments": public_words([*SYSTEMS[plan.system].configs, *plan.more]),
        "command": list(words),
        **environment_info(),
        "seed": plan.seed,
        "budget_minutes": plan.budget,
        "until": plan.until,
        "passes": plan.passes,
        "decodes": "each epoch" if keras else "no, kept images" if plan.kept else "as it begins",
        "data": public_name(images.name),
        "data_digest": images.digest,
        "train_images": len(split.train),
        "val_images": len(split.val),
        "val_digest": sha256("\n".join(sorted(images.paths[at] for at in split.val)).encode()).hexdigest(),
    }
    if keras:
        header["versions"] = versions(("tensorflow", "keras", "numpy"))
        header["precision"] = "float32"
    with temporary_folder(Path(tempfile.gettempdir()), "lightning_cifake-minutes") as scratch:
        command = _keras(plan, images, split, scratch) if keras else _fit(plan, scratch)
        del images, split
        if keras:  # what TensorFlow leaves in the temporary folder goes with this one
            environment["TMPDIR"] = str(scratch)
        return _watch(command, environment, plan, header, output, report)


def _fit(plan: Plan, scratch: Path) -> list[str]:
    """``fit`` as its user starts it, with the callback."""
    arguments = {
        "--data.root": plan.root,
        "--data.protocol": PROTOCOL,
        "--data.seed": SPLIT_SEED,
        "--data.sample": "null" if plan.sample is None else plan.sample,
        "--output_dir": scratch / "run",
        "--seed_everything": plan.seed,
        "--patience": NEVER,
        "--test_at_end": "false",
        "--trainer.enable_progress_bar": "false",
        "--trainer.val_check_interval": 1 / plan.passes,
        "--trainer.callbacks": CALLBACK,
        **({} if plan.kept else {"--data.cache_dir": scratch / "decoded"}),
    }
    words = [*SYSTEMS[plan.system].configs, *(str(part) for pair in arguments.items() for part in pair), *plan.more]
    return ["lightning_cifake", "fit", *words]


def _keras(plan: Plan, images: ImageSet, split: Split, scratch: Path) -> list[str]:
    """The reference, on the same files: an archive's are unpacked before the clock runs, as its user has them."""
    folder, indices = expand_user(plan.root), {"train": split.train, "val": split.val}
    if folder.is_dir():
        parts = {name: [images.paths[at] for at in chosen] for name, chosen in indices.items()}
    else:
        folder, source = scratch, open_source(images.name, parse_classes(images.classes))
        parts = {name: _write_files(source, images, chosen, name, folder) for name, chosen in indices.items()}
        if hasattr(os, "sync"):
            os.sync()  # 100,000 new files: the disk is done with them before the clock runs
    (scratch / "split.json").write_text(json.dumps({**parts, "test": parts["val"]}))
    spec = {"data": folder.resolve(), "split": scratch / "split.json", "seed": plan.seed, "passes": plan.passes}
    return ["tf_reference.minutes", json.dumps(spec, default=str)]


def _write_files(source: Source, images: ImageSet, indices: np.ndarray, part: str, folder: Path) -> list[str]:
    """Copies a part's files; returns their names below the folder, which say the class as CIFAKE's do."""
    from rich.console import Console
    from rich.progress import track

    names: list[str] = []
    for name in CLASS_NAMES:
        (folder / part / name).mkdir(parents=True)
    for at in track(indices, f"unpacking {part}", console=Console(stderr=True)):
        path = images.paths[at]
        names.append(f"{part}/{CLASS_NAMES[int(images.labels[at])]}/{len(names):06d}{Path(path).suffix}")
        (folder / names[-1]).write_bytes(source.read(path))
    return names


def _watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    plan: Plan,
    header: dict[str, Any],
    output: Path,
    report: Callable[[Mapping[str, Any]], None],
) -> str:
    with tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        told = _Told(process)
        record = _Record(output, header, began, report)
        why = "interrupted"
        try:
            why = _follow(told, record, plan)
            if why == "failed":
                raise UserError(f"{plan.system} ended: {last_words(errors, process.wait())}")
        finally:
            process.kill()
            process.wait()
            told.close()
            record.end(why, time.monotonic())
    if record.passes == 0:
        raise UserError(
            f"{plural(round(plan.budget * 60), 'second')} were not enough: expected a first validation in --budget"
        )
    return why


def _follow(told: "_Told", record: "_Record", plan: Plan) -> str:
    """Writes down what a training tells; returns why it ended."""
    while True:
        left = record.began + 60 * plan.budget - time.monotonic()
        try:
            event = told.next(left) if left > 0 else None
        except queue.Empty:
            event = None
        if event is None:
            return "budget"
        if not event:
            return "epochs" if told.process.wait() == 0 else "failed"
        accuracy = record.take(event)
        if plan.until is not None and accuracy is not None and accuracy >= plan.until:
            return "until"


class _Told:
    """What a process writes, a JSON object a line: waited for no longer than there is time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process, self._lines = process, queue.SimpleQueue[str]()
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put("")

    def next(self, seconds: float) -> dict[str, Any]:
        """The next object; an empty one at the end.

        Raises:
            queue.Empty: none came in that time.
        """
        line = self._lines.get(timeout=seconds)
        return json.loads(line) if line else {}

    def close(self) -> None:
        """Once the process is over."""
        self._reader.join(10)  # a child of its own may hold the pipe for a moment longer
        assert self.process.stdout is not None
        self.process.stdout.close()


class _Record:
    """Makes the log's lines; ``passes`` counts them."""

    def __init__(
        self, output: Path, header: dict[str, Any], began: float, report: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.output, self.header, self.began, self.report = output, header, began, report
        self.passes = 0
        self._stopwatch = Stopwatch(began)
        self._writer: LogWriter | None = None

    def take(self, event: dict[str, Any]) -> float | None:
        """Writes what is to be written of an event; returns the accuracy of a pass."""
        if event.pop("event") == "training":
            at = event.pop("at")
            if self._writer is None:
                self.header |= {**event, "training_began": round(at - self.began, 3)}
                self.report(self.header)
            else:
                self._stopwatch.resumed(at)
            return None
        times = self._stopwatch.passed(event["began"], event["ended"], event["extra"])
        # float32's nearest to 0.97 is below it
        accuracy = None if event["val_accuracy"] is None else round(event["val_accuracy"], 6)
        line = {
            **times,
            "images": event["images"],
            "epoch": round(event["images"] / self.header["train_images"], 4),
            "val_accuracy": accuracy,
        }
        if self._writer is None:  # a run without a pass leaves no file
            self._writer = LogWriter(self.output)
            self._writer.write(self.header)
        self._writer.write(line)
        self.passes += 1
        self.report(line)
        return accuracy

    def end(self, why: str, at: float) -> None:
        if self._writer is not None:
            self._writer.write({"ended": why, "seconds": round(at - self.began, 3)})
            self._writer.close()
