"""Checkpoints -> one checkpoint of an ensemble, weighted on validation images that no member was trained on."""

import logging
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from lightning_cifake.data import trained_on
from lightning_cifake.data.protocols import spread
from lightning_cifake.deploy.loaded_model import LoadedModel, load_model
from lightning_cifake.deploy.predict import ClassifierModel
from lightning_cifake.deploy.real_images import RealImages, real_images
from lightning_cifake.deploy.verification import lightning_logits, logits_of, sigmoid
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.files import public_name
from lightning_cifake.networks.ensemble import Ensemble, member_of, weigh
from lightning_cifake.networks.registry import build_network
from lightning_cifake.text import printable
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import save_checkpoint

log = logging.getLogger(__name__)

FEWEST_IMAGES = 20  # to fit weights on; fewer say little
LARGEST_WEIGHT = 20.0  # as the smallest temperature of an export: where the images are told apart, no weight is best
WRONG_WAY_ROUND = 0.25  # AUROC below which a member tells the classes apart, and calls each by the other's name


class Fitted(NamedTuple):
    """What the weights are, and what they were fitted on.

    Attributes:
        weights: one for each member, at least 0.
        entry: of the record, the images that they were fitted on.
        data: the source's name.
        images: how many.
        accuracy: on these images, of each member and of the ensemble at the end: no measure of new ones.
        left_out: validation images that a member was trained on.
    """

    weights: list[float]
    entry: dict[str, Any]
    data: str
    images: int
    accuracy: list[float]
    left_out: int


def fit_weights(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, K) logits and (N,) labels, FAKE = 0, -> (K,) weights of at least 0: those of the smallest mean BCE.

    Logistic regression on the logits without an intercept (stacking: Wolpert 1992; weights not below 0: Breiman 1996).
    The loss is convex in them. Their sum is the inverse of a temperature, as Guo et al. 2017 fit it.

    Raises:
        UserError: nothing is better than no weight at all.
    """
    from scipy.optimize import minimize

    signed = np.where(labels == 1, 1.0, -1.0)[:, None] * logits.astype(np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signed @ weights
        wrong = np.exp(-np.logaddexp(0, margins))  # sigmoid(-margin)
        return float(np.logaddexp(0, -margins).mean()), -(signed * wrong[:, None]).mean(0)

    members = logits.shape[1]
    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, LARGEST_WEIGHT)] * members,
        options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 1000},
    ).x
    if found.sum() < 1 / LARGEST_WEIGHT:
        raise UserError("the members' answers about the validation images are no better than chance: weights of 0")
    return cast(np.ndarray, found)


def make_ensemble(
    paths: Sequence[Path],
    output: Path,
    root: str | None = None,
    classes: str | None = None,
    sample: int | None = None,
    fitted: bool = True,
) -> tuple[list[float], Fitted | None]:
    """Writes the checkpoint of an ensemble, whole or not at all.

    Args:
        paths: checkpoints or Keras files, two at least.
        output: the checkpoint to write.
        root: as ``--data.root``; the first checkpoint's run names its own.
        classes: as ``--data.classes``.
        sample: fits on as many of the validation images, drawn from all of them.
        fitted: else the weights are equal, and no image is needed.

    Returns:
        The weights, and what they were fitted on.

    Raises:
        UserError: members that do not go together, or images that weights cannot be fitted on.
    """
    members = [load_model(path) for path in paths]
    _check_members(members)
    size = members[0].classifier.image_size
    record = reduce(trained_on.joined, (member.record for member in members))
    found = None
    if fitted:
        images = real_images(paths[0], root, size, classes)
        if not images.of_run and root is None:
            raise UserError("weights are fitted on validation images: name them with --data.root, or --weights equal")
        found = _fit(members, record, images, sample)
        record = [*record, found.entry]
    weights = [1 / len(members)] * len(members) if found is None else found.weights
    classifier = FakeImageClassifier(_network(members, weights))
    classifier.take_image_size({"image_size": size})
    classifier.trained_on = record
    save_checkpoint(classifier, output, None, 0)
    return weights, found


def _check_members(members: Sequence[LoadedModel]) -> None:
    if len(members) < 2:
        raise UserError(f"an ensemble is made of at least 2 checkpoints, got {len(members)}")
    for number, member in enumerate(members):
        if member.classifier.hparams["network"] is None:
            raise UserError(f"{printable(member.path)}: its network was given as an object that no class path names")
        for other in members[:number]:
            if member.sha256 == other.sha256:
                raise UserError(f"{printable(member.path)} and {printable(other.path)} are the same checkpoint")
    sizes = [member.classifier.image_size for member in members]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{size} of {printable(each.path)}" for size, each in zip(sizes, members, strict=True))
        raise UserError(f"expected members for images of one size, got {listed}")


def _fit(members: Sequence[LoadedModel], record: trained_on.Record, images: RealImages, sample: int | None) -> Fitted:
    for source in trained_on.unknown_sources(record):
        log.warning("what %s was trained on is not known: its weight may be too large", printable(source))
    chosen = images.indices("val")
    kept_as_test = int((images.images.parts[chosen] == "test").sum())
    if kept_as_test:
        raise UserError(
            f"expected validation images, got {kept_as_test:,} of the test part of {printable(images.images.name)}: "
            "name images with --data.root whose test part is not drawn from"
        )
    seen = trained_on.seen_in_training(record, images.images, chosen)
    chosen = spread(chosen[~seen], sample)
    pixels, labels = images.images.images[chosen], images.images.labels[chosen]
    if len(chosen) < FEWEST_IMAGES or len(np.unique(labels)) < 2:
        raise UserError(
            f"expected at least {FEWEST_IMAGES} validation images of both classes that no member was trained on, got "
            f"{len(chosen)} (and {int(seen.sum()):,} that one was): train the members on one split, or --weights equal"
        )
    answers = []
    for member in members:
        asked = lightning_logits(ClassifierModel(member.classifier))
        answers.append(logits_of(asked, pixels, f"{printable(member.path.name)}, {len(pixels):,} validation images"))
        auroc = binary_metrics(sigmoid(answers[-1]), labels)["auroc"]
        if auroc < WRONG_WAY_ROUND:
            raise UserError(
                f"{printable(member.path)} has the classes the other way round: AUROC {auroc:.3f} on the validation "
                "images, expected above 0.5"
            )
    logits = np.stack(answers, 1)
    weights = fit_weights(logits, labels)
    accuracy = [binary_metrics(sigmoid(each), labels)["accuracy"] for each in (*answers, logits @ weights)]
    entry = trained_on.entry_of_images(images.images, chosen)
    data = public_name(images.images.name)
    return Fitted([float(each) for each in weights], entry, data, len(chosen), accuracy, int(seen.sum()))


def _network(members: Sequence[LoadedModel], weights: Sequence[float]) -> Ensemble:
    told = [
        member_of(
            each.classifier.hparams["network"],
            each.classifier.hparams["test_flips"],
            f"{public_name(each.path)}, sha256 {each.sha256}",
        )
        for each in members
    ]
    network = cast(Ensemble, build_network({"class_path": "ensemble", "init_args": {"members": told}}))
    for member, own in zip(members, network.members, strict=True):
        own.load_state_dict(member.classifier.inference_network.state_dict(), strict=True)
    with torch.no_grad():
        weigh(network, weights)
    return network
