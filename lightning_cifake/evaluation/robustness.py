"""How well a model tells images apart after what happens to images in the world: JPEG, blur, re-scaling, noise.

Pillow, scipy and numpy do it here, not the code that training may degrade images with
(:mod:`lightning_cifake.data.degrade`), so that a fault of one is not measured by the other.
``docs/results/robustness.py`` measures an exported model with it.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from lightning_cifake.evaluation.intervals import wilson_interval
from lightning_cifake.evaluation.metrics import THRESHOLD, binary_metrics

Condition = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(H, W, 3) uint8 and what to draw from -> the changed image, the same shape and dtype."""

Answer = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) uint8 -> (N,) P(REAL) in [0, 1]."""


def jpeg(quality: int) -> Condition:
    """Saved by Pillow as JPEG, with its defaults (4:2:0), and read again."""

    def saved(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return saved


def blur(sigma: float) -> Condition:
    """scipy's Gaussian filter, sigma in pixels, borders mirrored."""

    def blurred(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return _as_bytes(gaussian_filter(image.astype(np.float64), (sigma, sigma, 0)))

    return blurred


def rescale(share: float, filter: Image.Resampling) -> Condition:
    """Pillow's resize to a share of the sides and back, both by one filter."""

    def resized(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        small = Image.fromarray(image).resize((round(width * share), round(height * share)), filter)
        return np.asarray(small.resize((width, height), filter))

    return resized


def noise(deviation: float) -> Condition:
    """Normal noise, of each value by itself; the deviation in levels of 255."""

    def noisy(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return _as_bytes(image + generator.normal(0, deviation, image.shape))

    return noisy


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


CONDITIONS: dict[str, Condition] = {
    "clean": lambda image, _: image,
    "jpeg 70": jpeg(70),
    "jpeg 50": jpeg(50),
    "blur 1": blur(1),
    "rescale 3/4 bilinear": rescale(0.75, Image.Resampling.BILINEAR),
    "rescale 3/4 bicubic": rescale(0.75, Image.Resampling.BICUBIC),
    "noise 4": noise(4),
}
"""By what they are called in the record; 3/4 is 32 to 24 and back."""


def measure(
    answer: Answer,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    threshold: float = THRESHOLD,
    conditions: Mapping[str, Condition] = CONDITIONS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each condition's name and :func:`figures`, as soon as they are known.

    Args:
        answer: the model.
        images: (N, H, W, 3) uint8.
        labels: (N,) FAKE = 0, REAL = 1.
        seed: of the noise, which is the same whatever other conditions are asked for.
        threshold: of P(REAL), strictly above is REAL.
    """
    for name, condition in conditions.items():
        generator = np.random.default_rng(seed)
        yield name, figures(answer(np.stack([condition(image, generator) for image in images])), labels, threshold)


def figures(prob_real: np.ndarray, labels: np.ndarray, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Accuracy, the share found of each class, and AUROC; shares with their 95 % interval (Wilson's).

    Arguments and errors as :func:`~lightning_cifake.evaluation.metrics.binary_metrics`. ``recall_fake`` is the share of
    FAKE that is called FAKE, ``recall_real`` that of REAL called REAL; None where there is no image of the class.
    """
    metrics = binary_metrics(prob_real, labels, threshold)
    (fake, false_real), (missed_real, real) = metrics["confusion_matrix"]
    shares = {
        "accuracy": (fake + real, metrics["images"]),
        "recall_fake": (fake, fake + false_real),
        "recall_real": (real, missed_real + real),
    }
    found: dict[str, Any] = {"images": metrics["images"]}
    for name, (right, images) in shares.items():
        found[name] = right / images if images else None
        found[f"{name}_interval"] = list(wilson_interval(right, images)) if images else None
    return found | {"auroc": metrics["auroc"]}


def other_fakes(prob_fake: np.ndarray, prob_real: np.ndarray, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Of another generator's images: the share found, and the AUROC against photographs.

    Args:
        prob_fake: (N,) P(REAL) of generated images.
        prob_real: (M,) P(REAL) of photographs; the AUROC is None where there are none.
    """
    labels = np.repeat([0, 1], [len(prob_fake), len(prob_real)])
    both = figures(np.concatenate([prob_fake, prob_real]), labels, threshold)
    kept = ("recall_fake", "recall_fake_interval", "auroc")
    return {"images": len(prob_fake), "photographs": len(prob_real), **{name: both[name] for name in kept}}
