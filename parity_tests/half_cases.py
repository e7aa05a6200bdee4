"""What half precision is tried on, and our side of it on any device: the same for the tests and for a GPU's record."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cifake.data.decode import DEMO, ImageSet, load_images
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.sources import open_source
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
from parity_tests.twins import array, our_stages, to_ours

LOSS = "loss of each image"


class Numbered(NamedTuple):
    label: int
    number: int


def real_images(root: str | None, demo_cache: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """256 images of CIFAKE's test part, as many of each class, or of the built-in demo where there is no root.

    (256, 32, 32, 3) uint8 and (256,) uint8 labels, FAKE = 0, REAL = 1, in an order that mixes them.
    """
    rng = np.random.default_rng(0)
    if root:
        source = open_source(Path(root))
        entries = _draw([entry for entry in source.entries if entry.part == "test"], rng)
        return (
            np.stack([decode_image(source.read(entry.path)) for entry in entries]),
            np.array([entry.label for entry in entries], np.uint8),
        )
    demo = load_images(DEMO, cache_dir=demo_cache)
    chosen = [i for _, i in _draw([Numbered(label, i) for i, label in enumerate(demo.labels)], rng)]
    return np.array(demo.images[chosen]), demo.labels[chosen]


def _draw(images: list, rng: np.random.Generator, of_each: int = 128) -> list:
    of_class = [[image for image in images if image.label == label] for label in (0, 1)]
    drawn_ones = [one[i] for one in of_class for i in rng.choice(len(one), of_each, replace=False)]
    return [drawn_ones[i] for i in rng.permutation(len(drawn_ones))]


def batches_of(images: np.ndarray, labels: np.ndarray) -> list[Images]:
    """Four of ((64, 32, 32, 3) float32 in [0, 1], (64,) float32 labels).

    Of one alone the quotient of two distances says little: in train mode its images have most of their error in common.
    """
    scaled, target = images.astype(np.float32) / 255, labels.astype(np.float32)
    return [(scaled[at : at + 64], target[at : at + 64]) for at in range(0, len(target), 64)]


def drawn(images: ImageSet, part: str, count: int, seed: int) -> Images:
    """So many images, half of each class, mixed, in float32 as :class:`half.Images`; some twice where they are few."""
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(np.isin(images.parts, (part, "")) & (images.labels == label)) for label in (0, 1)]
    index = np.concatenate([rng.choice(one, count // 2, replace=len(one) < count // 2) for one in of_class])
    index = rng.permutation(index)
    return images.images[index].astype(np.float32) / 255, images.labels[index].astype(np.float32)


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
) -> list[tuple[Trained, Trained]]:
    """(in float64, in this precision) of the first step that is taken on 32 images of each batch."""
    found = []
    for batch in batches:
        given = tries(batch)
        each = [
            train_ours(network, plugin_of(p, device=device), given, until_taken=True, device=device)
            for p in (TRUTH, precision)
        ]
        assert [made.taken for made in each] == [1, 1]
        found.append((each[0], each[1]))
    return found


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
    for precision, name in NAMES.items():
        made = first_steps_of_ours(network, batches, precision, device)
        first[name] = {
            "gradient": mean_square([[apart(found.gradient, truth.gradient)] for truth, found in made])[0],
            "step": mean_square([[apart(change(found, start), change(truth, start))] for truth, found in made])[0],
            "scale": made[0][1].scales[-1],
        }
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
