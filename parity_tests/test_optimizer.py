"""KerasAdam takes Keras's steps, on gradients of every size."""

import numpy as np
import pytest
import torch

from lightning_cifake.model.keras_adam import KerasAdam
from parity_tests import tolerances


@pytest.mark.parametrize("fused", [True, False])
def test_100_steps_on_fixed_gradients_end_at_the_same_weights(keras_float64, fused):
    keras = keras_float64
    rng = np.random.default_rng(0)
    start = rng.normal(size=(50, 7))
    # from 1e-11 to 1: below 1e-7 is where epsilon decides
    gradients = [rng.normal(size=start.shape) * 10 ** rng.uniform(-11, 0, size=start.shape) for _ in range(100)]

    theirs = keras.Variable(start, dtype="float64")
    optimizer = keras.optimizers.Adam(learning_rate=1e-3)
    optimizer.build([theirs])
    ours = torch.nn.Parameter(torch.from_numpy(start.copy()))
    adam = KerasAdam([ours], lr=1e-3, fused=fused)
    plain = torch.nn.Parameter(torch.from_numpy(start.copy()))
    torch_adam = torch.optim.Adam([plain], lr=1e-3)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [theirs])
        for parameter, stepper in ((ours, adam), (plain, torch_adam)):
            parameter.grad = torch.from_numpy(gradient.copy())
            stepper.step()
    expected = theirs.numpy()
    assert np.abs(ours.detach().numpy() - expected).max() < tolerances.ADAM_FLOAT64
    assert (
        np.abs(plain.detach().numpy() - expected).max() > 1e6 * tolerances.ADAM_FLOAT64
    )  # torch's own Adam is another
