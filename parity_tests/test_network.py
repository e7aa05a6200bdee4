"""The network is the one that keras.applications and the paper's head build: same numbers in, same numbers out."""

import numpy as np
import pytest
import torch

from lightning_cifake.model.network import FakeImageNetwork
from parity_tests import tolerances


@pytest.fixture(scope="module")
def twins(keras_float64):
    """(ours, theirs) in float64, with the same perturbed weights; dropout off, it draws its own numbers."""
    torch.manual_seed(0)
    ours = FakeImageNetwork(layout="keras", dropout=0.0).double()
    perturb(ours)
    theirs = published_model(keras_float64)
    copy_weights(ours, theirs)
    return ours, theirs


def published_model(keras):
    """Paper section 10.4, line by line; dropout 0."""
    layers = keras.layers
    model = keras.models.Sequential()
    model.add(keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3)))
    model.add(layers.Flatten())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.0))
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    return model


@torch.no_grad()
def perturb(network):
    """Freshly initialised batch norm is nearly the identity and hides what differs."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.2, 0.2)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)


def convolutions(network):
    """Keras's name of every convolution -> (convolution, batch norm)."""
    body = network.backbone
    pairs = {"conv1": (body.conv1, body.bn1)}
    for stage, blocks in enumerate([body.layer1, body.layer2, body.layer3, body.layer4], start=2):
        for number, block in enumerate(blocks, start=1):
            name = f"conv{stage}_block{number}"
            if block.downsample is not None:
                pairs[f"{name}_0"] = (block.downsample[0], block.downsample[1])
            for step in (1, 2, 3):
                pairs[f"{name}_{step}"] = (getattr(block, f"conv{step}"), getattr(block, f"bn{step}"))
    return pairs


def copy_weights(ours, theirs):
    """Ours into theirs; their convolutions get a bias, which ours carry in the running mean."""
    rng = np.random.default_rng(0)
    backbone = theirs.layers[0]
    for name, (convolution, norm) in convolutions(ours).items():
        kernel = array(convolution.weight).transpose(2, 3, 1, 0)
        bias = 0.1 * rng.normal(size=kernel.shape[-1])
        backbone.get_layer(f"{name}_conv").set_weights([kernel, bias])
        mean = array(norm.running_mean) + bias
        backbone.get_layer(f"{name}_bn").set_weights(
            [array(norm.weight), array(norm.bias), mean, array(norm.running_var)]
        )
    head = ours.head
    theirs.layers[2].set_weights([array(head.dense1.weight).T, array(head.dense1.bias)])
    norm = head.norm
    theirs.layers[3].set_weights(
        [array(norm.weight), array(norm.bias), array(norm.running_mean), array(norm.running_var)]
    )
    theirs.layers[5].set_weights([array(head.dense2.weight).T, array(head.dense2.bias)])
    theirs.layers[6].set_weights([array(head.logit.weight).T, array(head.logit.bias)])


def array(tensor):
    return tensor.detach().numpy()


def images():
    return np.random.default_rng(1).random((32, 32, 32, 3))


def probabilities(network, batch):
    return array(network(torch.from_numpy(batch).permute(0, 3, 1, 2)).sigmoid())


def test_the_model_has_the_parameters_that_keras_counts(twins):
    assert twins[1].count_params() == 24_146_305


def test_probabilities_agree_in_eval_mode(twins):
    ours, theirs = twins
    ours.eval()
    expected = theirs(images(), training=False).numpy()[:, 0]
    assert np.ptp(expected) > 1e-4  # not one constant for all
    assert np.abs(probabilities(ours, images()) - expected).max() < tolerances.FORWARD_EVAL_FLOAT64


def test_probabilities_and_running_statistics_agree_in_train_mode(twins):
    ours, theirs = twins
    ours.train()
    theirs_before = theirs.layers[0].get_layer("conv5_block3_3_bn").get_weights()
    expected = theirs(images(), training=True).numpy()[:, 0]
    assert np.abs(probabilities(ours, images()) - expected).max() < tolerances.FORWARD_TRAIN_FLOAT64
    theirs_after = theirs.layers[0].get_layer("conv5_block3_3_bn").get_weights()
    assert np.abs(theirs_after[3] - theirs_before[3]).max() > 1e-4  # the statistics did move
    for name, (_, norm) in convolutions(ours).items():
        variance = theirs.layers[0].get_layer(f"{name}_bn").get_weights()[3]
        assert np.abs(array(norm.running_var) - variance).max() < tolerances.RUNNING_STATISTICS_FLOAT64, name
    _, _, mean, variance = theirs.layers[3].get_weights()
    assert np.abs(array(ours.head.norm.running_mean) - mean).max() < tolerances.RUNNING_STATISTICS_FLOAT64
    assert np.abs(array(ours.head.norm.running_var) - variance).max() < tolerances.RUNNING_STATISTICS_FLOAT64


@pytest.mark.parametrize("fault", ["stride", "unbiased variance", "head eps", "momentum"])
def test_each_known_difference_would_be_seen(twins, fault):
    """A check of the check: each difference that is copied from Keras moves the result far past the tolerance."""
    ours, _ = twins
    broken = FakeImageNetwork(layout="keras", dropout=0.0).double()
    broken.load_state_dict(ours.state_dict())
    if fault == "stride":
        block = broken.backbone.layer2[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        broken.eval(), ours.eval()
        moved = np.abs(probabilities(broken, images()) - probabilities(ours, images())).max()
        assert moved > 1e3 * tolerances.FORWARD_EVAL_FLOAT64
        return
    if fault == "head eps":
        broken.head.norm.eps = 1e-5
        broken.train(), ours.train()
        moved = np.abs(probabilities(broken, images()) - probabilities(ours, images())).max()
        assert moved > 1e3 * tolerances.FORWARD_TRAIN_FLOAT64
        return
    norm, faulty = ours.head.norm, broken.head.norm
    if fault == "momentum":
        faulty.momentum = 0.1
    else:
        faulty.forward = lambda values: torch.nn.BatchNorm1d.forward(faulty, values)
    before = array(norm.running_var).copy()
    broken.train(), ours.train()
    probabilities(broken, images()), probabilities(ours, images())
    assert np.abs(array(norm.running_var) - before).max() > 0
    moved = np.abs(array(norm.running_var) - array(faulty.running_var)).max()
    assert moved > 1e3 * tolerances.RUNNING_STATISTICS_FLOAT64
