"""A made evaluation: metrics.json as `evaluate` writes it, of two made models, from answers drawn by a generator."""

from functools import cache
from typing import Any

import numpy as np

from lightning_cifake.evaluation.compare import compare
from lightning_cifake.evaluation.examples import examples_of
from lightning_cifake.evaluation.figures import curves_of, figures_of
from lightning_cifake.evaluation.perturbations import Perturbation, nothing
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.evaluation.robustness import robustness_of

OBJECTS = ("airplane", "cat", "ship")
HOSTILE = '<script>alert("1")</script> & "7".png'


def made_predictions(model: str, images: int = 600, gap: float = 2.0, seed: int = 0) -> Predictions:
    """Half REAL, half FAKE of two generators; cats are harder; every tenth image was trained on."""
    drawn = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    objects = np.array(OBJECTS)[np.arange(images) // 2 % 3]
    generators = np.where(labels == 1, "", np.where(np.arange(images) % 4 == 0, "sd 1.4", "gan/2"))
    shift = np.where(objects == "cat", 0.4, 1.0) * np.where(generators == "gan/2", 0.3, 1.0)
    logits = (2 * labels - 1) * gap * shift + drawn.normal(0, 1.3, images)
    logits[0] = -20.0  # its name is on the page, among the hits
    names = [HOSTILE if at == 0 else f"test/{'REAL' if labels[at] else 'FAKE'}/{at}.png" for at in range(images)]
    return Predictions(
        model,
        names,
        labels,
        logits.astype(np.float32),
        0.5,
        {"object": objects, "generator": generators},
        np.arange(images) % 10 == 0,
    )


def made_model(predictions: Predictions, draws: int = 50) -> dict[str, Any]:
    def of(kept: np.ndarray) -> dict[str, Any]:
        return figures_of(predictions.take(kept), draws=draws)

    every = np.ones(len(predictions), bool)
    real = predictions.labels == 1
    generators = predictions.groups["generator"]
    return {
        "name": predictions.model,
        "file": "cifake-compact.onnx",
        "sha256": "ab" * 32,
        "threshold": predictions.threshold,
        "temperature": 1.25,
        "image_size": 32,
        "precision": "int8",
        "all": of(every),
        "larger": "resize",
        "seen": {"images": 60, "how": "the checkpoint's record of its training"},
        "unseen": None if predictions.seen is None else of(~predictions.seen),
        "groups": {
            "object": {name: of(predictions.groups["object"] == name) for name in OBJECTS},
            "generator": {name: of(real | (generators == name)) for name in ("sd 1.4", "gan/2")},
        },
        "means": {"generator": {"accuracy": {"value": 0.8125, "of": 2, "worst": "gan/2"}}},
        "curves": curves_of(predictions),
        "robustness": {"images": 300, "of": len(predictions), **made_robustness(predictions)},
        "examples": examples_of(predictions, 4),
        "seconds": 1.5,
        "images_per_second": 1234.5,
    }


def made_robustness(predictions: Predictions) -> dict[str, Any]:
    """As if each change took something of every logit."""
    asked = [
        ("none", None, 1.0),
        ("png", None, 1.0),
        ("jpeg", 90, 0.9),
        ("jpeg", 50, 0.4),
        ("blur", 0.5, 0.6),
        ("blur", 1.0, 0.0),
    ]
    few = predictions.take(np.arange(300))
    logits = np.stack([few.logits * kept + (1 - kept) for *_, kept in asked])
    changes = [Perturbation(name, strength, nothing) for name, strength, _ in asked]
    return robustness_of(changes, few, logits, draws=50)


@cache
def made_metrics(images: int = 600) -> dict[str, Any]:
    """Made once in a process: whoever changes it copies it."""
    first = made_predictions("compact", images, 2.4)
    second = made_predictions("resnet<50>", images, 1.6, seed=1)
    return {
        "kind": "evaluation",
        "command": [
            "python",
            "-m",
            "lightning_cifake",
            "evaluate",
            "compact",
            "resnet<50>",
            "--data.root",
            "my set.zip",
        ],
        "data": {
            "root": "my set.zip",
            "name": "my set.zip",
            "digest": "cd" * 32,
            "part": "its own test part",
            "protocol": None,
            "duplicates": 3,
            "left_out": {".txt": 1},
            "notes": ["7 images are of 64 x 48 pixels"],
            "images": images,
            "unreadable": [{"name": "broken <7>.png", "reason": "cannot identify image file"}],
            "duplicates_of_training": 60,
        },
        "models": [made_model(first), made_model(second)],
        "comparisons": [
            compare(first, second, draws=50),
        ],
        "versions": {"python": "3.11.7", "lightning_cifake": "0.2.0", "numpy": "2.4.6"},
        "machine": "Made Processor, 2 cores",
    }


def made_pictures(metrics: dict[str, Any]) -> dict[str, np.ndarray]:
    """A picture of noise for each example's name."""
    drawn = np.random.default_rng(0)
    names = {row["name"] for model in metrics["models"] for rows in model["examples"].values() for row in rows}
    return {name: drawn.integers(0, 256, (32, 32, 3), np.uint8) for name in sorted(names)}
