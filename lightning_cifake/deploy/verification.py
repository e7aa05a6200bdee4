"""A checkpoint and its export, on real images, hard ones and the demo's: what export does and verify repeats."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cifake.deploy import compare, manifest
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.reference_images import reference_images
from lightning_cifake.errors import UserError
from lightning_cifake.files import public_name
from lightning_cifake.text import printable, reason_of

if TYPE_CHECKING:  # torch is not wanted where the manifest is enough
    import onnx

    from lightning_cifake.data.trained_on import Record
    from lightning_cifake.deploy.loaded_model import LoadedModel
    from lightning_cifake.deploy.real_images import RealImages


def compare_with(
    loaded: "LoadedModel", detector: Detector, images: "RealImages", max_loss: float, sample: int | None
) -> dict[str, Any]:
    """An exported model against its checkpoint: what the manifest says of it, and ``violations``."""
    from lightning_cifake.deploy.predict import ClassifierModel

    lightning = compare.lightning_logits(
        ClassifierModel(loaded.classifier), detector.facts.temperature, detector.facts.input_type
    )
    exported = compare.onnxruntime_logits(detector)
    pixels, labels = images.take("test", sample)
    hard, demo = compare.edge_case_images(), reference_images()
    found = {}
    for name, given in (("real", pixels), ("hard", list(hard.values())), ("demo", demo)):
        description = f"{len(given):,} {name} images"
        found[name] = compare.Comparison(
            compare.logits_of(lightning, given, f"Lightning, {description}"),
            compare.logits_of(exported, given, f"onnxruntime, {description}"),
            detector.threshold,
        )
    both_classes = 0 < labels.sum() < len(labels)
    return {
        "violations": compare.violations(detector.facts.precision, found["real"], found["hard"], labels, max_loss),
        "limits": compare.limits(detector.facts.precision, max_loss),
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


def _pairs(comparison: compare.Comparison) -> list[list[float]]:
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
        f"further than {compare.MARGIN:g} from the threshold"
    )
