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
from typing import Any

import torch

from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.data.decode import load_images
from lightning_cifake.files import read_json, sealed_json, write_whole
from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests.half import STEPS
from parity_tests.half_cases import asked_of, batches_of, course_of, distances_of_ours, real_images
from parity_tests.report import facts

RECORD = Path(__file__).resolve().parents[1] / "docs" / "parity" / "half_on_a_gpu.json"


def read_record(path: Path = RECORD) -> dict[str, Any] | None:
    """What ``measure`` wrote; None where it did not."""
    return read_json(path)[0] if path.is_file() else None


def take_weights(model: Path, output: Path) -> None:
    """A Keras model's weights under our names and in our shapes, in float32."""
    import keras

    from parity_tests.twins import load_theirs

    network = ResNet50Detector(layout="keras", dropout=0.0)
    load_theirs(network, keras.models.load_model(model))
    torch.save(network.state_dict(), output)


def measure(weights: Path, root: str, device: str, steps: int = STEPS) -> dict[str, Any]:
    """A record: ``facts`` of the run, the ``device``, and :func:`half_cases.distances_of_ours`."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    network = ResNet50Detector(layout="keras", dropout=0.0)
    network.load_state_dict(torch.load(weights, weights_only=True))
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
    if options.command == "weights":
        take_weights(options.model, options.output)
        return 0
    if not options.root or not Path(options.root).exists():
        parser.error(f"--data.root: expected CIFAKE's zip or folder, got {options.root}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU on this machine")
    write_whole(options.output, sealed_json(measure(options.weights, options.root, options.device, options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
