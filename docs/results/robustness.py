"""Measures an exported model on changed images, and on those of other generators.

    python docs/results/robustness.py MODEL.onnx --data.root CIFAKE.zip --others DDPM WGAN --output robustness.json

Without MODEL.onnx it is the model that comes with the package. Images are those of CIFAKE's own test part, or with
`--part val` of the split of the run that MODEL.onnx lies in (its split.json), else of the protocol `official` with seed
0: choose on these. `--others` are folders of generated images, of any form, which are asked about as `predict` would.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifake import Detector
from lightning_cifake.deploy.inputs import find_images
from lightning_cifake.deploy.real_images import real_images
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.robustness import measure, other_fakes
from lightning_cifake.files import public_name, sha256_of, write_whole

BATCH = 256


def ask(detector: Detector, images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N,) float32 P(REAL)."""
    return np.concatenate([detector.run(images[at : at + BATCH])[0] for at in range(0, len(images), BATCH)])


def ask_folder(detector: Detector, folder: Path) -> np.ndarray:
    """(N,) P(REAL) of the images below a folder.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    answers = detector.predict(find_images([str(folder)]))
    for answer in answers:
        if answer.error:
            raise UserError(f"{answer.path}: {answer.error}")
    return np.array([answer.prob_real for answer in answers], np.float32)


def record(given: argparse.Namespace) -> dict[str, Any]:
    detector = Detector(given.model, given.threads)
    data = real_images(detector.path, given.root, detector.image_size)
    images, labels = data.take(given.part, given.count)
    made: dict[str, Any] = {
        "model": public_name(detector.path),
        "sha256": sha256_of(detector.path),
        "threshold": detector.threshold,
        "data": public_name(data.images.name),
        "data_digest": data.images.digest,
        "part": given.part,
        "protocol": data.split.protocol,
        "seed": given.seed,
        "conditions": {},
        "other_generators": {},
    }
    for name, found in measure(lambda x: ask(detector, x), images, labels, given.seed, detector.threshold):
        made["conditions"][name] = found
        say(name, found)
    photographs = ask(detector, images[labels == 1])
    for folder in given.others:
        name = folder.parent.name if folder.name in ("FAKE", "fake") else public_name(folder)
        made["other_generators"][name] = found = other_fakes(
            ask_folder(detector, folder), photographs, made["threshold"]
        )
        say(name, found)
    return made


def say(name: str, found: dict[str, Any]) -> None:
    shares = [
        f"{key} {found[key]:.2%}" for key in ("accuracy", "recall_fake", "recall_real") if found.get(key) is not None
    ]
    print(f"{name:22}", *shares, f"auroc {found['auroc']}", f"({found['images']:,} images)", sep="  ", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--data.root", dest="root", required=True)
    parser.add_argument("--part", choices=("test", "val"), default="test")
    parser.add_argument("--count", type=int, help="of its images, evenly spaced; all by default")
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="folders of generated images")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="the record, as JSON")
    given = parser.parse_args(arguments)
    try:
        made = record(given)
        if given.output is not None:
            write_whole(given.output, json.dumps(made, indent=1) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
