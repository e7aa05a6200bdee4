"""What half precision is tried on, and our side of it on any device: the same for the tests and for a GPU's record."""

import copy
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cifake.data.decode import ImageSet
from parity_tests.half import (
    CPU,
    NAMES,
    SETTLED,
    STEPS,
    TRIES,
    TRUTH,
    Images,
    Trained,
    apart,
    ask_ours,
    change,
    losses_apart,
    mean_square,
    plugin_of,
    train_ours,
)
from parity_tests.real_images import drawn
from parity_tests.twins import array, our_stages, to_ours

LOSS = "loss of each image"


def batches_of(images: np.ndarray, labels: np.ndarray) -> list[Images]:
    """Four of ((64, 32, 32, 3) float32 in [0, 1], (64,) float32 labels).

    Of one alone the quotient of two distances says little: in train mode its images have most of their error in common.
    """
    scaled, target = images.astype(np.float32) / 255, labels.astype(np.float32)
    return [(scaled[at : at + 64], target[at : at + 64]) for at in range(0, len(target), 64)]


class Course(NamedTuple):
    batches: list[Images]  # of 32 images, one for each step
    validation: Images  # 512 images


def course_of(images: ImageSet, steps: int = STEPS) -> Course:
    x, y = drawn(images, "train", 32 * steps, seed=1)
    return Course(
        [(x[at : at + 32], y[at : at + 32]) for at in range(0, len(y), 32)], drawn(images, "test", 512, seed=2)
    )


def asked_of(images: ImageSet) -> Images:
    return drawn(images, "test", 1000, seed=3)


def digest_of(*arrays: np.ndarray) -> str:
    """Of values and their order: the same on every machine."""
    found = hashlib.sha256()
    for one in arrays:
        found.update(np.ascontiguousarray(one).tobytes())
    return found.hexdigest()[:16]


def digest_of_weights(network: nn.Module) -> str:
    return digest_of(*(array(value) for _, value in sorted(network.state_dict().items()) if value.is_floating_point()))


def digest_of_images(batches: Sequence[Images]) -> str:
    return digest_of(*(each for batch in batches for each in batch))


def stages_of_ours(
    network: nn.Module, batches: Sequence[Images], precision: str, training: bool, device: str = CPU
) -> dict[str, np.ndarray]:
    """Each stage's output, and the loss of each image, of all batches one after the other."""
    kind = np.float64 if precision == TRUTH else np.float32
    computing = copy.deepcopy(network).to(device).train(training)
    if precision == TRUTH:
        computing.double()
    each = []
    for images, labels in batches:
        with plugin_of(precision, device=device).forward_context():
            found = our_stages(computing, images.astype(kind))
        logits = torch.from_numpy(found["logit"][:, 0])
        target = torch.from_numpy(labels).to(logits.dtype)
        found[LOSS] = array(F.binary_cross_entropy_with_logits(logits, target, reduction="none"))
        each.append(found)
    return joined(each)


def joined(each: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {stage: np.concatenate([of[stage] for of in each]) for stage in each[0]}


def first_steps_of_ours(
    network: nn.Module, batches: Sequence[Images], precision: str, device: str = CPU
) -> list[Trained]:
    """The first step that is taken on 32 images of each batch."""
    made = [
        train_ours(network, plugin_of(precision, device=device), tries(batch), until_taken=True, device=device)
        for batch in batches
    ]
    assert {each.taken for each in made} == {1}
    return made


def tries(batch: Images) -> list[Images]:
    """The same 32 images again and again: in fp16 a step whose gradient overflows is tried once more."""
    return [(batch[0][:32], batch[1][:32])] * TRIES


@torch.no_grad()
def settle(network: nn.Module, batches: Sequence[Images]) -> nn.Module:
    """Its running statistics become those of these batches: a short training leaves them near where it began."""
    norms = [
        module for module in network.train().modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for number, (images, _) in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 / number
        network(to_ours(images))
    return network


def flips(prob: np.ndarray, truth: np.ndarray) -> int:
    """Decisions that are not the true ones."""
    return int(((prob > 0.5) != (truth > 0.5)).sum())


def distances_of_ours(
    network: nn.Module, batches: Sequence[Images], course: Course, asked: Images, device: str
) -> dict[str, object]:
    """All of our side's distances from float64 on a device, float64 computed there too: what half_on_a_gpu.py keeps.

    Args:
        network: trained, in float32, on the CPU.
        asked: images that the trained model is asked about, once its running statistics are settled on the CPU.
    """
    start = {name: array(p) for name, p in network.named_parameters()}
    stages: dict[str, dict[str, dict[str, float]]] = {name: {} for name in NAMES.values()}
    for mode in ("eval", "train"):
        truth = stages_of_ours(network, batches, TRUTH, mode == "train", device)
        for precision, name in NAMES.items():
            found = stages_of_ours(network, batches, precision, mode == "train", device)
            stages[name][mode] = {stage: apart(found[stage], value) for stage, value in truth.items()}
    first = {}
    true_steps = first_steps_of_ours(network, batches, TRUTH, device)
    for precision, name in NAMES.items():
        made = first_steps_of_ours(network, batches, precision, device)
        gradient, step = mean_square(
            [
                (apart(found.gradient, truth.gradient), apart(change(found, start), change(truth, start)))
                for found, truth in zip(made, true_steps, strict=True)
            ]
        )
        first[name] = {"gradient": gradient, "step": step, "scale": made[0].scales[-1]}
    true_course = train_ours(network, plugin_of(TRUTH), course.batches, ask=course.validation, device=device)
    courses = {}
    for precision, name in NAMES.items():
        plugin = plugin_of(precision, SETTLED, device)
        of = train_ours(network, plugin, course.batches, ask=course.validation, device=device)
        courses[name] = {
            "distance": losses_apart(of, true_course),
            "right": int(((of.prob_real > 0.5) == (course.validation[1] > 0.5)).sum()),
            "skipped": len(course.batches) - of.taken,
            "losses": of.losses,
        }
    settled = settle(copy.deepcopy(network), course.batches[:40])
    truth_prob = ask_ours(settled, plugin_of(TRUTH), asked, device)
    decisions = {}
    for precision, name in NAMES.items():
        prob = ask_ours(settled, plugin_of(precision, device=device), asked, device)
        decisions[name] = {"flips": flips(prob, truth_prob), "distance": apart(prob, truth_prob)}
    return {
        "weights": digest_of_weights(network),
        "batches": digest_of_images(batches),
        "course": digest_of_images([*course.batches, course.validation]),
        "asked": digest_of_images([asked]),
        "stages": stages,
        "first step": first,
        "courses": {"float64": {"losses": true_course.losses}, **courses},
        "decisions": decisions,
    }
