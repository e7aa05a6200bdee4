"""Adam's state under the names that Keras 3.15, Keras 2.11 to 2.15 and earlier ones write; no file is needed for that.

parity_tests/test_convert_mixed.py reads what Keras itself wrote.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.keras_file import KerasFile
from lightning_cifake.keras_io.optimizer import Moments, read_moments

WEIGHTS = {name: np.zeros(shape, np.float32) for name, shape in {
    "conv1_conv/kernel": (2, 2), "conv1_conv/bias": (2,), "logit/kernel": (2, 1), "logit/bias": (1,),
}.items()}  # fmt: skip
TRAINED = {name: name.replace("logit", "dense_3") for name in WEIGHTS}  # as the file calls them
RATE = 9.5e-4
STEPS = np.int64(40)


def config(**values: Any) -> dict[str, Any]:
    return {"class_name": "Adam", "config": {"learning_rate": RATE, "beta_1": 0.9, "beta_2": 0.999, **values}}


def moment(name: str, slot: int) -> np.ndarray:
    return np.full_like(WEIGHTS[name], 1 + 2 * list(WEIGHTS).index(name) + slot)


def pairs(first: str, second: str, names: Any = TRAINED) -> list[tuple[str, np.ndarray]]:
    """The moments weight by weight, under names made by two patterns."""
    found = []
    for name in names:
        label = TRAINED[name]
        for slot, pattern in enumerate((first, second)):
            found.append((pattern.format(label, label.replace("/", "_")), moment(name, slot)))
    return found


def slots(found: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """The same, all first moments before all second ones, as Keras before 2.11 lists them."""
    return found[::2] + found[1::2]


SCALARS = [("iteration", STEPS), ("learning_rate", np.float32(RATE))]
OUTER = [
    ("loss_scale_optimizer/iteration", np.int64(43)),
    ("loss_scale_optimizer/learning_rate", np.float32(1)),
    ("loss_scale_optimizer/step_counter", np.int64(3)),
    ("loss_scale_optimizer/dynamic_scale", np.float32(32768)),
]
KERAS_3 = "adam/sequential_{1}_momentum", "adam/sequential_{1}_velocity"
FORMS: dict[str, tuple[dict[str, Any], list[tuple[str, Any]]]] = {
    "Keras 3's own": (config(), [("", value) for _, value in [*SCALARS, *pairs("", "")]]),
    "Keras 3's .h5": (
        config(), [(f"adam/{name}", value) for name, value in SCALARS] + pairs(*KERAS_3),
    ),
    "mixed_float16's .h5": (
        {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": config(), "initial_scale": 32768.0}},
        OUTER + [(f"adam_1/{name}", value) for name, value in SCALARS]
        + pairs("loss_scale_optimizer/adam_1/{1}_momentum", "loss_scale_optimizer/adam_1/{1}_velocity"),
    ),
    "Keras 2.11 to 2.15": (
        config(decay=None),
        [("iteration:0", STEPS), ("current_learning_rate:0", np.float32(RATE)), *pairs("Adam/m/{0}:0", "Adam/v/{0}:0")],
    ),
    "Keras before 2.11": (config(decay=0.0), [("Adam/iter:0", STEPS), *slots(pairs("Adam/{0}/m:0", "Adam/{0}/v:0"))]),
    "the oldest with names": (
        config(decay=0.0),
        [("training/Adam/iter:0", STEPS), *slots(pairs("training/Adam/{0}/m:0", "training/Adam/{0}/v:0"))],
    ),
    "in another order": (
        config(), [(f"adam/{name}", value) for name, value in SCALARS] + pairs(*KERAS_3, reversed(TRAINED)),
    ),
}  # fmt: skip


def read(optimizer: Any, variables: list[tuple[str, Any]]) -> Moments | str | None:
    file = KerasFile(Path("model.h5"), legacy=True, optimizer=optimizer, optimizer_variables=variables)
    return read_moments(file, TRAINED, WEIGHTS)


@pytest.mark.parametrize("form", FORMS)
def test_the_state_is_taken_by_its_names_whatever_keras_wrote_it(form: str) -> None:
    found = read(*FORMS[form])
    assert isinstance(found, Moments), found
    assert (found.iterations, found.learning_rate) == (40, pytest.approx(RATE, rel=1e-6))
    for name in WEIGHTS:
        np.testing.assert_array_equal(found.first[name], moment(name, 0))
        np.testing.assert_array_equal(found.second[name], moment(name, 1))


@pytest.mark.parametrize(
    ("optimizer", "variables", "said"),
    [
        (None, SCALARS, "the file does not tell which optimizer it is of"),
        (config(), [], "there is none: no step was made, or Keras dropped it, as it does where it loads a model from"),
        (config(), [("", np.int64(0)), ("", np.float32(RATE))], "there is none: no step was made"),
        (config(), [("", np.int64(0)), ("", np.float32(RATE)), *pairs("", "")], "no step was made yet"),
        (config(), [*SCALARS, *pairs(*KERAS_3)[:4]], "it is not of the layers that can be trained now"),
        (config(), [*SCALARS, ("training/Adam/Variable:0", np.float32(0))], "training/Adam/Variable:0 is none that is"),
        (config(), [*SCALARS, *pairs("adam/{1}0_momentum", "adam/{1}0_velocity")], "not named as its layers are"),
        (config(), [*SCALARS, *pairs(*KERAS_3)[::2]], "its moments are not of the same weights"),
        (config(decay=1e-4), FORMS["Keras before 2.11"][1], "its decay is 0.0001, and here 0"),
        ({"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": {"class_name": "SGD", "config": {}}}},
         SCALARS, "it is of SGD, and training here continues with Adam"),
        ({"class_name": "LossScaleOptimizer", "config": {}}, SCALARS, "does not tell which optimizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_left_out_with_the_reason(optimizer: Any, variables: Any, said: str) -> None:
    found = read(optimizer, variables)
    assert isinstance(found, str)
    assert said in found


def test_a_model_that_was_never_compiled_has_none() -> None:
    assert read(None, []) is None


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, np.float32(40), "expected a number of steps"),
        (0, np.int64(-1), "expected a number of steps"),
        (1, np.float32(np.nan), "expected a learning rate above 0"),
        (2, np.full((2, 2), np.nan, np.float32), "NaN or infinite values in its optimizer's state"),
        (2, np.zeros((2, 2), np.int32), "expected floating-point numbers in its optimizer's state, got int32"),
        (3, np.full((2, 2), -1, np.float32), "mean squares are below 0"),
        (1, np.zeros(2, np.float32), "expected one number as its optimizer's learning rate"),
    ],
)  # fmt: skip
def test_values_that_no_adam_has_are_refused(place: int, value: Any, said: str) -> None:
    variables = list(FORMS["Keras 3's own"][1])
    variables[place] = ("", value)
    with pytest.raises(UserError, match=said):
        read(config(), variables)
