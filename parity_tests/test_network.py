"""The network is the one that keras.applications and the paper's head build: same numbers in, same numbers out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_cifake.assessment.gradcam import chosen_layer, coarse_cam
from lightning_cifake.networks.resnet50 import ResNet50Detector
from parity_tests import tolerances
from parity_tests.twins import (
    STAGES,
    array,
    convolutions,
    copy_weights,
    largest_difference,
    load_theirs,
    our_stages,
    our_weights,
    perturb,
    published_model,
    their_grad_cam,
    their_gradients,
    their_stages,
    their_weights,
    to_ours,
)

RUNG = "3 activations"
GRADIENTS = "4 gradients"


@pytest.fixture(scope="module")
def twins(keras_float64):
    """(ours, theirs) in float64, with the same perturbed weights; dropout off, it draws its own numbers."""
    torch.manual_seed(0)
    ours = ResNet50Detector(layout="keras", dropout=0.0).double()
    perturb(ours)
    theirs = published_model(keras_float64, dropout=False)
    copy_weights(ours, theirs)
    return ours, theirs


@pytest.fixture(scope="module")
def batch(real_images):
    """((32, 32, 32, 3) float64 in [0, 1], (32,) float64 labels)."""
    images, labels = real_images
    return images[:32] / 255, labels[:32].astype(np.float64)


def probabilities(network, images):
    return array(network(to_ours(images)).sigmoid())


def test_the_model_has_the_parameters_that_keras_counts(twins, claim):
    claim.equal("parameters that Keras counts in the published model", twins[1].count_params(), 24_146_305)


def test_every_stage_agrees_in_eval_mode(twins, batch, claim):
    ours, theirs = twins
    ours.eval()
    expected = their_stages(theirs, batch[0], training=False)
    found = our_stages(ours, batch[0])
    for stage, values in expected.items():
        claim(
            f"{stage}, eval mode, float64, perturbed weights, relative to its largest value",
            relative(found[stage], values),
            tolerances.STAGE_FLOAT64,
        )
    prob = expected["probability"]
    assert np.ptp(prob) > 1e-4  # not one constant for all
    claim(
        "probability, eval mode, float64, perturbed weights",
        np.abs(found["probability"] - prob).max(),
        tolerances.FORWARD_EVAL_FLOAT64,
    )


def test_every_stage_and_the_running_statistics_agree_in_train_mode(twins, batch, claim):
    ours, theirs = twins
    ours.train()
    before = theirs.layers[0].get_layer("conv5_block3_3_bn").get_weights()
    expected = their_stages(theirs, batch[0], training=True)
    found = our_stages(ours, batch[0])
    for stage, values in expected.items():
        claim(
            f"{stage}, train mode, float64, perturbed weights, relative to its largest value",
            relative(found[stage], values),
            tolerances.STAGE_FLOAT64,
        )
    claim(
        "probability, train mode, float64, perturbed weights",
        np.abs(found["probability"] - expected["probability"]).max(),
        tolerances.FORWARD_TRAIN_FLOAT64,
    )
    after = theirs.layers[0].get_layer("conv5_block3_3_bn").get_weights()
    assert np.abs(after[3] - before[3]).max() > 1e-4  # the statistics did move
    ours_now, theirs_now = our_weights(ours), their_weights(theirs)
    running = [name for name in ours_now if "running" in name]
    claim(
        "running means and variances of all 54 batch norms after a step, float64",
        max(np.abs(ours_now[name] - theirs_now[name]).max() for name in running),
        tolerances.RUNNING_STATISTICS_FLOAT64,
        rung=GRADIENTS,
    )
    assert len(running) == 2 * 54


def test_the_loss_and_every_gradient_agree(twins, batch, claim, tf):
    ours, theirs = twins
    ours.train()
    images, labels = batch
    loss = F.binary_cross_entropy_with_logits(ours(to_ours(images)), torch.from_numpy(labels))
    ours.zero_grad()
    loss.backward()
    their_loss, expected, biases = their_gradients(tf, theirs, images, labels)
    claim("loss, float64", abs(loss.item() - their_loss), tolerances.LOSS_FLOAT64, rung=GRADIENTS)
    found = {name: array(parameter.grad) for name, parameter in ours.named_parameters()}
    assert found.keys() == expected.keys()
    worst = max(found, key=lambda name: distance(found[name], expected[name]))
    claim(
        f"gradients of all {len(found)} parameters, float64: largest relative distance (of {worst})",
        distance(found[worst], expected[worst]),
        tolerances.GRADIENT_FLOAT64,
        rung=GRADIENTS,
    )
    kernels = {name: np.linalg.norm(expected[name]) for name in expected if "conv" in name}
    claim(
        "gradients of Keras's convolution biases, which ours have not: largest, relative to the largest of a kernel",
        max(np.abs(bias).max() for bias in biases.values()) / max(kernels.values()),
        tolerances.GRADIENT_FLOAT64,
        rung=GRADIENTS,
    )


CAM_STAGE = "stage 2"  # the last whose map is at least 8x8 at 32 px


def test_the_maps_of_grad_cam_agree(twins, batch, claim, tf):
    ours, theirs = twins
    expected = their_grad_cam(tf, theirs, batch[0], CAM_STAGE)
    claim.equal(
        "stage that Grad-CAM takes of the published network",
        chosen_layer(ours.eval(), 32),
        f"backbone.{STAGES[CAM_STAGE][0]}",
        rung=GRADIENTS,
    )
    found = array(coarse_cam(ours, to_ours(batch[0])))
    assert found.shape == (32, 8, 8) and np.ptp(found, axis=(1, 2)).min() > 0  # a map, not one value all over
    claim(
        "Grad-CAM by captum and by GradientTape, eval mode, float64, perturbed weights, relative to its largest value",
        relative(found, expected),
        tolerances.MAP_FLOAT64,
        rung=GRADIENTS,
    )
    claim.fault(
        "Grad-CAM of the probability in place of the logit",
        relative(found, their_grad_cam(tf, theirs, batch[0], CAM_STAGE, "probability")),
        tolerances.MAP_FLOAT64,
        rung=GRADIENTS,
    )


def test_a_trained_model_gives_the_same_in_float64(keras_float64, trained_model, batch, claim):
    """Trained weights have statistics that perturbed ones have not: dead units, small variances."""
    theirs = published_model(keras_float64, dropout=False)
    theirs.set_weights(trained_model.get_weights())
    ours = ResNet50Detector(layout="keras", dropout=0.0).double()
    load_theirs(ours, theirs)
    for mode, training in (("eval", False), ("train", True)):
        ours.train(training)
        expected, found = their_stages(theirs, batch[0], training), our_stages(ours, batch[0])
        claim(
            f"every stage of a trained model, {mode} mode, float64, relative to its largest value",
            max(relative(found[stage], expected[stage]) for stage in expected),
            tolerances.STAGE_FLOAT64,
        )
    claim(
        "all weights of a trained model after that step",
        largest_difference(our_weights(ours), their_weights(theirs)),
        tolerances.RUNNING_STATISTICS_FLOAT64,
    )


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def distance(found, expected):
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300)


# A check of the checks: each difference that is copied from Keras moves the result far past the tolerance.


@pytest.fixture
def broken(twins):
    """Ours once more, to break."""
    ours, _ = twins
    copy = ResNet50Detector(layout="keras", dropout=0.0).double()
    copy.load_state_dict(ours.state_dict())
    return copy


def test_a_stride_on_the_wrong_convolution_is_seen(twins, broken, batch, claim):
    block = broken.backbone.layer2[0]
    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    claim.fault(
        "stride of a down-sampling block on its 3x3 convolution",
        moved(broken.eval(), twins[0].eval(), batch),
        tolerances.FORWARD_EVAL_FLOAT64,
    )


@pytest.mark.parametrize("where", ["backbone", "head"])
def test_another_batch_norm_epsilon_is_seen(twins, broken, batch, claim, where):
    if where == "head":
        broken.head.norm.eps = 1e-5
    else:
        for _, norm in convolutions(broken).values():
            norm.eps = 1e-5  # torch's, instead of 1.001e-5
    claim.fault(
        f"torch's epsilon of 1e-5 in the {where}'s batch norm",
        moved(broken.eval(), twins[0].eval(), batch),
        tolerances.FORWARD_EVAL_FLOAT64,
        factor=100,  # Keras's 1.001e-5 is close by
    )


@pytest.mark.parametrize("fault", ["momentum", "unbiased variance"])
def test_another_running_statistic_is_seen(twins, broken, batch, claim, fault):
    norm, faulty = twins[0].head.norm, broken.head.norm
    if fault == "momentum":
        faulty.momentum = 0.1
    else:
        faulty.forward = lambda values: torch.nn.BatchNorm1d.forward(faulty, values)
    broken.train(), twins[0].train()
    probabilities(broken, batch[0]), probabilities(twins[0], batch[0])
    claim.fault(
        {"momentum": "torch's momentum of 0.1", "unbiased variance": "torch's unbiased running variance"}[fault],
        np.abs(array(norm.running_var) - array(faulty.running_var)).max(),
        tolerances.RUNNING_STATISTICS_FLOAT64,
        rung=GRADIENTS,
    )


def test_a_swapped_pair_of_square_kernels_is_seen(twins, broken, batch, claim):
    """The 3x3 convolutions of two blocks of a stage have one shape: no check of shapes would find them exchanged."""
    first, second = broken.backbone.layer3[1].conv2.weight, broken.backbone.layer3[2].conv2.weight
    assert first.shape == second.shape
    with torch.no_grad():
        kept = first.clone()
        first.copy_(second), second.copy_(kept)
    claim.fault(
        "two 3x3 kernels of equal shape exchanged",
        moved(broken.eval(), twins[0].eval(), batch),
        tolerances.FORWARD_EVAL_FLOAT64,
    )


def test_a_transposed_square_kernel_is_seen(twins, broken, batch, claim):
    """The 3x3 convolutions have as many channels in as out: a kernel with the two exchanged has the same shape."""
    with torch.no_grad():
        weight = broken.backbone.layer1[0].conv2.weight
        weight.copy_(weight.transpose(0, 1).clone())
    claim.fault(
        "input and output channels of a 3x3 kernel exchanged",
        moved(broken.eval(), twins[0].eval(), batch),
        tolerances.FORWARD_EVAL_FLOAT64,
    )


def test_flipped_classes_are_seen(twins, batch, claim):
    """FAKE is 0 and REAL 1, so the output is the probability of REAL; the other way round it is 1 - p."""
    images, labels = batch
    logits = twins[0].eval()(to_ours(images))
    right = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))
    flipped = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(1 - labels))
    claim.fault(
        "FAKE and REAL exchanged: the loss", abs(right - flipped).item(), tolerances.LOSS_FLOAT64, rung=GRADIENTS
    )


def moved(broken, ours, batch):
    return np.abs(probabilities(broken, batch[0]) - probabilities(ours, batch[0])).max()
