"""Adam's state in a Keras file, of Keras 3.15 or Keras 2: taken where training can resume from it, else the reason."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.keras_file import KerasFile

# what KerasAdam computes; another value of these is another optimizer
ADAM: dict[str, tuple[Any, ...]] = {
    "beta_1": (0.9,),
    "beta_2": (0.999,),
    "epsilon": (1e-7,),
    "amsgrad": (False,),
    "decay": (0, None),  # of Keras 2: a schedule of steps
    "weight_decay": (None, False, 0),
    "clipnorm": (None,),
    "global_clipnorm": (None,),
    "clipvalue": (None,),
    "use_ema": (False, None),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
}
LOSS_SCALE = "LossScaleOptimizer"  # of mixed_float16; it hands its inner optimizer gradients that are not scaled
OF_THE_LOSS_SCALE = ("step_counter", "dynamic_scale", "current_loss_scale", "good_steps")
MOST_STEPS = 2**53


class Adam(NamedTuple):
    """``iterations`` updates were made; the moments by the names of our parameters."""

    iterations: int
    learning_rate: float
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]


class Moments(NamedTuple):
    """``first`` and ``second`` moments by Keras's names of the weights, in keras_weights's words."""

    iterations: int
    learning_rate: float
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]


class _Sorted(NamedTuple):
    """The variables of an optimizer by what they are; ``owners`` name the weights of the moments, "" without names."""

    iterations: Any
    learning_rate: Any
    first: list[Any]
    second: list[Any]
    owners: list[str]


def read_moments(file: KerasFile, trained: Mapping[str, str], weights: Mapping[str, Any]) -> Moments | str | None:
    """The optimizer's state, the reason why it cannot be taken, or None where the model was never compiled.

    Args:
        file: open.
        trained: the weights that were trained, in Keras's order -> what the file calls each, ``layer/variable``.
        weights: by the same names, with shapes.

    Raises:
        UserError: values that no Adam has.
    """
    if file.optimizer is None:
        return "the file does not tell which optimizer it is of" if file.optimizer_variables else None
    reason = _not_our_adam(_inner(file.optimizer))
    if reason is not None:
        return reason if file.optimizer_variables else None
    found = _sort(file.optimizer_variables)
    if isinstance(found, str):
        return found
    if found.iterations is None or not found.first:
        return "there is none: no step was made, or Keras dropped it, as it does where it loads a model from .h5"
    iterations = _scalar(file, found.iterations, "iteration")
    if found.iterations.dtype.kind not in "iu" or not 0 <= iterations < MOST_STEPS:
        raise UserError(f"{file.name}: expected a number of steps in its optimizer, got {iterations}")
    if iterations == 0:
        return "no step was made yet"
    pairs = _in_order(found, trained)
    if isinstance(pairs, str):
        return pairs
    if [moments.shape for pair in pairs for moments in pair] != [weights[n].shape for n in trained for _ in range(2)]:
        return "it is not of the layers that can be trained now"
    rate = _learning_rate(file, found)
    first = {name: np.asarray(pair[0]) for name, pair in zip(trained, pairs, strict=True)}
    second = {name: np.asarray(pair[1]) for name, pair in zip(trained, pairs, strict=True)}
    for value in (*first.values(), *second.values()):
        if value.dtype not in (np.float16, np.float32, np.float64):
            raise UserError(f"{file.name}: expected floating-point numbers in its optimizer's state, got {value.dtype}")
        if not np.isfinite(value).all():
            raise UserError(f"{file.name}: NaN or infinite values in its optimizer's state")
    if any((value < 0).any() for value in second.values()):
        raise UserError(f"{file.name}: its optimizer's mean squares are below 0")
    return Moments(int(iterations), rate, first, second)


def _inner(optimizer: Any) -> Any:
    """The optimizer inside one that scales its loss."""
    for _ in range(3):
        config = optimizer.get("config") if isinstance(optimizer, dict) else None
        if not isinstance(config, dict) or optimizer.get("class_name") != LOSS_SCALE:
            break
        optimizer = config.get("inner_optimizer") or config.get("optimizer")
    return optimizer


def _not_our_adam(optimizer: Any) -> str | None:
    if not isinstance(optimizer, dict):
        return "the file does not tell which optimizer it is of"
    kind, config = optimizer.get("class_name"), optimizer.get("config") or {}
    if kind != "Adam" or not isinstance(config, dict):
        return f"it is of {kind}, and training here continues with Adam"
    if not isinstance(config.get("learning_rate"), int | float):
        return "its learning rate follows a schedule of steps, and here of epochs"
    for name, values in ADAM.items():
        if name in config and config[name] not in values:
            return f"its {name} is {config[name]}, and here {values[0]}"
    return None


def _sort(variables: list[tuple[str, Any]]) -> _Sorted | str:
    if not any(name for name, _ in variables):  # Keras 3's own format: by place alone
        values = [value for _, value in variables]
        if len(values) < 2:
            return _Sorted(None, None, [], [], [])
        return _Sorted(values[0], values[1], values[2::2], values[3::2], [])
    iterations = learning_rate = None
    moments: dict[str, dict[str, Any]] = {"first": {}, "second": {}}
    for name, value in variables:
        parts = name.split(":")[0].split("/")
        last = parts[-1]
        if last in ("iter", "iteration", "iterations"):
            iterations = value  # of the one inside, which comes last
        elif last in ("learning_rate", "current_learning_rate"):
            learning_rate = value
        elif last.endswith(("_momentum", "_velocity")):  # Keras 3: adam/conv1_conv_kernel_momentum
            owner, _, slot = last.rpartition("_")
            moments["first" if slot == "momentum" else "second"][owner] = value
        elif last in ("m", "v"):  # Keras 2: Adam/conv1_conv/kernel/m:0
            moments["first" if last == "m" else "second"]["/".join(parts[:-1])] = value
        elif len(parts) > 2 and parts[1] in ("m", "v"):  # Keras 2.11 and later: Adam/m/conv1_conv/kernel:0
            moments["first" if parts[1] == "m" else "second"]["/".join(parts[2:])] = value
        elif last not in OF_THE_LOSS_SCALE:
            return f"its variable {name} is none that is known here"
    first, second = moments["first"], moments["second"]
    if list(first) != list(second):
        return "its moments are not of the same weights"
    return _Sorted(iterations, learning_rate, list(first.values()), list(second.values()), list(first))


def _in_order(found: _Sorted, trained: Mapping[str, str]) -> list[tuple[Any, Any]] | str:
    """A pair of moments for each trained weight; by their names where they have names."""
    pairs = list(zip(found.first, found.second, strict=False))
    if len(found.first) != len(found.second) or len(pairs) != len(trained):
        return "it is not of the layers that can be trained now"
    if not found.owners:
        return pairs
    owners = [owner.replace("/", "_") for owner in found.owners]
    labels = [label.replace("/", "_") for label in trained.values()]
    if all(_ends(owner, label) for owner, label in zip(owners, labels, strict=True)):
        return pairs
    ordered = []
    for label in labels:
        at = [number for number, owner in enumerate(owners) if _ends(owner, label)]
        if len(at) != 1:
            return f"its variables are not named as its layers are ({found.owners[0]})"
        ordered.append(pairs[at[0]])
    return ordered


def _ends(owner: str, label: str) -> bool:
    return owner == label or owner.endswith(f"_{label}")


def _learning_rate(file: KerasFile, found: _Sorted) -> float:
    """As it was when the file was written: a variable, or in Keras 2's files the configuration's."""
    if found.learning_rate is not None:
        rate = _scalar(file, found.learning_rate, "learning rate")
    else:
        rate = float(_inner(file.optimizer)["config"]["learning_rate"])
    if not math.isfinite(rate) or rate <= 0:
        raise UserError(f"{file.name}: expected a learning rate above 0 in its optimizer, got {rate}")
    return rate


def _scalar(file: KerasFile, value: Any, what: str) -> float:
    if value.shape != ():
        raise UserError(f"{file.name}: expected one number as its optimizer's {what}, got shape {value.shape}")
    number = value[()]
    return int(number) if value.dtype.kind in "iu" else float(number)
