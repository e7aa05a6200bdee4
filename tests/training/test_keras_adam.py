"""KerasAdam against the formula in its docstring; parity_tests holds it against Keras itself."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.keras_adam import KerasAdam


def by_the_formula(start, gradients, lr, betas=(0.9, 0.999), epsilon=1e-7):
    weights, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    rounded1, rounded2 = (float(np.float32(beta)) for beta in betas)
    for t, gradient in enumerate(gradients, start=1):
        alpha = lr * math.sqrt(1 - rounded2**t) / (1 - rounded1**t)
        m += (gradient - m) * (1 - betas[0])
        v += (gradient**2 - v) * (1 - betas[1])
        weights -= m * alpha / (np.sqrt(v) + epsilon)
    return weights


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    exponent=st.integers(-12, 2),
    steps=st.integers(1, 40),
    lr=st.sampled_from([1e-4, 1e-3, 0.1]),
    fused=st.booleans(),
)
def test_steps_follow_kerass_formula(seed, exponent, steps, lr, fused):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=20)
    gradients = [rng.normal(size=20) * 10.0**exponent for _ in range(steps)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = KerasAdam([parameter], lr=lr, fused=fused)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    # float64 rounding of about 40 steps of size lr, against weights of size 1
    np.testing.assert_allclose(parameter.detach().numpy(), by_the_formula(start, gradients, lr), rtol=0, atol=1e-13)
    assert optimizer.steps_taken == steps


def test_torchs_own_adam_takes_other_steps_where_gradients_are_tiny():
    ours, theirs = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    ours.grad = theirs.grad = torch.tensor([1e-9], dtype=torch.float64)
    KerasAdam([ours]).step()
    torch.optim.Adam([theirs]).step()
    assert (theirs / ours).item() > 25


def test_a_step_leaves_the_learning_rate_for_the_scheduler():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = KerasAdam([parameter], lr=0.5)
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_state_goes_on_after_saving_and_loading():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, dtype=torch.float64)

    def stepped(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter

    whole = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    stepped(whole, KerasAdam([whole]), gradients)
    first = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = KerasAdam([first])
    stepped(first, optimizer, gradients[:3])
    second = torch.nn.Parameter(first.detach().clone())
    resumed = KerasAdam([second])
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(stepped(second, resumed, gradients[3:]), whole)


def test_parameter_groups_keep_their_own_learning_rates():
    slow, fast = (torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    optimizer = KerasAdam([{"params": [slow], "lr": 1e-3}, {"params": [fast], "lr": 1e-1}])
    slow.grad = fast.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(fast / slow, torch.full((2,), 100.0, dtype=torch.float64))


def test_a_closure_is_evaluated_and_its_loss_returned():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = KerasAdam([parameter])

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(1.0)
    assert parameter.item() < 1


@pytest.mark.parametrize("fused", [True, False])
def test_where_numbers_lie_in_memory_changes_no_step(fused):
    """torch's fused kernel goes through memory: moments in another order than their weight would be mixed up."""

    def channels_last(values):
        return values.clone().to(memory_format=torch.channels_last)

    torch.manual_seed(0)
    start, gradient, first, second = torch.rand(4, 3, 5, 3, 3, dtype=torch.float64)
    found = []
    for weight_as, gradient_as, moments_as in itertools.product([torch.clone, channels_last], repeat=3):
        weight = torch.nn.Parameter(weight_as(start))
        optimizer = KerasAdam([weight], fused=fused)
        weight.grad = torch.zeros_like(start)
        optimizer.step()  # makes the state
        saved = optimizer.state_dict()
        saved["state"][0].update(exp_avg=moments_as(first), exp_avg_sq=moments_as(second))
        optimizer.load_state_dict(saved)
        weight.grad = gradient_as(gradient)
        optimizer.step()
        state = optimizer.state[weight]
        found.append((weight.detach(), state["exp_avg"], state["exp_avg_sq"]))
        assert state["exp_avg"].stride() == weight.stride()
    for each in found:
        for value, expected in zip(each, found[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-15)


def test_a_step_that_a_gradient_scaler_leaves_out_is_not_counted():
    """The kernel would skip it on the device and the count there go back; Keras's corrections need the count."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = KerasAdam([parameter], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((parameter * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.steps_taken == int(optimizer.state[parameter]["step"]) == 2


def test_a_step_without_any_gradient_is_not_counted():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = KerasAdam([parameter])
    optimizer.step()
    assert optimizer.steps_taken == 0


def test_the_count_goes_on_from_a_loaded_state():
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    first, second = (KerasAdam([parameter]) for parameter in parameters)
    for _ in range(3):
        parameters[0].grad = torch.ones(3)
        first.step()
    assert second.steps_taken == 0
    second.load_state_dict(first.state_dict())
    assert second.steps_taken == 3


def test_what_checkpoints_of_before_record_of_it_is_still_taken():
    """They hold every argument with its value: ``fused`` was None where nobody chose."""
    record = {"class_path": "lightning_cifake.training.keras_adam.KerasAdam", "init_args": {"fused": None}}
    (optimizer,), _ = FakeImageClassifier(network="meso4", optimizer=record).configure_optimizers()
    assert optimizer.defaults["fused"] is True
