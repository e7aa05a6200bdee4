"""An exported model against the one it was made from: on real images and on hard ones, by figures with a limit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cifake.data.resize import resize_bilinear, resize_square
from lightning_cifake.deploy.detector import Detector

if TYPE_CHECKING:
    from lightning_cifake.deploy.predict import ClassifierModel

# torch is imported where a checkpoint is compared with: `verify` does without where the manifest is enough

LOGIT = 1e-4  # float32: 53 convolutions sum in another order; measured 3e-5 on CIFAKE
MARGIN = 1e-6  # of P(REAL): a decision nearer than this to the threshold may fall either way in float32
MAX_LOSS = 0.3  # points of accuracy that float16 and int8 may cost, unless told otherwise
BATCH = 256

Logits = Callable[[np.ndarray], np.ndarray]


def edge_case_images() -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8: sizes and contents that no data set has, and that a service is sent all the same."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
        return rng.integers(low, high, (height, width, 3), np.uint8)

    checkers = np.indices((32, 32)).sum(0) % 2 * 255
    ramp = np.linspace(0, 255, 32).round()
    return {
        "one pixel": noise(1, 1),
        "one row": noise(1, 57),
        "one column": noise(211, 1),
        "two pixels": noise(2, 1),
        "one more than trained on": noise(33, 33),
        "one less than trained on": noise(31, 31),
        "tall": noise(900, 11),
        "huge": noise(2048, 3072),
        "black": np.zeros((32, 32, 3), np.uint8),
        "white": np.full((32, 32, 3), 255, np.uint8),
        "grey": np.full((32, 32, 3), 128, np.uint8),
        "grey noise": np.repeat(noise(32, 32)[..., :1], 3, 2),
        "red": np.zeros((32, 32, 3), np.uint8) + np.array([255, 0, 0], np.uint8),
        "checkers": np.repeat(checkers[..., None], 3, 2).astype(np.uint8),
        "ramp": np.broadcast_to(ramp[:, None], (32, 32, 3)).astype(np.uint8),
        "noise": noise(32, 32),
        "black or white noise": (noise(32, 32, 0, 2) * 255).astype(np.uint8),
        "constant, large": np.full((640, 480, 3), 77, np.uint8),
    }


@dataclass(frozen=True)
class Comparison:
    """Two models' logits of the same images.

    Attributes:
        reference: (N,) float32, of the checkpoint through Lightning's model, divided by the temperature.
        exported: (N,) float32, of the exported file through onnxruntime.
        threshold: of P(REAL), strictly above is REAL.
    """

    reference: np.ndarray
    exported: np.ndarray
    threshold: float

    @property
    def differences(self) -> np.ndarray:
        return np.abs(self.exported.astype(np.float64) - self.reference)

    def flipped(self, margin: float = 0.0) -> int:
        """Decisions that differ where the reference's P(REAL) is further than ``margin`` from the threshold."""
        ours, theirs = sigmoid(self.exported), sigmoid(self.reference)
        limit = np.float32(self.threshold)
        return int(((ours > limit) != (theirs > limit))[np.abs(theirs - self.threshold) > margin].sum())

    def figures(self) -> dict[str, Any]:
        return {
            "images": len(self.reference),
            "logit_difference_max": float(self.differences.max()),
            "logit_difference_mean": float(self.differences.mean()),
            "flipped_decisions": self.flipped(),
            "flipped_outside_margin": self.flipped(MARGIN),
        }

    def scores(self, labels: np.ndarray) -> dict[str, dict[str, Any]]:
        """Accuracy, AUROC and confusion matrix of both, (N,) labels FAKE = 0."""
        from lightning_cifake.evaluation.metrics import binary_metrics

        kept = ("accuracy", "auroc", "confusion_matrix")
        both = {"lightning": self.reference, "onnxruntime": self.exported}
        found = {name: binary_metrics(sigmoid(each), labels, self.threshold) for name, each in both.items()}
        return {name: {key: metrics[key] for key in kept} for name, metrics in found.items()}


def violations(precision: str, real: Comparison, hard: Comparison, labels: np.ndarray, max_loss: float) -> list[str]:
    """Why an export is not to be trusted; empty where it is.

    Args:
        precision: ``float32`` is held to LOGIT and MARGIN on all images, ``float16`` and ``int8`` to ``max_loss``.
        max_loss: points of accuracy that may be lost on the real images.
    """
    found = []
    for name, comparison in (("real", real), ("hard", hard)):
        if not np.isfinite(comparison.exported).all():
            found.append(f"{int((~np.isfinite(comparison.exported)).sum())} logits of {name} images are not finite")
        elif precision == "float32":
            if (worst := comparison.differences.max()) > LOGIT:
                found.append(f"logits of {name} images differ by up to {worst:.2g} (limit {LOGIT:g})")
            if flips := comparison.flipped(MARGIN):
                found.append(f"{flips} decisions of {name} images flipped further than {MARGIN:g} from the threshold")
    if not found and precision != "float32":
        scores = real.scores(labels)
        lost = 100 * (scores["lightning"]["accuracy"] - scores["onnxruntime"]["accuracy"])
        if lost > max_loss:
            found.append(f"{lost:.2f} points of accuracy are lost (limit {max_loss:g})")
    return found


def limits(precision: str, max_loss: float) -> dict[str, float]:
    """What :func:`violations` holds a precision to, by name."""
    if precision == "float32":
        return {"logit_difference": LOGIT, "margin_of_a_flip": MARGIN}
    return {"points_of_accuracy": max_loss}


def lightning_logits(model: "ClassifierModel", temperature: float, input_type: str = "uint8") -> Logits:
    """What :func:`logits_of` asks; (N, H, W, 3) uint8, brought to the model's size as in training, -> (N,) float32.

    Where the exported model takes floats they are not rounded to whole values after resizing: they have none.
    """
    size = model.image_size

    def logits(images: np.ndarray) -> np.ndarray:
        if images.shape[1:3] == (size, size):
            found = model.logits(images)
        elif input_type == "uint8":
            found = model.logits(np.stack([resize_square(image, size) for image in images]))
        else:
            found = model.logits_of_floats(np.stack([resize_bilinear(image / 255, size) for image in images]))
        return found / np.float32(temperature)

    return logits


def onnxruntime_logits(detector: Detector) -> Logits:
    """What :func:`logits_of` asks: the same images as they are, the graph resizes them."""
    return lambda images: detector.run(images)[1]


def logits_of(logits: Logits, images: np.ndarray | Sequence[np.ndarray], description: str = "") -> np.ndarray:
    """(N,) float32 of N images, batch by batch, with a progress bar where there are many; one by one of a list."""
    if isinstance(images, np.ndarray):
        starts = range(0, len(images), BATCH)
        return np.concatenate([logits(images[start : start + BATCH]) for start in _tracked(starts, description)])
    return np.concatenate([logits(image[None]) for image in images])


def _tracked(starts: range, description: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(starts, description, console=Console(stderr=True), disable=len(starts) < 4)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """(N,) float32 in [0, 1], by torch: the same as a classifier's own."""
    import torch

    return torch.from_numpy(np.asarray(logits, np.float32)).sigmoid().numpy()
