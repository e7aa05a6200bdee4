"""What is to be exported and held against its export: the model, and what is known of its training."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.trained_on import Record, record_of, unknown_entry
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration, read_calibration
from lightning_cifake.files import read_json, sha256_of
from lightning_cifake.hub import SAFETENSORS
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.run_folder import METRICS, SPLIT
from lightning_cifake.text import printable
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.resume import restored

log = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """``training`` holds what is known of it: protocol, data, data_digest, epochs; little for a Keras file.

    ``record``: what it was ever trained on, as :mod:`trained_on` keeps it.
    """

    path: Path
    sha256: str
    classifier: FakeImageClassifier
    training: dict[str, Any]
    record: Record

    def calibrated(self) -> CheckpointCalibration | None:
        """What ``calibrate`` left beside it.

        Raises:
            UserError: that is damaged, or of another checkpoint.
        """
        return read_calibration(self.path, self.sha256)


def load_model(
    path: Path,
    head: str | None = None,
    image_size: int | None = None,
    pixels: str | None = None,
    real_class: int | None = None,
) -> LoadedModel:
    """A checkpoint, or a Keras file through the converter; in float32 and eval mode, without running code from it.

    Args:
        path: ``.ckpt``, ``.keras``, ``.h5`` or ``.weights.h5``.
        head, image_size, pixels, real_class: what a Keras file does not tell, as ``convert`` takes them.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    if is_keras_file(path):
        from lightning_cifake.keras_io.importer import import_keras
        from lightning_cifake.training.convert import LEARNING_RATE, LR_DECAY, make_classifier

        if path.is_dir():
            raise UserError(f"{printable(path)} is a SavedModel's folder: turn it into a .ckpt first, with convert")
        imported = import_keras(path, head, image_size, pixels, real_class)
        for note in imported.notes:
            log.warning("%s: %s", printable(path.name), note)
        if imported.head is None:
            raise UserError(f"{path} is a backbone alone: there is no head in it that decides anything")
        record = [unknown_entry(path.name)]
        classifier = make_classifier(imported, LEARNING_RATE, LR_DECAY)
    else:
        if any(value is not None for value in (head, image_size, pixels, real_class)):
            raise UserError(
                "--head, --image_size, --pixels and --real_class are for Keras's files: a checkpoint tells them itself"
            )
        content = read_checkpoint(path)
        classifier = restored(content, path)
        record = classifier.trained_on or record_of({}, path)
        if path.suffix == SAFETENSORS:
            return LoadedModel(path, sha256_of(path), classifier.float().eval(), content["training"], record)
    digest = sha256_of(path)
    return LoadedModel(path, digest, classifier.float().eval(), training_of(path, digest), record)


def training_of(path: Path, digest: str) -> dict[str, Any]:
    """From metrics.json beside the checkpoint, where it is of this very file, else from split.json.

    Raises:
        UserError: one of them is there, and damaged.
    """
    metrics = _read_of_run(path.parent / METRICS)
    if metrics.get("checkpoint_sha256") == digest:
        known = ("protocol", "data", "data_digest", "split_seed", "sample", "split_sizes", "epochs", "versions")
        return {name: metrics[name] for name in known if name in metrics}
    split = _read_of_run(path.parent / SPLIT)
    found: dict[str, Any] = {name: split[name] for name in ("protocol", "data_digest") if name in split}
    if isinstance(split.get("seed"), int):  # with the sizes: whoever draws it again sees whether it came out the same
        sizes = {part: len(split[part]) for part in ("train", "val", "test") if isinstance(split.get(part), list)}
        found |= {"split_seed": split["seed"], "split_sizes": sizes}
    return found


def _read_of_run(path: Path) -> dict[str, Any]:
    """What a run wrote beside its checkpoint: it goes into the exported file, so it must be what was written."""
    if not path.exists():
        return {}
    try:
        content, checked = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; fix it, or move it away and do without what it says of the training") from error
    if not checked:
        log.warning("%s carries no digest (written by 0.1.0, or by hand): taken unchecked", printable(path))
    return content
