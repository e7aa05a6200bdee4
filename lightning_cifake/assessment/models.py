"""Any model that can be asked about images, in one form: checkpoint, exported ONNX, Keras file, released ones by name.

    model = open_model("compact")            # or best.ckpt, model.onnx, model.keras, a run's folder
    logits = model.logits(images)            # (N, H, W, 3) uint8, or N arrays of any size -> (N,) float32

Images are prepared as ``predict`` prepares them; logits are divided by the model's temperature.
"""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lightning_cifake import shipped
from lightning_cifake.data.resize import Picture
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.digest import manifest_of
from lightning_cifake.errors import UserError
from lightning_cifake.model_kinds import model_kind, what_is_wrong
from lightning_cifake.run_folder import BEST_FILE
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

BATCH = 256  # images of one size at once
BATCH_BYTES = 32 * 2**20  # of pixels, after which a batch is full


class Model(Protocol):
    """What is measured.

    Attributes:
        name: in tables; no two of one evaluation share one.
        file: that it was read from.
        sha256: hex digest of that file.
        image_size: height and width of the images of its training.
        threshold: an image is called REAL where its float32 probability is strictly above.
        temperature: what its logits are divided by already.
        precision: ``float32``, ``float16`` or ``int8``.
        record: of what it was trained on, as :mod:`~lightning_cifake.data.trained_on` keeps it; None where the file
            carries none, as an exported one.
        training: what else is known of its training: protocol, data, data_digest, split_seed.
        metadata: what an exported file says of itself, as text; of another kind only how it was calibrated.
    """

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def threshold(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def record(self) -> list[dict[str, Any]] | None: ...
    @property
    def training(self) -> dict[str, Any]: ...
    @property
    def metadata(self) -> dict[str, str]: ...

    def prepare(self, picture: Picture) -> np.ndarray:
        """An image -> the pixels that :meth:`logits` is given, (H, W, 3) uint8, small however large the image is."""

    def logits(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """(N, H, W, 3) uint8, or N arrays (H, W, 3) of any sizes -> (N,) float32, in batches; stopped by signals.

        Raises:
            UserError: the model fails on them, or gives what is no finite number.
        """


class _Batched:
    """What both kinds share: batches of one size, and answers that are numbers."""

    name: str

    def logits(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        found = np.empty(len(images), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for at, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(at)
        for shape, places in shapes.items():
            most = max(1, min(BATCH, BATCH_BYTES // math.prod(shape)))
            for start in range(0, len(places), most):
                batch = places[start : start + most]
                found[batch] = self._batch(np.stack([images[at] for at in batch]))
        if not np.isfinite(found).all():
            raise UserError(f"{printable(self.name)} answers with what is no number: expected a finite logit")
        return found

    def _batch(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class OnnxModel(_Batched):
    """An exported model, through :class:`~lightning_cifake.deploy.detector.Detector`."""

    record = None

    def __init__(self, detector: Detector, name: str) -> None:
        self.detector, self.name = detector, name
        facts = detector.facts
        self.file, self.sha256 = detector.path, detector.sha256
        self.image_size, self.precision = facts.image_size, facts.precision
        self.threshold, self.temperature = facts.threshold, facts.temperature
        self.training = {**_said_beside(self.file, self.sha256), **_training(facts.metadata.get("training"))}
        self.metadata = facts.metadata

    def prepare(self, picture: Picture) -> np.ndarray:
        return self.detector.prepare(picture)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        return self.detector.run(images)[1]


class TorchModel(_Batched):
    """A checkpoint or a Keras file, in float32 on the CPU, by what ``calibrate`` left beside it, where it did."""

    precision = "float32"

    def __init__(self, path: Path, name: str, recalibrate: bool = False) -> None:
        from lightning_cifake.deploy.loaded_model import load_model
        from lightning_cifake.deploy.predict import ClassifierModel

        loaded = load_model(path)
        self.classifier = loaded.classifier  # what explains it looks inside
        self.name, self.file, self.sha256 = name, path, loaded.sha256
        self.record, self.training = loaded.record, loaded.training
        try:
            calibrated = loaded.calibrated()
        except UserError as error:
            if not recalibrate:
                raise
            log.warning("%s: it is not used", error)
            calibrated = None
        self.metadata = {} if calibrated is None else calibrated.metadata
        self.temperature = 1.0 if calibrated is None else calibrated.calibration.temperature
        self._model = ClassifierModel(loaded.classifier, calibrated)
        self.image_size, self.threshold = self._model.image_size, self._model.threshold

    def prepare(self, picture: Picture) -> np.ndarray:
        return self._model.prepare(picture)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        return self._model.logits(images)


def _training(text: str | None) -> dict[str, Any]:
    """What an exported file says of its training, in its own metadata; nothing where that cannot be read."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _said_beside(model: Path, sha256: str) -> dict[str, Any]:
    """What the manifest of this very file says of its training: one made again by a later version says more."""
    said = manifest_of(model, sha256).get("model", {}).get("training")
    return said if isinstance(said, dict) else {}


def needs_torch(model: str) -> bool:
    """Whether it is a checkpoint or a Keras file; a command says first what to install for these."""
    return model_kind(_file_of(model)) in ("checkpoint", "Keras")


def open_model(
    model: str | Path, threads: int | None = None, name: str | None = None, recalibrate: bool = False
) -> Model:
    """Opens a model.

    Args:
        model: a released model's name, a checkpoint, an exported model, a Keras file, or a run's folder, whose best
            checkpoint is meant.
        threads: that an exported model may use; all cores by default.
        name: in tables; by default the released model's, or the file's.
        recalibrate: passes over a checkpoint's calibration that cannot be used: it is about to be replaced.

    Raises:
        UserError: no such model, damaged, or of another project.
    """
    path = _file_of(model)
    name = name or _names([model])[0]
    if needs_torch(str(path)):
        return TorchModel(path, name, recalibrate)
    try:
        return OnnxModel(Detector(path, threads), name)
    except UserError as error:
        if os.path.lexists(path) and (why := what_is_wrong(path)):
            raise UserError(why) from error
        raise


def open_models(models: Sequence[str | Path], threads: int | None = None) -> list[Model]:
    """Several, under names that differ.

    Raises:
        UserError: as :func:`open_model`; the same file twice.
    """
    opened = [open_model(model, threads, name) for model, name in zip(models, _names(models), strict=True)]
    first: dict[str, str] = {}
    for model, given in zip(opened, models, strict=True):
        if model.sha256 in first:
            raise UserError(
                f"expected different models, got {printable(first[model.sha256])} and {printable(given)}: the same file"
            )
        first[model.sha256] = str(given)
    return opened


def _file_of(model: str | Path) -> Path:
    path = shipped.model_file(model)
    return path / BEST_FILE if path.is_dir() and (path / BEST_FILE).is_file() else path


def _names(models: Sequence[str | Path]) -> list[str]:
    """The last part of each path, and as many before it as tell them apart; a released model's own name."""
    parts = [
        (str(each),) if isinstance(each, str) and each in shipped.MODELS else Path(each).absolute().parts[1:]
        for each in models
    ]
    names = ["/".join(each[-1:]) for each in parts]
    for length in range(2, max(map(len, parts)) + 1):
        names = [
            "/".join(each[-length:]) if names.count(name) > 1 else name for each, name in zip(parts, names, strict=True)
        ]
    return names
