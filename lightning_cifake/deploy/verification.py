"""A checkpoint and its export, on real images, hard ones and the demo's: what export does and verify repeats.

``compare_with`` compares by figures with a limit, which the manifest keeps; ``repeat_answers`` needs no more than that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cifake.data.resize import resize_bilinear, resize_square
from lightning_cifake.deploy import manifest
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.reference_images import edge_case_images, reference_images
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration
from lightning_cifake.files import public_name
from lightning_cifake.text import printable, reason_of

if TYPE_CHECKING:
    import onnx

    from lightning_cifake.data.trained_on import Record
    from lightning_cifake.deploy.loaded_model import LoadedModel
    from lightning_cifake.deploy.predict import ClassifierModel
    from lightning_cifake.deploy.real_images import RealImages

# torch is imported where a checkpoint is compared with: `verify` does without where the manifest is enough

LOGIT = 1e-4  # float32: 53 convolutions sum in another order; measured 3e-5 on CIFAKE
MARGIN = 1e-6  # of P(REAL): a decision nearer than this to the threshold may fall either way in float32
MAX_LOSS = 0.3  # points of accuracy that float16 and int8 may cost, unless told otherwise
BATCH = 256

Logits = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """Two models' logits of the same images.

    Attributes:
        reference: (N,) float32, of the checkpoint through Lightning's model, calibrated as the exported file is.
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

    def changes(self) -> dict[str, Any]:
        """What a caller of ``prob_real`` notices: its mean difference, and decisions that differ."""
        difference = np.abs(sigmoid(self.exported) - sigmoid(self.reference))
        return {"prob_difference_mean": float(difference.mean()), "flipped_decisions": self.flipped()}

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


def lightning_logits(
    model: "ClassifierModel", calibration: Callable[[np.ndarray], np.ndarray] | None = None, input_type: str = "uint8"
) -> Logits:
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
        return found if calibration is None else calibration(found)

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


def compare_with(
    loaded: "LoadedModel", detector: Detector, images: "RealImages", max_loss: float, sample: int | None
) -> dict[str, Any]:
    """An exported model against its checkpoint: what the manifest says of it, and ``violations``."""
    from lightning_cifake.deploy.predict import ClassifierModel

    lightning = lightning_logits(
        ClassifierModel(loaded.classifier), Calibration.of_metadata(detector.facts.metadata), detector.facts.input_type
    )
    exported = onnxruntime_logits(detector)
    pixels, labels = images.take("test", sample)
    hard, demo = edge_case_images(), reference_images()
    found = {}
    for name, given in (("real", pixels), ("hard", list(hard.values())), ("demo", demo)):
        description = f"{len(given):,} {name} images"
        found[name] = Comparison(
            logits_of(lightning, given, f"Lightning, {description}"),
            logits_of(exported, given, f"onnxruntime, {description}"),
            detector.threshold,
        )
    both_classes = 0 < labels.sum() < len(labels)
    return {
        "violations": violations(detector.facts.precision, found["real"], found["hard"], labels, max_loss),
        "limits": limits(detector.facts.precision, max_loss),
        "real": {
            "data": public_name(images.images.name),
            "data_digest": images.images.digest,
            "part": "test",
            "protocol": images.split.protocol,
            "split_of_the_run": images.of_run,
            "seen_in_training": _train_overlap(loaded.record, images, sample),
            **found["real"].figures(),
            **(found["real"].scores(labels) if both_classes else {}),
        },
        "hard": found["hard"].figures(),
        # what `verify` repeats without the checkpoint and the data: (Lightning's, this file's) logits
        "answers": {
            "demo": _pairs(found["demo"]),
            "hard": dict(zip(hard, _pairs(found["hard"]), strict=True)),
        },
        **manifest.environment_info(),
    }


def repeat_answers(detector: Detector, written: dict[str, Any]) -> list[str]:
    """The answers that a manifest keeps, asked again, with a line for each kind; what differs too much.

    Raises:
        UserError: the manifest does not hold them.
    """
    exported = onnxruntime_logits(detector)
    hard = edge_case_images()
    violations = []
    try:
        answers = written["answers"]
        kept: dict[str, tuple[Any, np.ndarray]] = {
            "demo": (reference_images(), np.array(answers["demo"], np.float32)),
            "hard": ([hard[name] for name in answers["hard"]], np.array(list(answers["hard"].values()), np.float32)),
        }
        shapes = [pairs.shape == (len(images), 2) for images, pairs in kept.values()]
        if not all(shapes):
            raise ValueError("answers")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the manifest of {printable(detector.path)} does not hold the answers that verify repeats "
            f"({reason_of(error)}): export it again"
        ) from error
    for name, (images, pairs) in kept.items():
        lightning, there = pairs[:, 0], pairs[:, 1]
        here = logits_of(exported, images)
        if detector.facts.precision == "float32":
            got, limit = float(np.abs(here - lightning).max()), LOGIT
            description = f"logits of {len(images)} {name} images differ by up to {got:.2g} from the checkpoint's"
        else:
            # another processor may round an activation to the next level: by no more than the precision itself costs
            got, limit = float(np.abs(here - there).mean()), float(np.abs(there - lightning).mean())
            description = f"logits of {len(images)} {name} images differ by {got:.2g} in the mean from those at export"
        print(f"{description} (limit {limit:.2g})")
        if not got <= limit:
            violations.append(f"{description} (limit {limit:.2g})")
    return violations


def check_graph(model: "onnx.ModelProto") -> None:
    """ONNX's checker and strict shape inference.

    Raises:
        UserError: the model is not sound, which is a fault of the export.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's own kinds share no base
        raise UserError(f"the exported model is not sound: {reason_of(error)}") from error


def _pairs(comparison: Comparison) -> list[list[float]]:
    both = np.stack([comparison.reference, comparison.exported], 1).tolist()
    return [[float(f"{value:.9g}") for value in pair] for pair in both]


def print_summary(written: dict[str, Any]) -> None:
    """The figures of a comparison, for a reader."""
    real, hard = written["real"], written["hard"]
    print(f"{real['images']:,} {real['part']} images of {printable(real['data'])}, protocol {real['protocol']}")
    if doubt := seen_in_words(real):
        print(f"  {doubt}")
    for name in ("lightning", "onnxruntime"):
        if name in real:
            auroc = real[name]["auroc"]
            print(f"  {name:12} accuracy {real[name]['accuracy']:.2%}, AUROC {auroc:.4f}")
    print(f"  {_line(real)}")
    print(f"{hard['images']} hard images\n  {_line(hard)}")


def _train_overlap(record: "Record", images: "RealImages", sample: int | None) -> int | None:
    """How many of the images that are compared on were ever trained on, or a twin of them; None: not known."""
    from lightning_cifake.data.trained_on import covers, seen_in_training, unknown_sources

    if not covers(record, images.images) or unknown_sources(record):
        return None
    return int(seen_in_training(record, images.images, images.indices("test", sample)).sum())


def seen_in_words(real: dict[str, Any]) -> str:
    """What a reader of the accuracies must know about the images' part in the training; empty where all is well."""
    seen = real.get("seen_in_training")
    if seen:
        return f"{seen:,} of them were TRAINED ON: the accuracies are no measure of new images"
    if seen is None:
        return "NOT known: whether they were trained on, so the accuracies may be no measure of new images"
    return ""


def _line(figures: dict[str, Any]) -> str:
    return (
        f"logits differ by {figures['logit_difference_max']:.2g} at most, {figures['logit_difference_mean']:.2g} in "
        f"the mean; {figures['flipped_decisions']} decisions flipped, {figures['flipped_outside_margin']} of them "
        f"further than {MARGIN:g} from the threshold"
    )
