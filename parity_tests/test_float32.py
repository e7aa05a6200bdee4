"""The same in float32, as users run it: rounding is larger, and nothing else is."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests import tolerances
from parity_tests.twins import (
    array,
    copy_weights,
    load_theirs,
    our_stages,
    perturb,
    published_model,
    their_gradients,
    their_stages,
    to_ours,
)

RUNG = "3 activations"


@pytest.fixture(scope="module")
def twins(keras):
    torch.manual_seed(0)
    ours = ResNet50Detector(layout="keras", dropout=0.0)
    perturb(ours)
    theirs = published_model(keras, dropout=False)
    copy_weights(ours, theirs)
    return ours, theirs


@pytest.fixture(scope="module")
def batch(real_images):
    images, labels = real_images
    return images[:64].astype(np.float32) / 255, labels[:64].astype(np.float32)


def furthest(ours, theirs, images, training):
    """(stage, largest difference relative to the stage's largest value), of the stage where that is largest."""
    ours.train(training)
    expected, found = their_stages(theirs, images, training), our_stages(ours, images)
    apart = {stage: np.abs(found[stage] - value).max() / np.abs(value).max() for stage, value in expected.items()}
    return max(apart.items(), key=lambda item: item[1])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_stage_agrees_in_float32(twins, batch, claim, mode):
    tolerance = tolerances.STAGE_FLOAT32_TRAIN if mode == "train" else tolerances.STAGE_FLOAT32_EVAL
    stage, apart = furthest(*twins, batch[0], mode == "train")
    claim(f"every stage, {mode} mode, float32, perturbed weights; largest: {stage}", apart, tolerance)


def test_every_stage_of_a_trained_model_agrees_in_float32(trained_model, batch, claim):
    ours = ResNet50Detector(layout="keras")
    load_theirs(ours, trained_model)
    stage, apart = furthest(ours, trained_model, batch[0], False)
    claim(f"every stage of a trained model, eval mode, float32; largest: {stage}", apart, tolerances.STAGE_FLOAT32_EVAL)


def test_the_gradient_agrees_in_float32_as_far_as_float32_agrees_with_float64(twins, batch, claim, tf):
    ours, theirs = twins
    ours.train()
    images, labels = batch
    ours.zero_grad()
    loss = F.binary_cross_entropy_with_logits(ours(to_ours(images)), torch.from_numpy(labels))
    loss.backward()
    their_loss, expected, _ = their_gradients(tf, theirs, images, labels)
    claim("loss, float32", abs(loss.item() - their_loss), tolerances.LOSS_FLOAT32, rung="4 gradients")
    found = {name: array(parameter.grad) for name, parameter in ours.named_parameters()}
    apart = np.sqrt(sum(np.linalg.norm(found[name] - expected[name]) ** 2 for name in found))
    size = np.sqrt(sum(np.linalg.norm(expected[name]) ** 2 for name in found))
    claim("gradient as a whole, float32, relative", apart / size, tolerances.GRADIENT_FLOAT32, rung="4 gradients")
