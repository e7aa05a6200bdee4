"""The command ``verify``: is this exported model still what its manifest says, here, on this machine?"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake.deploy import compare, manifest
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.verification import (
    add_image_arguments,
    check_image_arguments,
    compare_with,
    print_summary,
    reference_images,
)
from lightning_cifake.errors import UserError

EXAMPLES = """examples:
  python -m lightning_cifake verify model.onnx                              with the manifest alone, in seconds
  python -m lightning_cifake verify model.onnx --ckpt_path best.ckpt        against the checkpoint, as export did
  python -m lightning_cifake verify model.onnx --ckpt_path best.ckpt --data.root CIFAKE.zip

With the manifest alone: that the file is the one that was exported (SHA-256), that ONNX's checker takes it, and that
it answers here as it answered there, on 64 images of the built-in demo and 18 hard ones: in float32 within 1e-4 of the
checkpoint's logits; in float16 and int8 no further, in the mean, from what it answered when it was exported than it was
from the checkpoint then. Exit code 0 where it does, 1 where it does not.
"""


def run(arguments: list[str]) -> int:
    """Verifies as the command line says; 0, or 1 where the model does not answer as it should.

    Raises:
        UserError: the arguments, the model, its manifest, the checkpoint or the images.
    """
    parser = argparse.ArgumentParser(
        "python -m lightning_cifake verify",
        description="Checks an exported model again: later, after a copy, or on another machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="what export wrote; its .json lies beside it")
    parser.add_argument("--ckpt_path", type=Path, help="compares with this checkpoint or Keras file, as export did")
    add_image_arguments(parser)
    parser.add_argument("--head", metavar="LINE", help="the head of a Keras file of weights alone")
    parser.add_argument("--image_size", type=int, metavar="S", help="where a Keras file does not tell it")
    options = parser.parse_args(arguments)
    check_image_arguments(options)
    detector = Detector(options.model)
    _check_graph(options.model)
    faults = []
    if options.ckpt_path is None or manifest.manifest_path(options.model).exists():
        faults += _repeat(detector, manifest.read_manifest(options.model))
    if options.ckpt_path is not None:
        faults += _against_checkpoint(detector, options)
    elif options.root is not None:
        _measure(detector, options)
    if faults:
        print(f"NOT verified: {'; '.join(faults)}")
        return 1
    runtime = manifest.here()["versions"]["onnxruntime"]
    print(f"verified: {options.model}, {detector.facts.precision}, onnxruntime {runtime}")
    return 0


def _check_graph(path: Path) -> None:
    import onnx

    from lightning_cifake.deploy.export import check

    check(onnx.load_model(path))


def _repeat(detector: Detector, written: dict[str, Any]) -> list[str]:
    """The answers that the manifest keeps, asked again."""
    exported = compare.onnxruntime_logits(detector)
    hard = compare.hard_images()
    faults = []
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
            f"the manifest of {detector.path} does not hold the answers that verify repeats ({error}): export it again"
        ) from error
    for name, (images, pairs) in kept.items():
        lightning, there = pairs[:, 0], pairs[:, 1]
        here = compare.logits_of(exported, images)
        if detector.facts.precision == "float32":
            came, limit = float(np.abs(here - lightning).max()), compare.LOGIT
            said = f"logits of {len(images)} {name} images differ by up to {came:.2g} from the checkpoint's"
        else:
            # another processor may round an activation to the next level: by no more than the precision itself costs
            came, limit = float(np.abs(here - there).mean()), float(np.abs(there - lightning).mean())
            said = f"logits of {len(images)} {name} images differ by {came:.2g} in the mean from those at export"
        print(f"{said} (limit {limit:.2g})")
        if not came <= limit:
            faults.append(f"{said} (limit {limit:.2g})")
    return faults


def _against_checkpoint(detector: Detector, options: argparse.Namespace) -> list[str]:
    from lightning_cifake.deploy.subject import load_subject, real_images

    subject = load_subject(options.ckpt_path, options.head, options.image_size)
    expected = detector.facts.metadata.get("checkpoint_sha256")
    if expected != subject.sha256:
        print(f"note: {detector.path} was exported from another file (SHA-256 {expected}) than {options.ckpt_path}")
    images = real_images(options.ckpt_path, options.root, int(subject.classifier.hparams["image_size"]))
    found = compare_with(subject, detector, images, options.max_loss, options.sample)
    print_summary(found)
    return found["faults"]


def _measure(detector: Detector, options: argparse.Namespace) -> None:
    """Without a checkpoint there is nothing to compare images with: its own figures on them."""
    from lightning_cifake.deploy.subject import real_images
    from lightning_cifake.evaluation.metrics import binary_metrics

    images = real_images(options.model, options.root, detector.image_size)
    pixels, labels = images.take("test", options.sample)
    exported = compare.onnxruntime_logits(detector)
    logits = compare.logits_of(exported, pixels, f"onnxruntime, {len(pixels):,} images")
    metrics = binary_metrics(compare.sigmoid(logits), labels, detector.threshold)
    kept = {name: metrics[name] for name in ("accuracy", "auroc", "confusion_matrix", "images")}
    print(f"test images of {Path(images.images.name).name}, protocol {images.split.protocol}: {json.dumps(kept)}")
