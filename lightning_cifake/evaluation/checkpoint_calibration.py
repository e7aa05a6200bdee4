"""What ``calibrate`` found for a checkpoint, in a file beside it that is of this one alone: a map and a threshold.

A checkpoint stays as it is, so that its training can be resumed. ``test``, ``evaluate``, ``explain``, ``predict`` and
``export`` read the file where it is there.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import KEY, Calibration
from lightning_cifake.files import public_name, read_json, sealed_json, sha256_of, write_whole
from lightning_cifake.hub import CALIBRATION
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

PIXELS = "pixels"  # of a record: base64 of four bytes an image; one of 2**32 / N others is taken for one


class CheckpointCalibration(NamedTuple):
    """How a checkpoint's answers are to be taken.

    Attributes:
        calibration: from the network's own logits.
        threshold: of the calibrated P(REAL), in [0, 1].
        record: what was fitted on which images, as an exported model's manifest keeps it.
    """

    calibration: Calibration
    threshold: float
    record: dict[str, Any]

    def __str__(self) -> str:
        bent = "an isotonic curve" if self.calibration.knots else f"temperature {self.calibration.temperature:.4f}"
        return f"threshold {self.threshold:.6g}, {bent}"

    @property
    def facts(self) -> dict[str, Any]:
        """As an exported model's metadata have them."""
        return {
            "decision_threshold": self.threshold,
            "temperature": self.calibration.temperature,
            KEY: {**self.record, "knots": [list(knot) for knot in self.calibration.knots]},
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The facts as text."""
        return {name: json.dumps(value) for name, value in self.facts.items()}


def calibration_path(checkpoint: Path) -> Path:
    """``best.ckpt.calibration.json`` of ``best.ckpt``."""
    return checkpoint.with_name(f"{checkpoint.name}{CALIBRATION}")


def write_calibration(checkpoint: Path, sha256: str, found: CheckpointCalibration) -> Path:
    """Writes the file, whole; its path.

    Raises:
        UserError: it cannot be written.
    """
    path = calibration_path(checkpoint)
    write_whole(path, sealed_json({"of": public_name(checkpoint), "checkpoint_sha256": sha256, **found.facts}))
    return path


def read_calibration(checkpoint: Path, sha256: str | None = None) -> CheckpointCalibration | None:
    """What lies beside a checkpoint; None where nothing does: it then answers with its own logits, at 1/2.

    Args:
        checkpoint: the file.
        sha256: hex digest of it; computed where it is needed and not given.

    Raises:
        UserError: the file is damaged, or of another checkpoint than is there now.
    """
    path = calibration_path(checkpoint)
    if not path.exists():
        return None
    content, sealed = read_json(path)
    shown = printable(path)
    try:
        expected, threshold, record = content["checkpoint_sha256"], float(content["decision_threshold"]), content[KEY]
        calibration = Calibration.of_metadata({"temperature": str(content["temperature"]), KEY: json.dumps(record)})
        if not sealed or not 0 <= threshold <= 1:
            raise ValueError
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{shown} is not what calibrate writes: calibrate again, with --overwrite, or remove it"
        ) from error
    if expected != (sha256 or sha256_of(checkpoint)):
        raise UserError(
            f"{shown} was made for another {printable(checkpoint.name)} than is there now (trained on since?): "
            "calibrate again, with --overwrite, or remove it"
        )
    kept = {name: value for name, value in record.items() if name != "knots"}
    found = CheckpointCalibration(calibration, threshold, kept)
    log.info("%s: %s", shown, found)
    return found
