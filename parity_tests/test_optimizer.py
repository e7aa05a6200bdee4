"""KerasAdam takes Keras's steps, on gradients of every size and tensors of every shape; the schedule is Keras's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.keras_adam import KerasAdam
from parity_tests import tolerances

RUNG = "5 optimizer"
SHAPES = (
    (50, 7),
    (3, 3, 8, 16),
    (64,),
    (),
    (1,),
    (256, 1),
)  # a matrix, a kernel, a bias, a number, a lone one, a logit
STEPS = 100


def gradients_of(rng, shape):
    """From 1e-11 to 1: below 1e-7 is where epsilon decides."""
    return [np.asarray(rng.normal(size=shape) * 10 ** rng.uniform(-11, 0, size=shape)) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def problem():
    """(start, gradients of every step) of each shape."""
    rng = np.random.default_rng(0)
    return [(np.asarray(rng.normal(size=shape)), gradients_of(rng, shape)) for shape in SHAPES]


@pytest.fixture(scope="module")
def keras_weights(keras_float64, problem):
    """Where Keras's Adam, at the paper's learning rate, takes each tensor in 100 float64 steps."""
    keras = keras_float64
    variables = [keras.Variable(start, dtype="float64") for start, _ in problem]
    optimizer = keras.optimizers.Adam(learning_rate=1e-3)
    optimizer.build(variables)
    for step in range(STEPS):
        optimizer.apply([keras.ops.convert_to_tensor(gradients[step]) for _, gradients in problem], variables)
    return [variable.numpy() for variable in variables]


def run(problem, make_optimizer):
    """Our side: the weights after 100 steps of the optimizer that is made from the list of parameters."""
    parameters = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start, _ in problem]
    optimizer = make_optimizer(parameters)
    for step in range(STEPS):
        for parameter, (_, gradients) in zip(parameters, problem, strict=True):
            parameter.grad = torch.from_numpy(gradients[step].copy())
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


def furthest(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_100_steps_on_fixed_gradients_end_at_the_same_weights(claim, keras_weights, problem, fused):
    ours = run(problem, lambda parameters: KerasAdam(parameters, lr=1e-3, fused=fused))
    kernel = "fused" if fused else "unfused"
    claim(
        f"100 Adam steps on fixed gradients of 1e-11 to 1, six shapes, {kernel} kernel: largest difference of a weight",
        furthest(ours, keras_weights),
        tolerances.ADAM_FLOAT64,
    )


def test_torchs_own_adam_is_seen(claim, keras_weights, problem):
    moved = furthest(run(problem, lambda parameters: torch.optim.Adam(parameters, lr=1e-3)), keras_weights)
    claim.fault("torch.optim.Adam with its defaults instead of KerasAdam", moved, tolerances.ADAM_FLOAT64)


def test_torchs_epsilon_in_kerass_formula_is_seen(claim, keras_weights, problem):
    moved = furthest(run(problem, lambda parameters: KerasAdam(parameters, lr=1e-3, epsilon=1e-8)), keras_weights)
    claim.fault("Adam's epsilon 1e-8 instead of 1e-7, formula as Keras's", moved, tolerances.ADAM_FLOAT64)


def test_betas_that_are_not_rounded_to_float32_are_seen(claim, keras_weights, problem, monkeypatch):
    """What Keras computes is Adam with beta2 = 0.9990000128746 in alpha, even in float64."""
    monkeypatch.setattr("lightning_cifake.training.keras_adam.np.float32", np.float64)
    moved = furthest(run(problem, lambda parameters: KerasAdam(parameters, lr=1e-3)), keras_weights)
    claim.fault(
        "alpha from Adam's betas in float64, not rounded to float32 as in Keras", moved, tolerances.ADAM_FLOAT64
    )


EPOCHS = 10


def kerass_rates(keras):
    """What the paper's LearningRateScheduler leaves in the optimizer, epoch by epoch."""
    optimizer = keras.optimizers.Adam(learning_rate=0.001)
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.95)
    callback.set_model(SimpleNamespace(optimizer=optimizer))
    rates = []
    for epoch in range(EPOCHS):
        callback.on_epoch_begin(epoch)
        rates.append(float(optimizer.learning_rate))
    return np.array(rates)


@pytest.fixture(scope="module")
def our_rates():
    """What the classifier's own optimizer and scheduler train at."""
    [optimizer], [scheduler] = FakeImageClassifier().configure_optimizers()
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def apart(ours, theirs):
    return np.abs(ours / theirs - 1).max()


def test_the_learning_rate_of_each_epoch_is_kerass(claim, keras_float64, our_rates):
    theirs = kerass_rates(keras_float64)
    claim("learning rate of 10 epochs, float64, relative", apart(our_rates, theirs), tolerances.SCHEDULE_FLOAT64)
    late = our_rates / 0.95
    text = "the first epoch not yet decayed: learning rate, relative"
    claim.fault(text, apart(late, theirs), tolerances.SCHEDULE_FLOAT64)


def test_kerass_float32_variable_rounds_the_learning_rate_and_no_more(claim, keras_float64, our_rates):
    keras_float64.backend.set_floatx("float32")
    try:
        theirs = kerass_rates(keras_float64)
    finally:
        keras_float64.backend.set_floatx("float64")
    text = "learning rate of 10 epochs, Keras's in its float32 variable, relative"
    claim(text, apart(our_rates, theirs), tolerances.SCHEDULE_FLOAT32)
    assert apart(our_rates, theirs) > tolerances.SCHEDULE_FLOAT64  # it was float32
