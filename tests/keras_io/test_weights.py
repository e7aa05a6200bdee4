"""The map of names: consumed to the last entry both ways, and one error that names whatever does not fit."""

import re

import numpy as np
import pytest
import torch

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.weights import (
    backbone_layers,
    expected_shapes,
    folded_biases,
    pairs_of,
    to_keras_weights,
    to_state_dict,
)
from lightning_cifake.networks.resnet50 import ResNet50Detector


@pytest.fixture(scope="module")
def like():
    with torch.device("meta"):
        return ResNet50Detector().state_dict()


@pytest.fixture(scope="module")
def weights(like):
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in expected_shapes(like).items()}


def test_the_map_is_kerass_network_weight_for_weight(like):
    shapes = expected_shapes(like)
    assert len(backbone_layers()) == 53
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 24_146_305
    assert shapes["conv1_conv/kernel"] == (7, 7, 3, 64)
    assert shapes["conv4_block1_0_conv/kernel"] == (1, 1, 512, 1024)
    assert shapes["dense1/kernel"] == (2048, 256)
    named = {pair.keras: pair.ours for pair in pairs_of(like)}
    assert named["conv3_block1_0_bn/moving_variance"] == "backbone.layer2.0.downsample.1.running_var"
    assert named["conv5_block3_2_conv/kernel"] == "backbone.layer4.2.conv2.weight"
    counters = {name for name in like if name.endswith("num_batches_tracked")}
    assert set(named.values()) | counters == set(like)
    assert len(set(named.values())) == len(named) == 328 - 53


def test_weights_come_back_with_the_bias_in_the_running_mean(like, weights):
    state = to_state_dict(weights, like, "test")
    assert state.keys() == like.keys()
    back = to_keras_weights(state)
    assert back.keys() == weights.keys()
    biases = folded_biases()
    means = {theirs.replace("_conv/bias", "_bn/moving_mean"): theirs for theirs in biases}
    for name, value in back.items():
        if name in biases:
            assert not value.any()
        elif name in means:
            np.testing.assert_array_equal(value, weights[name] - weights[means[name]])
        else:
            np.testing.assert_array_equal(value, weights[name])


def test_precision_is_kept(like, weights):
    state = to_state_dict({name: value.astype(np.float64) for name, value in weights.items()}, like, "test")
    assert {value.dtype for value in state.values()} == {torch.float64, torch.int64}
    assert {value.dtype for value in to_keras_weights(state).values()} == {np.dtype("float64")}


def test_one_error_names_every_weight_that_does_not_fit(like, weights):
    wrong = dict(weights)
    del wrong["conv1_conv/bias"], wrong["logit/kernel"]
    wrong["conv2_block1_1_conv/kernel"] = np.zeros((3, 3, 64, 64), np.float32)
    wrong["dense1/bias"] = np.zeros(256, np.int32)
    wrong["extra/kernel"] = np.zeros(2)
    with pytest.raises(UserError) as caught:
        to_state_dict(wrong, like, "model.keras", lambda name: name.replace("logit", "dense_2"))
    for part in (
        "model.keras: its weights do not fit: missing ",
        "missing conv1_conv/bias (64,)",
        "missing dense_2/kernel (128, 1)",
        "unexpected extra/kernel (2,)",
        "conv2_block1_1_conv/kernel expected (1, 1, 64, 64), got (3, 3, 64, 64)",
        "dense1/bias expected floating-point numbers, got int32",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_all_named(like, weights, value):
    broken = {**weights, "dense1/bias": np.full(256, value), "conv1_bn/gamma": np.full(64, value)}
    with pytest.raises(UserError, match=re.escape("NaN or infinite weights in conv1_bn/gamma, dense1/bias")):
        to_state_dict({name: broken[name] for name in weights}, like, "test")
