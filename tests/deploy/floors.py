"""Continuous evaluation: each released model on a fixed sample of CIFAKE's test images, held against a floor.

    python tests/deploy/floors.py CIFAKE.zip            # what each model has there; exit code 1 below a floor
    python tests/deploy/floors.py CIFAKE.zip --write    # the floors anew, to checkpoints/floors.json

A floor is what the very file had, less MARGIN for processors that round otherwise. It tells nothing of a model's worth:
it tells that the file, what it is asked through, and the images are still those of the release.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from lightning_cifake import Detector
from lightning_cifake.data.layout import Entry
from lightning_cifake.data.sources import Source, open_source
from lightning_cifake.files import read_json, sealed_json, sha256_of
from lightning_cifake.shipped import MODELS, models_folder, released_model

FLOORS = models_folder() / "floors.json"
MARGIN = 0.003  # 6 of 2,000 images
MOST, SECONDS = 2000, 8.0  # images; a slower model gets fewer, so that all of it stays a matter of seconds
LEAST = 500  # of which MARGIN still lets one be answered otherwise


class Sample(NamedTuple):
    """Images and the digest of their names and bytes."""

    entries: list[Entry]
    contents: list[bytes]
    sha256: str


def sample(source: Source, images: int) -> Sample:
    """As many of each class: those test images whose class and name, as `REAL/0001 (2).jpg`, have the least SHA-256.

    So it does not depend on how the source is laid out, and a smaller sample is a part of a larger one.
    """

    def key(entry: Entry) -> str:
        return hashlib.sha256("/".join(Path(entry.path).parts[-2:]).encode()).hexdigest()

    entries = sorted((entry for entry in source.entries if entry.part == "test"), key=key)
    chosen = [entry for label in (0, 1) for entry in [each for each in entries if each.label == label][: images // 2]]
    contents = [source.read(entry.path) for entry in chosen]
    digest = hashlib.sha256()
    for entry, content in zip(chosen, contents, strict=True):
        digest.update(f"{key(entry)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return Sample(chosen, contents, digest.hexdigest())


def accuracy(model: Path, images: Sample) -> float:
    """Of the model's file, asked as a user asks."""
    answers = Detector(model).predict(images.contents)
    pairs = zip(answers, images.entries, strict=True)
    return sum((answer.verdict == "REAL") == bool(entry.label) for answer, entry in pairs) / len(answers)


def violation(model: Path, source: Source, floor: dict[str, Any]) -> str | None:
    """Why a model is not what was released; None where it holds its floor."""
    images = sample(source, floor["images"])
    if images.sha256 != floor["sample_sha256"]:
        return f"{source.root.name} has not the {floor['images']:,} images that the floor was measured on"
    found = accuracy(model, images)
    if found < floor["floor"]:
        return f"{model.name}: {found:.2%} of {len(images.entries):,} images, floor {floor['floor']:.2%}"
    return None


def measure(model: Path, source: Source, images: int) -> dict[str, Any]:
    """A floor for a model's file."""
    chosen = sample(source, images)
    found = accuracy(model, chosen)
    return {
        "model_sha256": sha256_of(model),
        "images": len(chosen.entries),
        "sample_sha256": chosen.sha256,
        "accuracy": found,
        "floor": round(found - MARGIN, 6),
    }


def images_for(model: Path) -> int:
    """As many as it answers in SECONDS, in hundreds, and LEAST."""
    rate = json.loads(model.with_suffix(".json").read_text())["speed"]["images_per_second_batch_32"]
    return min(MOST, max(LEAST, int(SECONDS * rate / 100) * 100))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="CIFAKE.zip")
    parser.add_argument("--write", action="store_true", help="the floors anew")
    options = parser.parse_args()
    source = open_source(options.root)
    if options.write:
        models = [released_model(name) for name in MODELS]
        floors = {model.name: measure(model, source, images_for(model)) for model in models}
        FLOORS.write_text(sealed_json(floors))
        print(*(f"{name}: {each['accuracy']:.2%} of {each['images']:,}" for name, each in floors.items()), sep="\n")
        return 0
    floors, _ = read_json(FLOORS)
    found = {name: violation(models_folder() / name, source, floor) for name, floor in floors.items()}
    print(*(f"{name}: {why or 'holds its floor'}" for name, why in found.items()), sep="\n")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
