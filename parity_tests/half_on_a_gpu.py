"""Our side of the half-precision claims, computed on a GPU and recorded: TensorFlow need not be there.

    python -m parity_tests.half_on_a_gpu weights MODEL.keras WEIGHTS.pt
    python -m parity_tests.half_on_a_gpu measure WEIGHTS.pt --data.root CIFAKE --output docs/parity/half_on_a_gpu.json

``weights`` takes a model that ``tf_reference`` trained out of its file, exactly. ``measure`` computes every distance
from float64 that test_half_precision.py computes on a CPU, from those weights and on the same images, and writes them
down with digests of both. The tests hold what is recorded against TensorFlow's distances where the digests are the
same.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.data.decode import load_images
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json, sealed_json, write_whole
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.text import printable, reason_of
from parity_tests.half import STEPS
from parity_tests.half_cases import asked_of, batches_of, course_of, distances_of_ours
from parity_tests.real_images import real_images
from parity_tests.report import facts

RECORD = Path(__file__).resolve().parents[1] / "docs" / "parity" / "half_on_a_gpu.json"


def read_record(path: Path = RECORD) -> dict[str, Any] | None:
    """What ``measure`` wrote; None where it did not."""
    return read_json(path)[0] if path.is_file() else None


def take_weights(model: Path, output: Path) -> None:
    """A Keras model's weights under our names and in our shapes, in float32.

    Raises:
        UserError: the file is missing, damaged, or not of ``tf_reference``'s model.
    """
    import keras

    from parity_tests.twins import load_theirs

    network = ResNet50Detector(layout="keras", dropout=0.0)
    try:
        load_theirs(network, keras.models.load_model(model))
    except (OSError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"{printable(model)}: expected a model of tf_reference, got: {reason_of(error)}") from error
    torch.save(network.state_dict(), output)


def _read_weights(path: Path) -> ResNet50Detector:
    """The network with the weights that :func:`take_weights` wrote.

    Raises:
        UserError: the file is missing, damaged, or of another network.
    """
    network = ResNet50Detector(layout="keras", dropout=0.0)
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except (OSError, EOFError, UnpicklingError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{printable(path)}: expected what `weights` wrote, got: {reason_of(error)}") from error
    return network


def measure(weights: Path, root: str, device: str, steps: int = STEPS) -> dict[str, Any]:
    """A record: ``facts`` of the run, the ``device``, and :func:`half_cases.distances_of_ours`."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    network = _read_weights(weights)
    images = load_images(root, cache_dir=default_cache_dir())
    found = distances_of_ours(
        network, batches_of(*real_images(root)), course_of(images, steps), asked_of(images), device
    )
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"facts": facts(), "device": name, "cuda": torch.version.cuda, **found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m parity_tests.half_on_a_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("weights", help="take the weights out of a Keras file")
    taking.add_argument("model", type=Path)
    taking.add_argument("output", type=Path)
    measuring = commands.add_parser("measure", help="measure from those weights, and write the record")
    measuring.add_argument("weights", type=Path)
    measuring.add_argument("--data.root", dest="root", default=os.environ.get("CIFAKE_ROOT"), help="CIFAKE")
    measuring.add_argument("--output", type=Path, default=RECORD, help="where (docs/parity/half_on_a_gpu.json)")
    measuring.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where it computes (%(default)s)")
    measuring.add_argument("--steps", type=int, default=STEPS, help="of a course; fewer are for a try (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "weights":
            take_weights(options.model, options.output)
            return 0
        if not options.root or not Path(options.root).exists():
            raise UserError(f"--data.root: expected CIFAKE's zip or folder, got {options.root}")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU on this machine")
        found = measure(options.weights, options.root, options.device, options.steps)
    except UserError as error:
        parser.error(str(error))
    write_whole(options.output, sealed_json(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
