"""When each side draws its own numbers, the augmentations have one distribution: as often, as far, once for the same.

Both sides get one batch again and again, made so that what was drawn can be read off the result: a slope from left to
right and a steeper one downwards tell the flips, the mean tells the brightness and the deviation the contrast.
"""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch

from lightning_cifake.data.augment import PublishedAugmentation
from parity_tests import tolerances

RUNG = "2 images"
BATCHES, IMAGES, SIZE = 2000, 16, 8


class Draws(NamedTuple):
    """What each image got, (BATCHES, IMAGES) each; and the extremes of all values."""

    left_right: np.ndarray
    up_down: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    least: float
    most: float


def slopes():
    """(IMAGES, SIZE, SIZE, 3) float32 from 0 to 1."""
    across, down = np.meshgrid(np.linspace(0, 0.3, SIZE), np.linspace(0, 0.7, SIZE))
    return np.broadcast_to((across + down)[None, :, :, None], (IMAGES, SIZE, SIZE, 3)).astype(np.float32)


def read_off(augmented):
    """(BATCHES, IMAGES, SIZE, SIZE, 3) -> what was drawn."""
    start, values = slopes().astype(np.float64), augmented[..., 0].astype(np.float64)
    return Draws(
        values[..., :, 0].sum(-1) > values[..., :, -1].sum(-1),
        values[..., 0, :].sum(-1) > values[..., -1, :].sum(-1),
        values.mean((-1, -2)) - start[0, ..., 0].mean(),
        values.std((-1, -2)) / start[0, ..., 0].std(),
        augmented.min(),
        augmented.max(),
    )


def our_draws(augmentation):
    torch.manual_seed(0)
    images = torch.from_numpy(slopes()).permute(0, 3, 1, 2)
    return read_off(np.stack([augmentation(images).permute(0, 2, 3, 1).numpy() for _ in range(BATCHES)]))


@pytest.fixture(scope="module")
def ours():
    return our_draws(PublishedAugmentation())


@pytest.fixture(scope="module")
def theirs(tf):
    """As the paper maps it over its batches: tf_reference's augment_data."""
    from tf_reference.data import augment_data

    tf.random.set_seed(0)
    data = tf.data.Dataset.from_tensors((slopes(), np.zeros(IMAGES, np.int32))).repeat(BATCHES).map(augment_data)
    return read_off(np.stack([images for images, _ in data.as_numpy_iterator()]))


def spread_in_batch(draws):
    return np.ptp(draws, axis=1).max()


def smirnov(ours, theirs):
    """Largest distance of two distribution functions, of one draw a batch."""
    return scipy.stats.ks_2samp(ours[:, 0], theirs[:, 0]).statistic


@pytest.mark.parametrize("name", ["left_right", "up_down"])
def test_flips_come_as_often_and_each_image_has_its_own(claim, ours, theirs, name):
    actual, other = getattr(ours, name), getattr(theirs, name)
    way = name.replace("_", "-")
    claim(f"share of {way} flips, 32,000 images each", abs(actual.mean() - other.mean()), tolerances.FLIP_RATE)
    ratio = actual.sum(1).var() / other.sum(1).var()
    claim(f"variance of the number of {way} flips in a batch, ratio less 1", abs(ratio - 1), tolerances.FLIP_SPREAD)
    once = np.repeat(actual[:, :1], IMAGES, axis=1)
    moved = abs(once.sum(1).var() / other.sum(1).var() - 1)
    claim.fault(f"one {way} flip for a whole batch: its variance", moved, tolerances.FLIP_SPREAD, factor=10)


def test_the_two_flips_know_nothing_of_each_other(claim, ours, theirs):
    for side, draws in (("ours", ours), ("TensorFlow's", theirs)):
        both = (draws.left_right & draws.up_down).mean()
        expected = draws.left_right.mean() * draws.up_down.mean()
        claim(
            f"share of images flipped both ways, less the product, {side}", abs(both - expected), tolerances.FLIP_RATE
        )


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_brightness_and_contrast_are_drawn_once_a_batch_from_one_distribution(claim, ours, theirs, name):
    actual, other = getattr(ours, name), getattr(theirs, name)
    claim(f"{name}, 2,000 batches each: Smirnov's distance", smirnov(actual, other), tolerances.KS_DISTANCE)
    for side, draws in (("ours", actual), ("TensorFlow's", other)):
        text = f"{name} is one for a whole batch: largest spread within one, {side}"
        claim(text, spread_in_batch(draws), tolerances.RECOVERED_FLOAT32)


def test_nothing_is_clipped(claim, ours, theirs):
    claim("smallest value after augmentation, below 0", abs(ours.least - theirs.least), tolerances.RANGE)
    claim("largest value after augmentation, above 1", abs(ours.most - theirs.most), tolerances.RANGE)
    claim.fault("values clipped to [0, 1]: the largest", theirs.most - 1, tolerances.RANGE, factor=5)
    claim.figure("largest value that TensorFlow's augmentation gave of an image in [0, 1]", theirs.most)
    claim.figure("largest value that ours gave", ours.most)


def test_draws_for_each_image_or_from_another_range_are_seen(claim, theirs, monkeypatch):
    moved = spread_in_batch(our_draws(PublishedAugmentation(per_image=True)).brightness)
    claim.fault("brightness for each image: spread within a batch", moved, tolerances.RECOVERED_FLOAT32)
    monkeypatch.setattr("lightning_cifake.data.augment.MAX_BRIGHTNESS", 0.15)
    moved = smirnov(our_draws(PublishedAugmentation()).brightness, theirs.brightness)
    claim.fault("brightness up to .15 instead of .1: Smirnov's distance", moved, tolerances.KS_DISTANCE, factor=1.5)
