"""A checkpoint's ONNX model and its manifest, written where it answers as the checkpoint does, or neither."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from lightning_cifake.deploy import export, manifest, quantize, verification
from lightning_cifake.deploy.calibrated_graph import calibrate_graph
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.loaded_model import LoadedModel
from lightning_cifake.deploy.predict import ClassifierModel
from lightning_cifake.deploy.real_images import RealImages, real_images
from lightning_cifake.deploy.speed import measure_speed
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration, fit_temperature
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration
from lightning_cifake.evaluation.metrics import THRESHOLD
from lightning_cifake.files import made_folder, replacing, sealed_json, sha256_of, temporary_folder
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

TEMPERATURE_IMAGES = 5_000
METHOD_IMAGES = 2_000


class Settings(NamedTuple):
    """What the command's arguments of the same names say."""

    precision: export.Precision = "float32"
    input_type: export.InputType = "uint8"
    temperature: float | Literal["fit"] | None = None  # None: the checkpoint's calibration, where it has one, else 1
    threshold: float | None = None  # None: as the temperature, else 1/2
    max_loss: float = verification.MAX_LOSS
    sample: int | None = None


def export_model(
    loaded: LoadedModel, root: str | None, output: Path, settings: Settings, classes: str | None = None
) -> dict[str, Any]:
    """Makes the model, compares it, and writes it and its manifest where nothing speaks against it.

    Returns:
        What the manifest holds, and ``violations``: the reasons why nothing was written.

    Raises:
        UserError: the images cannot be had, the disk is full, or the network cannot be exported.
    """
    classifier = loaded.classifier
    images = real_images(loaded.path, root, classifier.image_size, classes)
    if settings.precision == "int8" and not images.of_run and root is None:
        raise UserError("int8 is calibrated on training images: name them with --data.root")
    if settings.temperature == "fit" and not images.of_run and root is None:
        raise UserError("--temperature fit needs validation images: name them with --data.root")
    calibrated = _calibrated(loaded, settings, images)
    temperature, bent = calibrated.calibration.temperature, bool(calibrated.calibration.knots)
    log.info("exporting in %s", settings.precision)
    model = export.to_onnx(classifier, settings.input_type, 1.0 if bent else temperature)
    if settings.precision == "float16":
        model = export.with_half_weights(model)
    if bent:
        calibrate_graph(model, calibrated.calibration)
    facts = export.metadata(classifier, settings.precision, settings.input_type, temperature, calibrated.threshold)
    facts |= calibrated.facts if calibrated.record else {}
    facts |= {"checkpoint_sha256": loaded.sha256, "temperature_fitted": settings.temperature == "fit"}
    facts |= {"training": loaded.training, "versions": manifest.environment_info()["versions"]}
    with scratch(output) as folder:
        temporary = folder / output.name
        chosen: dict[str, Any] = {}
        if settings.precision == "int8":
            model, chosen = _quantized(model, images, facts, temporary)
        export.set_metadata(model, facts | chosen)
        verification.check_graph(model)
        temporary.write_bytes(export.serialized(model))
        detector = Detector(temporary)
        written = verification.compare_with(loaded, detector, images, settings.max_loss, settings.sample)
        written["model"] = {
            "file": output.name,
            "sha256": sha256_of(temporary),
            "bytes": temporary.stat().st_size,
            "opset": model.opset_import[0].version,
            **facts,
            **chosen,
        }
        if written["violations"]:
            return written
        written["speed"] = measure_speed(detector)
        if calibrated.record:
            written["calibration"] = calibrated.record
        content = {name: value for name, value in written.items() if name != "violations"}
        # both are on the disk before either has its name; the manifest's comes last: a model without one, or with
        # another's, is found out by its SHA-256
        with replacing(manifest.manifest_path(output)) as described, replacing(output) as target:
            temporary.replace(target)
            described.write_text(sealed_json(content), encoding="utf-8")
    return written


def _calibrated(loaded: LoadedModel, settings: Settings, images: RealImages) -> CheckpointCalibration:
    """What is asked for; where nothing is, what ``calibrate`` left beside the checkpoint; the record of that alone."""
    if settings.temperature is None and settings.threshold is None and (found := loaded.calibrated()) is not None:
        return found
    temperature = settings.temperature or 1.0
    if temperature == "fit":
        temperature = _fit_temperature(loaded.classifier, images)
    threshold = THRESHOLD if settings.threshold is None else settings.threshold
    return CheckpointCalibration(Calibration(temperature), threshold, {})


def _fit_temperature(classifier: Any, images: RealImages) -> float:
    pixels, labels = images.take("val", TEMPERATURE_IMAGES)
    lightning = verification.lightning_logits(ClassifierModel(classifier))
    logits = verification.logits_of(lightning, pixels, f"temperature, on {len(pixels):,} validation images")
    temperature = fit_temperature(logits, labels)
    log.info("temperature %.4f, fitted on %s validation images", temperature, f"{len(pixels):,}")
    return temperature


def _quantized(
    model: onnx.ModelProto, images: RealImages, facts: dict[str, Any], temporary: Path
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The method that changes answers least on validation images, and what each of them changed.

    By the share of decisions that flipped, which is what counts but are few, and the mean change of P(REAL): not of
    logits, as one of 9 that becomes 12 changes nothing.
    """
    calibration, _ = images.take("train", quantize.CALIBRATION_IMAGES)
    held_out, _ = images.take("val", METHOD_IMAGES)

    def logits(each: onnx.ModelProto) -> np.ndarray:
        export.set_metadata(each, facts)
        temporary.write_bytes(export.serialized(each))
        return verification.logits_of(
            verification.onnxruntime_logits(Detector(temporary)), held_out, "int8 on validation images"
        )

    expected = logits(model)
    made, measured = {}, {}
    for method in quantize.METHODS:
        started = time.monotonic()
        made[method] = quantize.quantize(model, calibration, method)
        compared = verification.Comparison(expected, logits(made[method]), facts["decision_threshold"])
        measured[method] = compared.changes()
        log.info(
            "int8, calibrated by %s on %d training images: on %d validation images P(REAL) differs by %.4f in the "
            "mean, %d decisions flipped, %.0f s",
            method, len(calibration), len(held_out), *measured[method].values(), time.monotonic() - started,
        )  # fmt: skip
    best = min(
        measured,
        key=lambda method: (
            measured[method]["flipped_decisions"] / len(held_out) + measured[method]["prob_difference_mean"]
        ),
    )
    return made[best], {
        "calibration": best,
        "calibration_images": len(calibration),
        "calibration_checked_on": len(held_out),
        "calibration_measured": measured,
    }


@contextmanager
def scratch(output: Path) -> Iterator[Path]:
    """A folder beside the target that goes at the end, with what folders were made for it where nothing was written.

    Raises:
        UserError: it cannot be made, or what is done in it meets a full disk.
    """
    try:
        with made_folder(output.parent), temporary_folder(output.parent, output.name) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"cannot write {printable(output)}: {reason_of(error)}") from error
