"""A model asked about the same images after each thing that happens to images: ``evaluate --robustness``."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightning_cifake.assessment.images import LabelledImages
from lightning_cifake.assessment.models import Model
from lightning_cifake.assessment.originals import in_batches, prepared
from lightning_cifake.data.protocols import spread
from lightning_cifake.data.resize import Picture, of_array
from lightning_cifake.deploy.larger import Larger, Resized, under
from lightning_cifake.deploy.load import whole
from lightning_cifake.evaluation.perturbations import Perturbation, nothing, perturbations
from lightning_cifake.evaluation.predictions import Predictions
from lightning_cifake.evaluation.robustness import robustness_of
from lightning_cifake.text import printable

IMAGES = 2000  # that it is measured on unless told otherwise: an accuracy of 90 % is then known to 1.3 points
PLAIN = Perturbation("none", None, nothing)


def measure_robustness(
    model: Model,
    images: LabelledImages,
    *,
    sample: int | None = IMAGES,
    larger: Larger = "resize",
    seed: int = 0,
    threads: int | None = None,
    changes: Sequence[Perturbation] | None = None,
) -> dict[str, Any]:
    """Changes each image in every way, at the size of its file, and asks the model about what comes out.

    Args:
        model: what is asked.
        images: labelled images.
        sample: at most so many of them, spread over all; None for all.
        larger: what is done with larger pictures, behind the change.
        seed: of the noise, which depends on it and on the image's pixels alone.
        threads: that decode and change; all cores by default.
        changes: behind :data:`PLAIN`, which is the first row; all of :mod:`perturbations` by default.

    Returns:
        As :func:`~lightning_cifake.evaluation.robustness.robustness_of`; with ``images`` and ``names``, how many and
        which were measured on, ``of`` how many, ``larger`` and ``seed``.

    Raises:
        UserError: an image cannot be read again, or changed, as one that is too large for WebP.
    """
    changes = [PLAIN, *(perturbations() if changes is None else changes)]
    total = len(images)
    images = images.take(spread(np.arange(total), sample))
    policy = under(model, larger)

    def ask(changed: list[np.ndarray]) -> np.ndarray:
        """N arrays of all changes of an image each -> (N, C)."""
        return policy.logits([each for of_one in changed for each in of_one]).reshape(len(changed), -1)

    said = f"{printable(model.name)}: {len(changes)} changes of {len(images):,} images"
    logits = in_batches(ask, prepared(images, _changed_by(changes, policy, seed), said, threads)).T
    clean = Predictions(model.name, images.names, images.labels, logits[0], model.threshold)
    found = robustness_of(changes, clean, logits)
    return {"images": len(images), "of": total, "larger": larger, "seed": seed, "names": images.names, **found}


def _changed_by(changes: Sequence[Perturbation], policy: Resized, seed: int) -> Callable[[Picture], np.ndarray]:
    def changed(picture: Picture) -> np.ndarray:
        """(C, ...): an image after each change, as the model is given it."""
        pixels = np.ascontiguousarray(whole(picture))
        # the same draws for an image wherever it stands, and for noise of every strength
        key = [seed, zlib.crc32(pixels.data)]
        return np.stack([policy.prepare(of_array(each.change(pixels, np.random.default_rng(key)))) for each in changes])

    return changed
