"""The loss scale of fp16: Keras's and the one that Lightning uses do the same to gradients, steps and themselves.

On the published head alone, which is where all of it shows: the whole network in fp16 is test_half_precision.py's.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests import half, tolerances
from parity_tests.half import (
    FP16,
    SETTLED,
    STEPS,
    TRIES,
    TRUTH,
    HeadAlone,
    Theirs,
    apart,
    as_close,
    change,
    plugin_of,
    train_ours,
)
from parity_tests.twins import array, load_theirs, our_stages

RUNG = "5 optimizer"
GRADIENTS = "4 gradients"

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:Detected call of `lr_scheduler.step",  # where the only step was skipped
)


class Heads(NamedTuple):
    """The published head in fp16, trained through Lightning and through Keras from the same weights."""

    ours: HeadAlone
    theirs: Theirs
    weights: list
    features: half.Images
    course: list[half.Images]

    def train_theirs(self, batches=None, **settings):
        return self.theirs.train(self.weights, batches or [self.features], **settings)


@pytest.fixture(scope="module")
def heads(keras, trained_model, real_images):
    network = ResNet50Detector(layout="keras", dropout=0.0)
    load_theirs(network, trained_model)
    images, labels = real_images[0].astype(np.float32) / 255, real_images[1].astype(np.float32)
    network.train()

    def features(start, size):
        return our_stages(network, images[start : start + size])["stage 5"], labels[start : start + size]

    weights = [weight for layer in trained_model.layers[1:] for weight in layer.get_weights()]
    theirs = Theirs(half.their_head(keras, FP16), half.of_head)
    first, course = features(0, 64), [features(start, 32) for start in range(0, len(labels), 32)]
    return Heads(HeadAlone(network.head), theirs, weights, first, course)


@pytest.fixture(scope="module")
def unscaled(heads):
    """Our step in fp16 without a loss scale."""
    return train_ours(heads.ours, plugin_of(FP16, scale=1.0), [heads.features])


def test_a_scaled_loss_gives_the_gradient_of_the_loss(heads, unscaled, claim):
    tries = [heads.features] * TRIES
    truth = train_ours(heads.ours, plugin_of(TRUTH), [heads.features])
    ours = train_ours(heads.ours, plugin_of(FP16), tries, until_taken=True)
    theirs = heads.train_theirs(tries, until_taken=True)
    plain = heads.train_theirs(scale=1.0)
    assert ours.taken == theirs.taken == plain.taken == unscaled.taken == 1
    text = "gradient of the head in fp16 by a scaled loss, unscaled, against that by the loss itself, relative, "
    for name, scaled, alone in (("Lightning", ours, unscaled), ("TensorFlow", theirs, plain)):
        assert scaled.scales[-1] > 1
        distance = apart(scaled.gradient, alone.gradient)
        claim(text + name, distance, tolerances.LOSS_SCALE, rung=GRADIENTS)
        claim.figure(
            f"head in fp16: loss scale of the first step that is taken, {name}", scaled.scales[-1], rung=GRADIENTS
        )
        far = apart(scaled.gradient, truth.gradient)
        claim.figure(
            f"gradient of the head, fp16, loss scaled: distance from float64, relative, {name}", far, rung=GRADIENTS
        )


class ScaledTwice(half.MixedPrecision):
    """Scales the loss by 2^8 beside the scaler's own 2^8, and takes only the scaler's out."""

    def __init__(self) -> None:
        super().__init__(FP16, "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))

    def pre_backward(self, tensor, module):
        return super().pre_backward(tensor * 2.0**8, module)


def test_a_loss_scale_left_in_the_gradient_is_seen(heads, unscaled, claim):
    """Adam hides it: its steps hardly depend on the gradient's size, so no loss and no weight would show it."""
    found = train_ours(heads.ours, ScaledTwice(), [heads.features] * TRIES, until_taken=True)
    assert found.taken == 1
    moved = apart(found.gradient, unscaled.gradient)
    claim.fault("a loss scale of 2^8 left in the gradient", moved, tolerances.LOSS_SCALE, rung=GRADIENTS)
    start = {name: array(parameter) for name, parameter in heads.ours.named_parameters()}
    faulty, right = (change(made, start) for made in (found, unscaled))
    text = "a loss scale of 2^8 left in the gradient: change of Adam's step, relative"
    claim.figure(text, apart(faulty, right))


HUGE = 2.0**40  # in float32 the scaled loss is a number, in fp16 its gradient is not


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale(heads, claim):
    ours = train_ours(heads.ours, plugin_of(FP16, scale=HUGE), [heads.features])
    theirs = heads.train_theirs(scale=HUGE)
    before = {name: array(p) for name, p in heads.ours.named_parameters()}
    for name, made in (("Lightning", ours), ("TensorFlow", theirs)):
        text = f"weights of the head that a step in fp16 with an infinite gradient changes, {name}"
        unequal = sum(not np.array_equal(made.weights[key], value) for key, value in before.items())
        claim.equal(text, unequal, 0)
        assert made.taken == 0
    claim.equal("factor on the loss scale then", *(m.scales[0] / HUGE for m in (ours, theirs)))
    assert ours.scales == [HUGE / 2]


def test_the_loss_scale_grows_after_as_many_steps(heads, claim):
    scaler, optimizer = plugin_of(FP16).scaler, heads.theirs.optimizer
    every = scaler.get_growth_interval()
    claim.equal("steps until the loss scale grows", every, optimizer.dynamic_growth_steps)
    first = {"Lightning": scaler.get_scale(), "TensorFlow": optimizer.initial_scale}
    for name, scale in first.items():
        claim.figure(f"first loss scale, {name}", scale)
    plugin = plugin_of(FP16, scale=2.0**8)
    plugin.scaler.load_state_dict({**plugin.scaler.state_dict(), "_growth_tracker": every - 2})
    ours = train_ours(heads.ours, plugin, [heads.features] * 2)
    theirs = heads.train_theirs([heads.features] * 2, scale=2.0**8, counter=every - 2)
    text = "loss scale after the last step before it grows, and after the next"
    claim.equal(text, ours.scales, theirs.scales)
    assert ours.scales == [2.0**8, 2.0**9]
    claim.note(
        f"Loss scaling in fp16: torch's scaler begins at {first['Lightning']:,.0f}, Keras's at "
        f"{first['TensorFlow']:,.0f}: one step more that torch may skip at the start. Both halve it when a gradient "
        f"overflows, skip that step, and double it after {every:,} steps in a row that did not. bf16 is not scaled by "
        "either. Under both of Keras's mixed policies the last layer's sigmoid is computed in 16 bits and the loss of "
        "that probability: there a single image with a probability below the scale over 65,504 times the batch's size, "
        "and wrong, makes the gradient overflow. Lightning's last layer and loss are float32.",
    )


def test_a_course_of_steps_of_the_head_stays_as_close_to_float64_as_tensorflows(heads, claim):
    """The whole network's, in minutes instead of seconds, is test_half_precision.py's."""
    batches = heads.course * (STEPS // len(heads.course))
    truth = train_ours(heads.ours, plugin_of(TRUTH), batches)
    ours = train_ours(heads.ours, plugin_of(FP16, scale=SETTLED), batches)
    theirs = heads.train_theirs(batches, scale=SETTLED)
    assert ours.taken == truth.taken == STEPS
    # Keras takes the loss of a probability, and hands its gradient on in 16 bits: of an image that is real and gets a
    # probability below 2^10 / 32 / 65,504 = 0.0005 it overflows
    skipped = STEPS - theirs.taken
    assert skipped <= STEPS // 20
    start = {name: array(parameter) for name, parameter in heads.ours.named_parameters()}
    distance = [half.losses_apart(made, truth) for made in (ours, theirs)]
    moved = [apart(change(made, start), change(truth, start)) for made in (ours, theirs)]
    name = f"{STEPS} steps of the head in fp16"
    as_close(claim, f"{name}: loss of a step, mean of all", *distance, tolerances.HALF_COURSE, rung="6 training")
    as_close(claim, f"{name}: change of all weights", *moved, tolerances.HALF_COURSE, rung="6 training")
    claim.figure(f"{name}: skipped for an infinite gradient, TensorFlow", skipped, rung="6 training")
