"""In half precision ours is as close to float64 as TensorFlow's: the same trained weights, images and steps (half.py).

No two computations in half precision agree to many digits, so none is held against another. Each claim holds our
distance from float64 against TensorFlow's distance from float64.
"""

import copy
import functools
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.data.decode import DEMO, load_images
from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests import half, tolerances
from parity_tests import half_cases as cases
from parity_tests.half import (
    BF16,
    FP16,
    NAMES,
    SETTLED,
    STEPS,
    TRUTH,
    Theirs,
    apart,
    as_close,
    change,
    plugin_of,
    train_ours,
)
from parity_tests.half_cases import LOSS
from parity_tests.half_on_a_gpu import read_record
from parity_tests.report import table
from parity_tests.twins import array, copy_weights, load_theirs, our_stages, perturb, their_stages

RUNG = "3 activations"
GRADIENTS, OPTIMIZER, TRAINING, METRICS = "4 gradients", "5 optimizer", "6 training", "7 metrics"

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture(scope="module")
def trained(trained_model):
    """(ours in float32, Keras's weights) of a trained model."""
    ours = ResNet50Detector(layout="keras", dropout=0.0)
    load_theirs(ours, trained_model)
    return ours, trained_model.get_weights()


@pytest.fixture(scope="module")
def theirs(keras):
    """Precision -> ``tf_reference``'s model in it, made once; who uses it gives it weights first."""
    return functools.cache(functools.partial(half.their_network, keras))


@pytest.fixture(scope="module")
def batches(real_images):
    return cases.batches_of(*real_images)


@pytest.fixture(scope="module")
def on_gpu(trained, batches):
    """What half_on_a_gpu.py recorded, where it was from these weights on these images; else None."""
    record = read_record()
    same = record and record["weights"] == cases.digest_of_weights(trained[0])
    return record if same and record["batches"] == cases.digest_of_images(batches) else None


class Stages(NamedTuple):
    """Each stage's output, and the loss of each image, of float64 and of half precision on both sides."""

    truth: dict
    ours: dict
    theirs: dict

    def distances(self):
        """Stage -> (ours, theirs)."""
        return {stage: (apart(self.ours[stage], v), apart(self.theirs[stage], v)) for stage, v in self.truth.items()}


def stages_of(keras, ours, model, batches, precision, training):
    """Of all batches, one after the other."""
    truth, found = (cases.stages_of_ours(ours, batches, p, training) for p in (TRUTH, precision))
    each = []
    for images, labels in batches:
        expected = their_stages(model, images, training)
        prob = expected["probability"].astype(np.float32)
        expected[LOSS] = np.asarray(keras.losses.BinaryCrossentropy(reduction=None)(labels[:, None], prob[:, None]))
        each.append(expected)
    return Stages(truth, found, cases.joined(each))


@pytest.fixture(scope="module")
def stages(keras, trained, theirs, batches):
    """(precision, training) -> :class:`Stages` of the trained weights, computed once."""
    ours, weights = trained

    @functools.cache
    def computed(precision, training):
        theirs(precision).set_weights(weights)
        return stages_of(keras, ours, theirs(precision), batches, precision, training)

    return computed


CASES = [
    pytest.param(BF16, "eval", id="bf16-eval"),  # the others take minutes on a CPU without the instructions
    pytest.param(BF16, "train", id="bf16-train", marks=pytest.mark.long),
    pytest.param(FP16, "eval", id="fp16-eval", marks=pytest.mark.long),
    pytest.param(FP16, "train", id="fp16-train", marks=pytest.mark.long),
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("precision", "mode"), CASES)
def test_every_stage_is_as_close_to_float64_as_tensorflows(stages, on_gpu, claim, precision, mode):
    distances = stages(precision, mode == "train").distances()
    recorded = on_gpu["stages"][NAMES[precision]][mode] if on_gpu else {}
    for stage, (ours, theirs) in distances.items():
        as_close(
            claim,
            f"{stage}, {NAMES[precision]}, {mode} mode, trained weights",
            ours,
            theirs,
            tolerances.HALF_STAGE,
            rung=GRADIENTS if stage == LOSS else None,
            figures=stage in ("probability", LOSS),
            on_gpu=recorded.get(stage),
        )
    lines = [f"{stage} | {ours:.2g} | {theirs:.2g}" for stage, (ours, theirs) in distances.items()]
    header = f"{NAMES[precision]}, {mode} mode: distance from float64, relative | Lightning | TensorFlow"
    if recorded:
        lines = [f"{line} | {recorded[stage]:.2g}" for stage, line in zip(distances, lines, strict=True)]
        header += f" | Lightning, {on_gpu['device']}"
    claim.note(table(header, "l r r r" if recorded else "l r r", lines))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("precision", "mode"), [(p, m) for p in (BF16, FP16) for m in ("eval", "train")])
def test_every_stage_of_perturbed_weights_is_as_close(keras, theirs, batches, claim, precision, mode):
    torch.manual_seed(0)
    ours = ResNet50Detector(layout="keras", dropout=0.0)
    perturb(ours)
    copy_weights(ours, theirs(precision))
    distances = stages_of(keras, ours, theirs(precision), batches, precision, mode == "train").distances()
    ratios = {stage: ours / theirs for stage, (ours, theirs) in distances.items()}
    worst = max(ratios, key=ratios.get)
    text = f"every stage and the loss, {NAMES[precision]}, {mode} mode, perturbed weights: Lightning's distance from "
    claim(f"{text}float64 over TensorFlow's; largest: {worst}", ratios[worst], tolerances.HALF_STAGE)


def scale_pixels_twice(network):
    """Bytes are scaled to [0, 1] by the data; a network that does it again."""
    network.backbone.conv1.register_forward_pre_hook(lambda _, inputs: (inputs[0] / 255,))


def scale_logits(network):
    """The 1/255 on the wrong side of the network."""
    network.head.logit.register_forward_hook(lambda *given: given[-1] / 255)


FAULTS = {
    "pixels scaled by 1/255 twice": (scale_pixels_twice, "stem"),
    "1/255 on the logits": (scale_logits, "logit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_scale_on_the_wrong_side_is_seen(trained, stages, batches, claim, fault):
    put_in, stage = FAULTS[fault]
    truth, _, theirs = stages(BF16, False)
    network = copy.deepcopy(trained[0]).eval()
    put_in(network)
    with plugin_of(BF16).forward_context():
        found = np.concatenate([our_stages(network, images)[stage] for images, _ in batches])
    ratio = apart(found, truth[stage]) / apart(theirs[stage], truth[stage])
    text = f"{fault}: {stage}, bf16, Lightning's distance from float64 over TensorFlow's"
    claim.fault(text, ratio, tolerances.HALF_STAGE, factor=10)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", NAMES, ids=NAMES.values())
def test_the_gradient_and_one_step_are_as_close_to_float64_as_tensorflows(
    trained, theirs, batches, on_gpu, claim, precision
):
    """Of the whole network, on four batches; in fp16 a step whose gradient overflows is tried again, as in training."""
    ours, weights = trained
    model = Theirs(theirs(precision), half.of_network)
    start = {name: array(p) for name, p in ours.named_parameters()}
    gradients, steps, scales = [], [], {}
    both = (cases.first_steps_of_ours(ours, batches, p) for p in (TRUTH, precision))
    for batch, truth, found in zip(batches, *both, strict=True):
        expected = model.train(weights, cases.tries(batch), until_taken=True)
        assert expected.taken == 1
        true_step = change(truth, start)
        gradients.append([apart(made.gradient, truth.gradient) for made in (found, expected)])
        steps.append([apart(change(made, start), true_step) for made in (found, expected)])
        scales = scales or {"Lightning": found.scales[-1], "TensorFlow": expected.scales[-1]}
    name = NAMES[precision]
    recorded = on_gpu["first step"][name] if on_gpu else {}
    as_close(
        claim,
        f"gradient of all weights as one vector, {name}, relative",
        *half.mean_square(gradients),
        tolerances.HALF_GRADIENT,
        rung=GRADIENTS,
        on_gpu=recorded.get("gradient"),
    )
    as_close(
        claim,
        f"change of all weights in one step of Adam, {name}, relative",
        *half.mean_square(steps),
        tolerances.HALF_STEP,
        rung=OPTIMIZER,
        on_gpu=recorded.get("step"),
    )
    if precision == FP16:
        if on_gpu:
            scales["Lightning on a GPU"] = recorded["scale"]
        for side, scale in scales.items():
            text = f"whole network, fp16: loss scale of the first step that is taken, {side}"
            claim.figure(text, scale, rung=OPTIMIZER)


# A course of training, and a trained model asked.


@pytest.fixture(scope="module")
def images(demo_cache):
    """CIFAKE decoded, or the built-in demo where CIFAKE_ROOT is not set."""
    root = os.environ.get("CIFAKE_ROOT")
    return load_images(root, cache_dir=default_cache_dir()) if root else load_images(DEMO, cache_dir=demo_cache)


@pytest.fixture(scope="module")
def course(images):
    return cases.course_of(images)


@pytest.fixture(scope="module")
def true_course(trained, course):
    """Ours in float64."""
    return train_ours(trained[0], plugin_of(TRUTH), course[0], ask=course[1])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", NAMES, ids=NAMES.values())
def test_a_course_of_steps_stays_as_close_to_float64_as_tensorflows(
    trained, theirs, course, true_course, on_gpu, claim, precision
):
    """From trained weights late in the schedule, on real images, without augmentation and dropout."""
    ours, weights = trained
    (batches, validation), truth = course, true_course
    found = train_ours(ours, plugin_of(precision, SETTLED), batches, ask=validation)
    expected = Theirs(theirs(precision), half.of_network).train(weights, batches, scale=SETTLED, ask=validation)
    name = f"{STEPS} steps in {NAMES[precision]}"
    assert len(found.losses) == len(expected.losses) == len(truth.losses) == STEPS
    distance = [half.losses_apart(made, truth) for made in (found, expected)]
    recorded = on_gpu["courses"] if on_gpu else {}
    of_gpu = recorded.get(NAMES[precision], {})
    if recorded:
        assert on_gpu["course"] == cases.digest_of_images([*batches, validation])
        apart_64 = float(np.abs(np.subtract(recorded["float64"]["losses"], truth.losses)).mean())
        text = f"{STEPS} steps in float64: loss of a step, a GPU's distance from this CPU's, mean of all"
        claim.figure(text, apart_64, rung=TRAINING)
    what = f"{name}: loss of a step, mean of all"
    as_close(claim, what, *distance, tolerances.HALF_COURSE, rung=TRAINING, on_gpu=of_gpu.get("distance"))
    labels = validation[1] > 0.5
    for side, made in (("float64", truth), ("Lightning", found), ("TensorFlow", expected)):
        accuracy = 100 * ((made.prob_real > 0.5) == labels).mean()
        text = f"{name}: accuracy on {len(labels)} validation images after them, {side}"
        claim.figure(text, accuracy, "%", rung=TRAINING)
        if precision == FP16 and made is not truth:
            skipped = STEPS - made.taken
            claim.figure(f"{name}: skipped for an infinite gradient, {side}", skipped, rung=TRAINING)
    courses = {"TensorFlow": expected.losses, "Lightning": found.losses}
    if recorded:
        text = f"{name}: accuracy on {len(labels)} validation images after them, Lightning on a GPU"
        claim.figure(text, 100 * of_gpu["right"] / len(labels), "%", rung=TRAINING)
        courses[f"Lightning, {on_gpu['device']}"] = of_gpu["losses"]
        if precision == FP16:
            text = f"{name}: skipped for an infinite gradient, Lightning on a GPU"
            claim.figure(text, of_gpu["skipped"], rung=TRAINING)
    path = claim.folder / f"half_course_{NAMES[precision]}.png"
    half.draw(courses, truth.losses, path)
    caption = "The loss of each step, its distance from float64's, mean of ten steps: courses of rounding."
    claim.picture(path, f"{name}, both systems. {caption}", rung=TRAINING)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", NAMES, ids=NAMES.values())
def test_a_trained_model_changes_no_more_decisions_than_tensorflows(
    trained, theirs, images, course, on_gpu, claim, precision
):
    ours = cases.settle(copy.deepcopy(trained[0]), course[0][:40])
    asked = cases.asked_of(images)
    copy_weights(ours, theirs(precision), bias=0.0)
    truth = half.ask_ours(ours, plugin_of(TRUTH), asked)
    found = half.ask_ours(ours, plugin_of(precision), asked)
    expected = half.ask_theirs(theirs(precision), asked)
    name = NAMES[precision]
    right = 100 * ((truth > 0.5) == (asked[1] > 0.5)).mean()
    claim.figure(f"accuracy of that trained model in float64, {len(truth):,} test images", right, "%", rung=METRICS)
    flips = [cases.flips(prob, truth) for prob in (found, expected)]
    for side, count in zip(("Lightning", "TensorFlow"), flips, strict=True):
        text = f"decisions of a trained model that {name} changes from float64's, {side}"
        claim.figure(text, count, f"of {len(truth):,}", rung=METRICS)
    text = f"decisions of a trained model that {name} changes: Lightning's less TensorFlow's, in standard deviations"
    more = (flips[0] - flips[1]) / max(1.0, sum(flips) ** 0.5)
    claim(text, max(0.0, more), tolerances.HALF_DECISIONS, rung=METRICS)
    distance = [apart(prob, truth) for prob in (found, expected)]
    text = f"probability of {len(truth):,} images, {name}, relative"
    recorded = on_gpu["decisions"][name] if on_gpu else {}
    as_close(claim, text, *distance, tolerances.HALF_STAGE, rung=METRICS, on_gpu=recorded.get("distance"))
    if recorded:
        assert on_gpu["asked"] == cases.digest_of_images([asked])
        text = f"decisions of a trained model that {name} changes from float64's, Lightning on a GPU"
        claim.figure(text, recorded["flips"], f"of {len(truth):,}", rung=METRICS)
