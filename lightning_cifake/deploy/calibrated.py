"""An exported model and its manifest -> another one whose ``prob_real`` is calibrated, with a threshold of its own.

The network in it stays as it is, to the last bit: only what comes behind its logit is written anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lightning_cifake.deploy import export, manifest, verification
from lightning_cifake.deploy.calibrated_graph import calibrate_graph
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.verified_export import scratch
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import KEY, Calibration
from lightning_cifake.files import replacing, sealed_json, sha256_of
from lightning_cifake.text import reason_of


def write_calibrated(
    source: Path, output: Path, calibration: Calibration, threshold: float, record: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Writes the calibrated model and its manifest, both whole, or neither.

    Args:
        source: an exported model, its manifest beside it; it is not changed.
        output: MODEL.onnx to write.
        calibration: from the network's own logits.
        threshold: of the calibrated P(REAL), in [0, 1].
        record: what was fitted on which images, for metadata and manifest.

    Returns:
        What the manifest holds, and the reasons why nothing was written: none where it was.

    Raises:
        UserError: the source or its manifest is not what export wrote, or the disk is full.
    """
    written, _ = manifest.read_manifest(source)
    before = Detector(source)
    old = Calibration.of_metadata(before.facts.metadata)

    def change(logits: np.ndarray) -> np.ndarray:
        return calibration(old.inverse(logits))

    model = onnx.load_model(source)
    calibrate_graph(model, calibration)
    facts = {
        **before.facts.metadata,
        "decision_threshold": threshold,
        "temperature": calibration.temperature,
        KEY: {**record, "knots": [list(knot) for knot in calibration.knots]},
    }
    export.set_metadata(model, facts)
    verification.check_graph(model)
    with scratch(output) as folder:
        temporary = folder / output.name
        temporary.write_bytes(export.serialized(model))
        detector = Detector(temporary)
        content = {
            **manifest.environment_info(),
            "limits": written.get("limits"),
            "answers": _moved(written, change),
            "calibration": record,
            "made_of": {name: written.get(name) for name in ("model", "real", "hard", "calibration", "made_of")},
            "model": {
                **written["model"],
                "file": output.name,
                "sha256": sha256_of(temporary),
                "bytes": temporary.stat().st_size,
                **{name: facts[name] for name in ("decision_threshold", "temperature", KEY)},
            },
        }
        violations = verification.repeat_answers(detector, content)
        if not violations:
            with replacing(manifest.manifest_path(output)) as described, replacing(output) as target:
                temporary.replace(target)
                described.write_text(sealed_json(content), encoding="utf-8")
    return content, violations


def _moved(written: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """The answers that a manifest keeps, (Lightning's, the file's) logits, as they are after a change of the map."""

    def moved(pair: list[float]) -> list[float]:
        return [float(f"{value:.9g}") for value in change(np.array(pair)).tolist()]

    try:
        answers = written["answers"]
        return {
            "demo": [moved(pair) for pair in answers["demo"]],
            "hard": {name: moved(pair) for name, pair in answers["hard"].items()},
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the model's manifest does not hold its answers ({reason_of(error)}): export it again"
        ) from error
