"""Measures what models make of larger pictures by each policy, on pictures that are made of CIFAKE's own test images.

    python docs/results/larger.py compact best --data.root CIFAKE.zip --output larger.json

CIFAKE has no larger pictures, and these are no photographs: they are made so that the right answer is known.

- `alone`: images as they are, the middle ones of the mosaics.
- `mosaic`: 3 x 3 images of one class side by side, of 96 x 96 pixels. What generators leave is there, pixel by pixel.
- `enlarged`: the middle images, scaled to 80 x 80 (bicubic). Their own pixels are nowhere in them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from recording import recorded

from lightning_cifake.assessment.images import Asked, open_images
from lightning_cifake.assessment.models import Model, open_models
from lightning_cifake.data.resize import of_array
from lightning_cifake.deploy.larger import LARGER, under
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.figures import figures_of
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.files import public_name

SIDE = 3  # images of a mosaic, across and down
FIGURES = ("accuracy", "auroc", "recall_fake", "recall_real")


def mosaics(images: np.ndarray) -> np.ndarray:
    """(N * 9, S, S, 3) -> (N, 3 S, 3 S, 3)."""
    size = images.shape[1]
    grid = images.reshape(-1, SIDE, SIDE, size, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, SIDE * size, SIDE * size, 3)


def enlarged(images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) -> (N, 2.5 S, 2.5 S, 3): of three times the size every third pixel would be an image's own."""
    side = images.shape[1] * 5 // 2
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in images]
    )


def measured(model: Model, pictures: np.ndarray, labels: np.ndarray, larger: Any) -> dict[str, Any]:
    policy = under(model, larger)
    logits = policy.logits([policy.prepare(of_array(each)) for each in pictures])
    names = [str(at) for at in range(len(labels))]
    known = figures_of(Predictions(model.name, names, labels, logits, model.threshold))["figures"]
    return {name: {key: known[name][key] for key in ("value", "interval")} for name in FIGURES}


def record(given: argparse.Namespace) -> dict[str, Any]:
    models = open_models(given.models, given.threads)
    data = open_images(Asked(given.root), models[0].image_size)
    if any(model.image_size != data.image_size for model in models):
        raise UserError("expected models of one image size")
    drawn = np.random.default_rng(given.seed)
    of_class = [drawn.permutation(np.flatnonzero(data.labels == label)) for label in (0, 1)]
    most = min(given.count, *(len(each) // SIDE**2 for each in of_class))
    if most < 1:
        raise UserError(f"expected at least {SIDE**2} images of each class")
    places = np.concatenate([each[: most * SIDE**2] for each in of_class])
    labels = np.repeat([0, 1], most)
    mosaic = mosaics(data.pixels(places))
    size = data.image_size
    middle = mosaic[:, size : 2 * size, size : 2 * size]
    kinds = {"alone": middle, "mosaic": mosaic, "enlarged": enlarged(middle)}
    made: dict[str, Any] = {
        "data": public_name(data.source.name),
        "data_digest": data.source.digest,
        "part": data.about,
        "pictures": len(labels),
        "seed": given.seed,
        "models": {},
    }
    for model in models:
        found = made["models"][model.name] = {"sha256": model.sha256, "alone": None}
        for kind, pictures in kinds.items():
            by = {larger: measured(model, pictures, labels, larger) for larger in LARGER[: 1 if kind == "alone" else 3]}
            found[kind] = by["resize"] if kind == "alone" else by
            for larger, figures in by.items():
                shown = "  ".join(f"{name} {figure['value']:.4f}" for name, figure in figures.items())
                print(f"{model.name:10} {kind:9} {larger:7} {shown}", flush=True)
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="as evaluate takes them")
    parser.add_argument("--data.root", dest="root", required=True)
    parser.add_argument("--count", type=int, default=500, help="pictures of each class (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of which images stand together")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="the record, as JSON")
    return recorded(record, parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
