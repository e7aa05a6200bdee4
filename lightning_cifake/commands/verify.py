"""The command ``verify``: is this exported model still what its manifest says, here, on this machine?"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake import shipped
from lightning_cifake.commands.arguments import add_image_arguments, add_keras_arguments, check_image_arguments
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.deploy import manifest, verification
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_json
from lightning_cifake.run_folder import METRICS, SPLIT
from lightning_cifake.text import printable, reason_of

RECORDS = (METRICS, SPLIT)
UNCHECKED = "carries no digest (written by 0.1.0, or by hand): a change to it would not be seen"

EXAMPLES = """examples:
  python -m lightning_cifake verify model.onnx                              with the manifest alone, in seconds
  python -m lightning_cifake verify model.onnx --ckpt_path best.ckpt        against the checkpoint, as export did
  python -m lightning_cifake verify model.onnx --ckpt_path best.ckpt --data.root CIFAKE.zip
  python -m lightning_cifake verify model.onnx --data.root folder/          and measures it on FAKE/ and REAL/ there

With --data.root and no checkpoint the model is measured: on the test images of the run where its split.json lies beside
the model and is of these images, else on the source's own test part, else on every image of it; it says which.

With the manifest alone: that no byte has changed of the model, its manifest, and the run's split.json and metrics.json
where they lie beside it (each carries its digest); that the file is the one that was exported, that ONNX's checker
takes it, and that it answers here as it answered there, on 64 images of the built-in demo and 18 hard ones: in float32
within 1e-4 of the checkpoint's logits; in float16 and int8 no further, in the mean, from what it answered when it was
exported than it was from the checkpoint then. Exit code 0 where it does, 1 where it does not. Needs no torch.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach("Checks an exported model again: later, after a copy, or on another machine.", EXAMPLES)
    parser.add_config()
    parser.add_argument(
        "model",
        type=str,
        metavar="MODEL.onnx",
        help=f"what export wrote, its .json beside it; or one that comes with the package: {', '.join(shipped.MODELS)}",
    )
    parser.add_argument(
        "--ckpt_path", type=Path, metavar="FILE", help="compares with this checkpoint or Keras file, as export did"
    )
    add_image_arguments(parser)
    add_keras_arguments(parser)


def run(options: Any) -> int:
    """Verifies as the command line says; 0, or 1 where the model does not answer as it should.

    Raises:
        UserError: the arguments, the model, its manifest, the checkpoint or the images.
    """
    check_image_arguments(options)
    options.model = shipped.model_file(options.model)
    detector = Detector(options.model)
    _check_file(options.model)
    folders = {options.model.parent} | ({options.ckpt_path.parent} if options.ckpt_path is not None else set())
    violations = _damage_beside(folders)
    if options.ckpt_path is None or manifest.manifest_path(options.model).exists():
        written, sealed = manifest.read_manifest(options.model)
        if not sealed:
            print(f"note: {printable(manifest.manifest_path(options.model))} {UNCHECKED}")
        violations += verification.repeat_answers(detector, written)
    if options.ckpt_path is not None:
        import_training_side("verify --ckpt_path")
        violations += _against_checkpoint(detector, options)
    elif options.data.root is not None:
        require("train", "torch", "torchmetrics", what="verify --data.root")
        _measure(detector, options)
    if violations:
        print(f"NOT verified: {'; '.join(violations)}")
        return 1
    runtime = manifest.environment_info()["versions"]["onnxruntime"]
    print(f"verified: {printable(options.model)}, {detector.facts.precision}, onnxruntime {runtime}")
    return 0


def _check_file(path: Path) -> None:
    import onnx

    try:
        model = onnx.load_model(path)
    except Exception as error:  # protobuf's, onnx's and the system's share no base
        raise UserError(f"{printable(path)} cannot be read as an ONNX model: {reason_of(error)}") from error
    verification.check_graph(model)


def _damage_beside(folders: set[Path]) -> list[str]:
    """What of a run's own records, where they lie in these folders, is not what was written."""
    found = []
    for path in sorted(folder / name for folder in folders for name in RECORDS):
        if path.is_file():
            try:
                if not read_json(path)[1]:
                    print(f"note: {printable(path)} {UNCHECKED}")
            except UserError as error:
                found.append(str(error))
    return found


def _against_checkpoint(detector: Detector, options: Any) -> list[str]:
    from lightning_cifake.deploy.loaded_model import load_model
    from lightning_cifake.deploy.real_images import real_images

    loaded = load_model(options.ckpt_path, options.head, options.image_size, options.pixels, options.real_class)
    expected = detector.facts.metadata.get("checkpoint_sha256")
    if expected != loaded.sha256:
        print(
            f"note: {printable(detector.path)} was exported from another file (SHA-256 {printable(expected)}) than "
            f"{printable(options.ckpt_path)}"
        )
    size = loaded.classifier.image_size
    images = real_images(options.ckpt_path, options.data.root, size, options.data.classes)
    found = verification.compare_with(loaded, detector, images, options.max_loss, options.sample)
    verification.print_summary(found)
    return found["violations"]


def _measure(detector: Detector, options: Any) -> None:
    """Without a checkpoint there is nothing to compare images with: its own figures on them."""
    from lightning_cifake.data.decode import DEMO, load_images
    from lightning_cifake.data.protocols import spread
    from lightning_cifake.deploy.real_images import split_of_run
    from lightning_cifake.evaluation.metrics import binary_metrics

    images = load_images(
        options.data.root, 32 if options.data.root == DEMO else detector.image_size, classes=options.data.classes
    )
    split = split_of_run(options.model.parent / SPLIT, images)
    if split is not None:
        indices, what = np.sort(split.test), "the test images of the run's split"
    elif (images.parts == "test").any():
        indices, what = np.flatnonzero(images.parts == "test"), "its test part; not known: whether it was trained on"
    else:
        indices, what = np.arange(len(images)), "all of it; not known: how much of it was trained on"
    indices = spread(indices, options.sample)
    print(f"measured on {len(indices):,} of the {len(images):,} images of {printable(images.name)}: {what}")
    pixels = images.images[indices]
    exported = verification.onnxruntime_logits(detector)
    logits = verification.logits_of(exported, pixels, f"onnxruntime, {len(pixels):,} images")
    metrics = binary_metrics(verification.sigmoid(logits), images.labels[indices], detector.threshold)
    kept = {name: metrics[name] for name in ("accuracy", "auroc", "confusion_matrix", "images")}
    print(json.dumps(kept))
