"""Trained side by side on the same order, draws and dropout masks, the two systems stay one (replay.py)."""

import dataclasses
import os

import numpy as np
import pytest

from lightning_cifake import CIFAKEDataModule
from parity_tests import epoch, tolerances
from parity_tests.replay import LATE_LEARNING_RATE, Course, train_side_by_side
from parity_tests.twins import load_theirs, perturb

RUNG = "6 training"


def train(tf, keras, cache, trained, steps):
    """From a trained model late in the schedule, or from untrained weights at its beginning."""
    root = os.environ.get("CIFAKE_ROOT", "demo")
    sample = 1600 if root == "demo" else 20_000
    data = CIFAKEDataModule(root=root, protocol="published", sample=sample, batch_size=32, cache_dir=str(cache))
    data.prepare_data()
    data.setup()
    data.split = dataclasses.replace(data.split, val=data.split.val[:96])  # the arithmetic is the same for 4,000
    start = perturb if trained is None else lambda network: load_theirs(network, trained)
    rate = 1e-3 if trained is None else LATE_LEARNING_RATE
    return train_side_by_side(tf, keras, data, steps, start=start, weights_every=10, learning_rate=rate)


def claim_one_system(claim, course: Course, steps: int, weights, loss) -> None:
    assert len(course.our_loss) == len(course.their_loss) == steps
    # it did train; how far three steps go depends on the reference, whose own training no seed repeats
    assert np.ptp(course.our_loss) > 0.01
    apart = np.abs(np.subtract(course.our_loss, course.their_loss)).max()
    claim(f"loss of each of {steps} steps, float64", apart, loss)
    claim(f"all weights and statistics after {steps} steps, float64", course.weights[-1][1], weights)
    for name, ours in course.ours.items():
        claim(f"{name} after {steps} steps", abs(ours - course.theirs[name]), tolerances.TRAINING_METRICS_FLOAT64)


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*:FutureWarning")


@pytest.mark.long
def test_the_first_steps_from_untrained_weights_agree(tf, keras_float64, cifake_cache, claim):
    course, _, _ = train(tf, keras_float64, cifake_cache, None, 2)
    apart = np.abs(np.subtract(course.our_loss, course.their_loss)).max()
    claim("loss of the first 2 steps at the published learning rate, float64", apart, tolerances.TRAINING_LOSS_FLOAT64)
    step = course.weights[0][1]
    claim("all weights after the first of them, float64", step, tolerances.TRAINING_WEIGHTS_FLOAT64)


def test_three_steps_of_the_whole_system_agree(tf, keras_float64, trained_model, cifake_cache, claim):
    course, _, _ = train(tf, keras_float64, cifake_cache, trained_model, 3)
    claim_one_system(claim, course, 3, tolerances.TRAINING_WEIGHTS_FLOAT64, tolerances.TRAINING_LOSS_FLOAT64)


@pytest.mark.long
def test_ten_steps_of_the_whole_system_agree(tf, keras_float64, trained_model, cifake_cache, claim):
    course, _, _ = train(tf, keras_float64, cifake_cache, trained_model, 10)
    claim_one_system(claim, course, 10, tolerances.TRAINING_WEIGHTS_FLOAT64, tolerances.TRAINING_LOSS_FLOAT64)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_steps_of_the_whole_system_agree(tf, keras_float64, trained_model, cifake_cache, claim):
    course, _, _ = train(tf, keras_float64, cifake_cache, trained_model, 100)
    claim_one_system(claim, course, 100, tolerances.TRAINING_WEIGHTS_FLOAT64, tolerances.TRAINING_LOSS_FLOAT64)


def test_the_recorded_epoch_differs_by_rounding_alone(claim):
    """Of docs/parity/epoch, which `python -m parity_tests.epoch` writes."""
    if not (epoch.FOLDER / "course.json").is_file():
        pytest.skip("no epoch is recorded yet: python -m parity_tests.epoch writes docs/parity/epoch")
    course, facts = epoch.read()
    assert len(course.our_loss) == len(course.their_loss) == len(course.nudged_loss) == epoch.STEPS
    apart, nudged = (np.abs(np.subtract(course.our_loss, other)) for other in (course.their_loss, course.nudged_loss))
    whole = f"whole published epoch of {epoch.STEPS} steps, recorded {facts['date']}"
    claim(f"{whole}: loss of each of the first 100", apart[:100].max(), tolerances.TRAINING_LOSS_FLOAT64)
    weights = max(value for step, value in course.weights if step <= 100)
    claim(f"{whole}: all weights and statistics up to step 100", weights, tolerances.TRAINING_WEIGHTS_FLOAT64)
    claim(
        f"{whole}: a step's loss differs from TensorFlow's by so many times what one unit in the last place of each "
        "weight makes of it, mean of the logarithms over all steps",
        10 ** abs(np.mean(np.log10(apart + epoch.FLOOR) - np.log10(nudged + epoch.FLOOR))),
        tolerances.EPOCH_AGAINST_ONE_ULP,
    )
    calm = [(step, value) for step, value in course.weights if value <= tolerances.TRAINING_WEIGHTS_FLOAT64]
    claim.figure(f"{whole}: last compared step with all weights within 1e-8 of TensorFlow's", calm[-1][0])
    claim.figure(f"{whole}: loss of any step, apart from TensorFlow's", apart.max())
    claim.figure(f"{whole}: loss of any step, apart from our own after one unit in the last place", nudged.max())
    claim.figure(f"{whole}: all weights at its end, apart from TensorFlow's", course.weights[-1][1])
    claim.figure(f"{whole}: all weights at its end, apart from our own", course.nudged_weights[-1][1])
    for name, ours in course.ours.items():
        claim.figure(f"{whole}: {name}, apart from TensorFlow's", abs(ours - course.theirs[name]))
    assert (epoch.FOLDER / "growth.png").is_file()
    claim.note(
        "![Difference over the steps](epoch/growth.png)\n\n*A whole published epoch: the two frameworks apart, and "
        "beside it what rounding alone does, each weight moved by one unit in the last place within one framework. "
        "Where a curve leaps, the training itself blows rounding up; no two orders of summation agree beyond that.*"
    )
