"""Any model and validation images -> true probabilities and a threshold chosen by a rule, in a new exported model.

Or in a file beside a checkpoint, which stays as it is.

found = calibrate(open_model("best"), Asked("CIFAKE.zip"), Path("mine.onnx"), parse_rule("false_alarms=0.01"))
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lightning_cifake.assessment.chosen_on import as_text, digests_of
from lightning_cifake.assessment.images import Asked
from lightning_cifake.assessment.models import Model, OnnxModel, TorchModel
from lightning_cifake.assessment.validation_images import Chosen, validation_images
from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.deploy.calibrated import write_calibrated
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.loaded_model import load_model
from lightning_cifake.deploy.manifest import manifest_path, read_manifest
from lightning_cifake.deploy.verification import logits_of
from lightning_cifake.deploy.verified_export import Settings, export_model, scratch
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration, Method, best_method, fit, out_of_fold
from lightning_cifake.evaluation.checkpoint_calibration import PIXELS, CheckpointCalibration, write_calibration
from lightning_cifake.evaluation.figures import figures_of
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.evaluation.reliability import plot_reliability
from lightning_cifake.evaluation.thresholds import Rule, choose_threshold, doubts, threshold_figures
from lightning_cifake.files import public_name
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

EXPORT_CHECKED_ON = 2_000  # images: a checkpoint is exported first
MEASURED = ("log_loss", "brier", "ece", "auroc")


class Calibrated(NamedTuple):
    """What came of it.

    Attributes:
        record: what the manifest keeps under ``calibration``.
        violations: why nothing was written; empty where it was.
        written: files, the reliability diagram last.
    """

    record: dict[str, Any]
    violations: list[str]
    written: list[Path]


def calibrate(
    model: Model,
    asked: Asked,
    output: Path | None,
    rule: Rule,
    method: Method | Literal["auto"] = "auto",
    cache_dir: Path | str | None = None,
) -> Calibrated:
    """Fits on validation images alone, and writes the model, its manifest and the reliability diagram.

    Args:
        model: exported, its manifest beside it; or a checkpoint or a Keras file, which is exported in float32 first
            where there is an output.
        asked: the images; see :func:`validation_images`.
        output: MODEL.onnx to write; None: a file beside the checkpoint, as :mod:`checkpoint_calibration` keeps it.
        rule: for the threshold.
        method: ``auto`` takes what leaves the smallest log loss in cross-validation.
        cache_dir: of decoded images.

    Raises:
        UserError: the images, the model, or a method that cannot be fitted on them.
    """
    if not isinstance(model, TorchModel):
        if output is None:
            raise UserError(f"expected --output MODEL.onnx: {printable(model.name)} is exported, and is not changed")
        read_manifest(model.file)  # before the images are decoded
    chosen = validation_images(asked, model, cache_dir)
    with _to_write(model, output) as source:
        current = Calibration.of_metadata({"temperature": "1", **source.metadata})
        logits, labels = _answers(source, chosen), chosen.images.labels
        raw = current.inverse(logits)
        fitted, how = _fit(raw, labels, method, current)
        calibration = fit(raw, labels, fitted, current)

        def told(name: str, answered: np.ndarray, threshold: float) -> Predictions:
            return Predictions(name, chosen.images.names, labels, answered, threshold)

        calibrated = told("after", calibration(raw), 0.5)
        threshold = choose_threshold(calibrated.prob_real, labels, rule)
        before = told("before", logits, source.threshold)
        # by maps fitted on other images: those that a map was fitted on flatter it
        after = told("after", out_of_fold(raw, labels, fitted, current), threshold)
        record = {
            "rule": str(rule),
            "threshold": threshold,
            "method": fitted,
            "temperature": calibration.temperature,
            **how,
            **_about(chosen),
            "at_threshold": threshold_figures(calibrated.prob_real, labels, threshold),
            "before": {"threshold": source.threshold, **_figures(before)},
            "before_at_threshold": threshold_figures(before.prob_real, labels, source.threshold),
            "after": _figures(after),
            "doubts": [*doubts(rule, labels), *_doubts(chosen)],
        }
        kept = CheckpointCalibration(calibration, threshold, {**record, PIXELS: as_text(digests_of(chosen.images))})
        written: list[Path] = []
        violations: list[str] = []
        if output is not None:
            violations = write_calibrated(source.file, output, calibration, threshold, kept.record)[1]
            written = [output, manifest_path(output)]
    picture = (output or model.file).with_name(f"{(output or model.file).stem}-reliability.png")
    if not violations:
        title = f"{model.name} on {len(labels):,} validation images of {public_name(asked.root)}"
        plot_reliability({"Before": before, "After": after}, picture, title)
    if output is None:  # last: once it is there, it counts
        written = [write_calibration(model.file, model.sha256, kept)]
    return Calibrated(record, violations, [*written, picture])


@contextmanager
def _to_write(model: Model, output: Path | None) -> Iterator[Model]:
    """What is calibrated: the model itself; where a checkpoint is to become an exported file, that, with a manifest."""
    if output is None or not isinstance(model, TorchModel):
        yield model
        return
    with scratch(output) as folder:
        path = folder / output.name
        log.info("exporting %s first, in float32", printable(model.name))
        written = export_model(load_model(model.file), None, path, Settings(sample=EXPORT_CHECKED_ON))
        if written["violations"]:
            raise UserError(f"{printable(model.file)} cannot be exported: {'; '.join(written['violations'])}")
        yield OnnxModel(Detector(path), model.name)


def _answers(model: Model, chosen: Chosen) -> np.ndarray:
    """(N,) float32 logits, in batches, with progress."""
    images = chosen.images

    def asked(places: np.ndarray) -> np.ndarray:
        return model.logits(images.pixels(places))

    return logits_of(asked, np.arange(len(images)), f"{len(images):,} validation images")


def _fit(
    raw: np.ndarray, labels: np.ndarray, method: Method | Literal["auto"], current: Calibration
) -> tuple[Method, dict[str, Any]]:
    """The method that is taken, and how it came to that.

    Raises:
        UserError: the one that was asked for cannot be fitted.
    """
    if method == "auto":
        best, losses = best_method(raw, labels, current)
        return best, {"log_loss_of_methods": losses}
    try:
        out_of_fold(raw, labels, method, current)
        fit(raw, labels, method, current)
    except ValueError as error:
        raise UserError(f"--method {method}: {error}; --method keep leaves the probabilities as they are") from error
    return method, {}


def _about(chosen: Chosen) -> dict[str, Any]:
    images = chosen.images
    fake, real = np.bincount(images.labels, minlength=2).tolist()
    return {
        "data": public_name(images.source.name),
        "data_digest": images.source.digest,
        "part": images.about,
        "images": len(images),
        "class_counts": {CLASS_NAMES[FAKE]: fake, CLASS_NAMES[REAL]: real},
        "refused": chosen.refused,
        "trained_on": chosen.known,
        "unreadable": len(images.unreadable),
    }


def _figures(predictions: Predictions) -> dict[str, Any]:
    found = figures_of(predictions, draws=0)["figures"]
    return {name: found[name]["value"] for name in MEASURED}


def _doubts(chosen: Chosen) -> list[str]:
    return [chosen.known] if chosen.known.startswith("not known") else []
