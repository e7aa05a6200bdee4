"""What a run says at its end: the figures of a test or a validation, with all that they depend on."""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.checkpoint_calibration import PIXELS, CheckpointCalibration
from lightning_cifake.evaluation.metrics import THRESHOLD, binary_metrics
from lightning_cifake.evaluation.report import versions, write_evaluation
from lightning_cifake.files import sha256_of, write_whole
from lightning_cifake.networks.costs import costs_of
from lightning_cifake.run_folder import BEST_FILE, LAST_FILE, PARTS
from lightning_cifake.text import plural, printable
from lightning_cifake.training.callbacks import ComputeThreads
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.experiments import machine_of
from lightning_cifake.training.guards import CountSkippedSteps
from lightning_cifake.training.measured_module import Outputs


class Measured(NamedTuple):
    """A test or a validation that has ended; its predictions are the model's ``outputs``.

    Attributes:
        stage: ``test`` or ``validate``.
        trainer: which ran it.
        seconds: how long it took.
        checkpoint: whose weights were measured.
        sha256: of that file when it was read; None where the weights come from the training itself.
        calibrated: what ``calibrate`` left beside the checkpoint; without it P(REAL) is the network's own, at 1/2.
    """

    stage: str
    trainer: L.Trainer
    seconds: float
    checkpoint: Path
    sha256: str | None = None
    calibrated: CheckpointCalibration | None = None

    def prob_real(self, outputs: Outputs) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        if self.calibrated is None:
            return outputs.prob_real
        return outputs._replace(logits=self.calibrated.calibration(outputs.logits)).prob_real

    @property
    def threshold(self) -> float:
        return THRESHOLD if self.calibrated is None else self.calibrated.threshold


def run_metadata(measured: Measured, model: FakeImageClassifier, data: CIFAKEDataModule) -> dict[str, Any]:
    """What metrics.json holds beside the figures.

    Raises:
        UserError: the checkpoint is another one by now.
    """
    stage, trainer, seconds, checkpoint, expected, calibrated = measured
    outputs = model.outputs
    assert outputs is not None
    sha256 = sha256_of(checkpoint) if checkpoint.is_file() else None
    if expected is not None and sha256 != expected:
        raise UserError(
            f"{printable(checkpoint)} was replaced while it was measured (by a run that still trains?): measure it "
            "again, or a copy of it"
        )
    facts: dict[str, Any] = {
        "stage": stage,
        "loss": float(trainer.callback_metrics[f"{'val' if stage == 'validate' else 'test'}_loss"]),
        **data.facts(),
        "seen_in_training": _train_overlap(measured, model, data),
        "image_size": model.image_size,
        **costs_of(model.inference_network, model.image_size)._asdict(),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256,
        "model": {name: value for name, value in model.hparams.items() if not name.startswith("_")},
        "seconds": {stage: seconds},
        "images_per_second": {stage: len(outputs.labels) / seconds},
        "trainer_precision": {stage: str(trainer.precision)},
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "versions": versions(),
    }
    if calibrated is not None:
        facts["temperature"] = calibrated.calibration.temperature
        facts["calibration"] = {name: value for name, value in calibrated.record.items() if name != PIXELS}
    if model.named_metrics:
        facts["parts"] = _parts(stage, model)
    if model.history:
        facts["epochs"] = len(model.history)
        facts["best_epoch"] = best_epoch(model.history)
    return facts


def add_training(
    facts: dict[str, Any], trainer: Any, history: list[dict[str, Any]], batch_size: int, seed: int | bool
) -> None:
    """Adds what is known of the training that the measured weights come from."""
    timed = [epoch["images_per_second"] for epoch in history]
    facts["images_per_second"]["fit"] = sorted(timed)[len(timed) // 2] if timed else None
    facts["trainer_precision"]["fit"] = str(trainer.precision)
    facts["batch_size"] = batch_size
    facts["processes"] = trainer.world_size
    facts["machine"] = machine_of(trainer.strategy.root_device)
    facts["seed"] = seed
    facts["skipped_steps"] = sum(each.skipped for each in trainer.callbacks if isinstance(each, CountSkippedSteps))
    # more than one entry where the machine was busy for a time
    counts = [each.steps for each in trainer.callbacks if isinstance(each, ComputeThreads)]
    facts["steps_by_threads"] = {str(threads): steps for each in counts for threads, steps in sorted(each.items())}


def _train_overlap(measured: Measured, model: FakeImageClassifier, data: CIFAKEDataModule) -> dict[str, Any] | None:
    """How many of the images the weights were ever trained on, and how they do on the others; None: not known."""
    record, images, outputs = model.trained_on, data.images, model.outputs
    assert images is not None and outputs is not None
    if not trained_on.covers(record, images):
        return None
    seen = trained_on.seen_in_training(record, images, outputs.index)
    others = {}
    if not seen.all():
        others = binary_metrics(measured.prob_real(outputs)[~seen], outputs.labels[~seen], measured.threshold)
    return {
        "images": int(seen.sum()),
        "accuracy_without": others.get("accuracy"),
        "auroc_without": others.get("auroc"),
        # what else the weights came from, whose training images nobody knows
        **({"unknown_sources": unknown} if (unknown := trained_on.unknown_sources(record)) else {}),
    }


def write_and_print(
    folder: Path, measured: Measured, facts: dict[str, Any], model: FakeImageClassifier, data: CIFAKEDataModule
) -> None:
    """Writes metrics.json, the report and the pictures to a folder, and prints what a reader wants to know first."""
    outputs, fitted = model.outputs, measured.sha256 is None
    assert outputs is not None and data.split is not None
    written = write_evaluation(
        folder,
        measured.prob_real(outputs),
        outputs.labels,
        paths=data.paths(outputs.index),
        facts=facts,
        threshold=measured.threshold,
        history=model.history if fitted else None,
        best_epoch=best_epoch(model.history) if fitted else None,
    )
    shown = printable(measured.checkpoint)
    print(f"\n{measured.stage} of {shown} on {printable(data.root)}, protocol {data.split.protocol}\n")
    print(written["report"])
    part = data.split.sizes()["val" if measured.stage == "validate" else "test"]
    print("\n".join(_summary(written["metrics"], part)))
    if measured.calibrated is not None:
        print(f"by the calibration beside the checkpoint: {measured.calibrated}")
    _write_and_print_parts(folder / PARTS, facts.get("parts", {}))
    print(f"\nwritten to {printable(folder)}: " + ", ".join(sorted(path.name for path in written["files"])))
    if fitted:
        uses = {BEST_FILE: "weights", LAST_FILE: "to resume from"}
        kept = [f"{printable(folder / name)} ({use})" for name, use in uses.items() if (folder / name).is_file()]
        print("checkpoints: " + ", ".join(kept))


def _parts(stage: str, model: FakeImageClassifier) -> dict[str, dict[str, Any]]:
    """Figures of each part by name; at the end of a training those of validation too, ``val_`` before them."""
    at_best = bool(model.history) and model.history[-1]["epoch"] == best_epoch(model.history)
    parts = {}
    for name, figures in model.named_metrics.items():
        val = {key: value for key, value in figures.items() if key.startswith("val_")}
        test = {key: value for key, value in figures.items() if key not in val}
        if stage == "validate":
            parts[name] = {key.removeprefix("val_"): value for key, value in val.items()}
        else:  # the weights may be an earlier epoch's than the last validation's
            parts[name] = {**(val if at_best else {}), **test}
    return parts


def _write_and_print_parts(path: Path, parts: dict[str, dict[str, Any]]) -> None:
    """A row for each part that a network names; no file where it names none."""
    if not parts:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, ["part", *next(iter(parts.values()))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"part": name, **figures} for name, figures in parts.items())
    write_whole(path, text.getvalue())
    width = max(map(len, parts))
    print("\nits parts, the best first:")
    for name, figures in sorted(parts.items(), key=lambda item: -item[1]["accuracy"]):
        auroc = "" if figures["auroc"] is None else f"  AUROC {figures['auroc']:.4f}"
        print(f"  {printable(name):{width}}  accuracy {figures['accuracy']:.2%}{auroc}")


def _summary(metrics: dict[str, Any], part: int) -> list[str]:
    """The lines under the classification report; ``part`` is how many images the split has to measure on."""
    auroc = "undefined" if metrics["auroc"] is None else f"{metrics['auroc']:.4f}"
    counts = ", ".join(f"{count:,} {name}" for name, count in metrics["class_counts"].items())
    lines = [
        f"accuracy {metrics['accuracy']:.2%}, AUROC {auroc}, {plural(metrics['images'], 'image')} ({counts})",
        f"{metrics['positive_class']}, the positive class: precision {metrics['precision']:.2%}, recall "
        f"{metrics['recall']:.2%}, F1 {metrics['f1']:.2%}",
    ]
    if metrics["images"] < part:  # limit_test_batches and the like
        lines.append(f"measured on {metrics['images']:,} of the {part:,} images of this part")
    seen = metrics.get("seen_in_training") or {}
    if seen.get("images"):
        unseen = seen["accuracy_without"]
        one = seen["images"] == 1
        lines.append(
            f"{seen['images']:,} of them {'was trained on, itself' if one else 'were trained on, themselves'} or as a "
            f"twin; accuracy without {'it' if one else 'these'}: "
            + ("undefined, none is left" if unseen is None else f"{unseen:.2%}")
        )
    if unknown := seen.get("unknown_sources"):
        lines.append(f"what {printable(', '.join(unknown))} was trained on is not known, and not counted")
    return lines


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """The epoch (from 0) with the lowest val_loss, the first of equals; in float32, as best.ckpt is chosen."""
    losses = [(epoch, epoch.get("val_loss")) for epoch in history]
    known = [epoch for epoch, loss in losses if isinstance(loss, float) and loss == loss]
    return min(known, key=lambda epoch: np.float32(epoch["val_loss"]))["epoch"] if known else None


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One row an epoch, as CSV; nothing where there is none."""
    if not history:
        return
    text = io.StringIO()
    columns = list(dict.fromkeys(name for epoch in history for name in epoch))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_whole(path, text.getvalue())
