"""A detector of AI-generated images: the published CIFAKE ResNet50 system in PyTorch Lightning.

The public names, each imported when it is first asked for: ``import lightning_cifake`` alone loads neither torch nor
Lightning. It sets one variable, ``ORT_DISABLE_TELEMETRY``, unless the user has.
"""

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_cifake.beside_tensorflow import keep_triton_out
from lightning_cifake.extras import missing_extra

if TYPE_CHECKING:
    from lightning_cifake.data.datamodule import CIFAKEDataModule
    from lightning_cifake.data.decode import load_images
    from lightning_cifake.data.download import download_cifake
    from lightning_cifake.data.protocols import make_split
    from lightning_cifake.deploy.answers import Prediction
    from lightning_cifake.deploy.detector import Detector
    from lightning_cifake.deploy.predict import load_classifier, predict_files
    from lightning_cifake.errors import UserError
    from lightning_cifake.evaluation.metrics import binary_metrics
    from lightning_cifake.networks.resnet50 import ResNet50Detector
    from lightning_cifake.training.callbacks import default_callbacks
    from lightning_cifake.training.classifier import FakeImageClassifier
    from lightning_cifake.training.keras_adam import KerasAdam

# onnxruntime's first import starts telemetry: a device id and a database below the home folder, and a look-up of its
# maker's host. It reads this variable then and never again, and others import it too (torch's exporter, onnxscript): so
# it is set here, before any of them. A process that has imported onnxruntime before this package sets it by itself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_WHERE = {
    "Prediction": "deploy.answers",
    "CIFAKEDataModule": "data.datamodule",
    "Detector": "deploy.detector",
    "FakeImageClassifier": "training.classifier",
    "ResNet50Detector": "networks.resnet50",
    "KerasAdam": "training.keras_adam",
    "UserError": "errors",
    "binary_metrics": "evaluation.metrics",
    "default_callbacks": "training.callbacks",
    "download_cifake": "data.download",
    "load_classifier": "deploy.predict",
    "load_images": "data.decode",
    "make_split": "data.protocols",
    "predict_files": "deploy.predict",
}

_RENAMED = {"Answer": "Prediction", "FakeImageNetwork": "ResNet50Detector"}
"""Names of 0.1.0, which work for one more version."""

__all__ = [
    "CIFAKEDataModule",
    "Detector",
    "FakeImageClassifier",
    "KerasAdam",
    "Prediction",
    "ResNet50Detector",
    "UserError",
    "binary_metrics",
    "default_callbacks",
    "download_cifake",
    "load_classifier",
    "load_images",
    "make_split",
    "predict_files",
]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"{__name__}.{name} is {_RENAMED[name]} since 0.2.0", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    keep_triton_out()
    try:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    except ImportError as error:
        missing = missing_extra(error, f"{__name__}.{name}")
        if missing is None:
            raise
        raise missing from error
