"""What a trained detector says of images unlike its own, before and after it has learnt from some of them.

    python docs/transfer/measure.py best.ckpt      # writes transfer.json beside this file

The images are made: patches of the photographs that the demo is made of, and the same patches through a median filter,
as a picture that was painted or denoised. Nothing of CIFAKE's generator is in them. The commands are those of
docs/networks.md.
"""

import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageFilter

from lightning_cifake.commands.main import main as command
from lightning_cifake.data.demo import make_demo

HERE = Path(__file__).resolve().parent
WINDOW = 3  # pixels: the side of the median's
RECIPES = {
    "head alone": ["--model.freeze_backbone", "true", "--model.learning_rate", "0.02"],
    "all weights": [],
    "all weights, from random ones": ["--model.weights", "none"],
}
"""What is added to the page's command."""


def make_images(folder: Path, most: int | None = None, window: int = WINDOW) -> Path:
    """Writes FOLDER/REAL and FOLDER/FAKE, a photograph's patch and its filtered twin of each name; ``most`` of them."""
    demo = make_demo()
    real = [number for number, label in enumerate(demo.labels) if label == 1][:most]
    for kind in ("REAL", "FAKE"):
        (folder / kind).mkdir(parents=True)
    for number in real:
        name = Path(demo.names[number]).name
        patch = Image.fromarray(demo.images[number])
        patch.save(folder / "REAL" / name)
        patch.filter(ImageFilter.MedianFilter(window)).save(folder / "FAKE" / name)
    return folder


def figures_of(folder: Path) -> dict[str, Any]:
    """Of a run's or a test's ``metrics.json``."""
    found = json.loads((folder / "metrics.json").read_text())
    return {name: found[name] for name in ("accuracy", "auroc", "images")}


def measure(weights: Path, images: Path, work: Path) -> dict[str, Any]:
    """The figures on the same test images, before and after each of RECIPES.

    Args:
        weights: a checkpoint.
        images: a folder of REAL and FAKE.
        work: where the runs go.
    """
    data = ["--data.root", str(images), "--data.protocol", "clean", "--data.sample", "null"]
    before = work / "before"
    _run("test", "--ckpt_path", str(weights), *data, "--output_dir", str(before))
    found: dict[str, Any] = {"before": figures_of(before)}
    for number, (name, recipe) in enumerate(RECIPES.items()):
        run = work / str(number)
        network = ["--model.network", _network_of(weights)] if "none" in recipe else []
        start = [] if network else ["--model.weights", str(weights)]
        _run("fit", "--config", "clean", *data, *start, *network, *recipe, "--output_dir", str(run))
        found[name] = figures_of(run)
    return found


def _network_of(weights: Path) -> str:
    from lightning_cifake.checkpoint import read_checkpoint

    return str(read_checkpoint(weights)["hyper_parameters"]["network"]["class_path"])


def _run(*arguments: str) -> None:
    if code := command([*arguments]):
        raise SystemExit(code)


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {Path(__file__).name} best.ckpt")
    weights = Path(sys.argv[1])
    own = json.loads((weights.parent / "metrics.json").read_text())
    with TemporaryDirectory() as folder:
        found = measure(weights, make_images(Path(folder) / "images"), Path(folder))
        sizes = json.loads((Path(folder) / "0" / "metrics.json").read_text())["split_sizes"]
    record = {
        "network": re.sub(r".*\.", "", _network_of(weights)),
        "trained_on": {name: own[name] for name in ("accuracy", "auroc", "images")},
        "new_images": sizes["train"],
        "figures": found,
    }
    (HERE / "transfer.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
