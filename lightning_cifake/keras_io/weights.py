"""Keras's weights <-> this network's state_dict: a map of names, consumed to the last entry both ways.

Knows neither TensorFlow nor Lightning: Keras's side is a dictionary of arrays, named ``<layer>/<variable>`` as in
``conv1_conv/kernel``. A backbone layer has its name in keras.applications, a head layer its name in the network's head.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_cifake.errors import UserError

# stage: torchvision's name and the number of blocks
STAGES = {"conv2": ("layer1", 3), "conv3": ("layer2", 4), "conv4": ("layer3", 6), "conv5": ("layer4", 3)}
# a block's convolutions and batch norms in the order in which Keras lists them; 0 is the shortcut of a stage's first
FIRST_BLOCK = {
    "1": ("conv1", "bn1"), "2": ("conv2", "bn2"), "0": ("downsample.0", "downsample.1"), "3": ("conv3", "bn3"),
}  # fmt: skip
BLOCK = {"1": ("conv1", "bn1"), "2": ("conv2", "bn2"), "3": ("conv3", "bn3")}

HWIO_TO_OIHW = (3, 2, 0, 1)
IN_OUT_TO_OUT_IN = (1, 0)
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
MOVING = ("moving_mean", "moving_variance")


class Pair(NamedTuple):
    """One weight on both sides: ours is Keras's with its axes in the order ``axes``."""

    keras: str
    ours: str
    axes: tuple[int, ...] = (0,)

    @property
    def trained(self) -> bool:
        return self.keras.rpartition("/")[2] not in MOVING

    def to_ours(self, value: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value.transpose(self.axes)))

    def to_keras(self, value: Tensor) -> np.ndarray:
        return np.ascontiguousarray(value.detach().cpu().numpy().transpose(np.argsort(self.axes)))

    def keras_shape(self, shape: Iterable[int]) -> tuple[int, ...]:
        ours = tuple(shape)
        return tuple(ours[self.axes.index(axis)] for axis in range(len(ours)))


def backbone_layers() -> dict[str, tuple[str, str]]:
    """Keras's name of every convolution, less its ``_conv`` -> our convolution and the batch norm behind it.

    In the order in which Keras lists its convolutions and, apart from them, its batch norms.
    """
    layers = {"conv1": ("conv1", "bn1")}
    for stage, (name, blocks) in STAGES.items():
        for block in range(blocks):
            for step, (convolution, norm) in (BLOCK if block else FIRST_BLOCK).items():
                place = f"{name}.{block}."
                layers[f"{stage}_block{block + 1}_{step}"] = (place + convolution, place + norm)
    return {theirs: (f"backbone.{conv}", f"backbone.{norm}") for theirs, (conv, norm) in layers.items()}


def backbone_pairs() -> list[Pair]:
    pairs = []
    for theirs, (convolution, norm) in backbone_layers().items():
        pairs.append(Pair(f"{theirs}_conv/kernel", f"{convolution}.weight", HWIO_TO_OIHW))
        pairs += [Pair(f"{theirs}_bn/{variable}", f"{norm}.{ours}") for variable, ours in NORM.items()]
    return pairs


def folded_biases() -> dict[str, str]:
    """Keras's convolution biases -> our running mean that carries them: ours have none, batch norm takes it away."""
    return {f"{theirs}_conv/bias": f"{norm}.running_mean" for theirs, (_, norm) in backbone_layers().items()}


def head_pairs(names: Iterable[str]) -> list[Pair]:
    """The pairs of a head's entries in a state_dict; what they are is told by the names beside them."""
    names = [name for name in names if name.startswith("head.")]
    pairs = []
    for name in names:
        _, layer, variable = name.split(".")
        if variable == "num_batches_tracked":
            continue
        is_norm = f"head.{layer}.running_mean" in names
        if is_norm:
            theirs = next(theirs for theirs, ours in NORM.items() if ours == variable)
            pairs.append(Pair(f"{layer}/{theirs}", name))
        elif variable == "weight":
            pairs.append(Pair(f"{layer}/kernel", name, IN_OUT_TO_OUT_IN))
        else:
            pairs.append(Pair(f"{layer}/{variable}", name))
    return pairs


def pairs_of(state: Mapping[str, Any]) -> list[Pair]:
    """Every weight of a network, by the names of its state_dict."""
    backbone = backbone_pairs() if any(name.startswith("backbone.") for name in state) else []
    pairs = [*backbone, *head_pairs(state)]
    left = set(state) - {pair.ours for pair in pairs}
    left = {name for name in left if not name.endswith(".num_batches_tracked")}  # only a momentum of None reads it
    left |= {pair.ours for pair in pairs if pair.ours not in state}
    assert not left, f"names without a pair: {sorted(left)}"
    return pairs


def expected_shapes(like: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Keras's name and shape of every weight of the network whose state_dict is ``like``."""
    shapes = {pair.keras: pair.keras_shape(like[pair.ours].shape) for pair in pairs_of(like)}
    biases = {theirs: tuple(like[ours].shape) for theirs, ours in folded_biases().items() if ours in like}
    return {**shapes, **biases}


def to_state_dict(
    weights: Mapping[str, Any], like: Mapping[str, Tensor], source: str, label: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Keras's weights as a state_dict, in their own precision.

    Args:
        weights: Keras's name -> something with a shape and a dtype that numpy can read; read once the shapes fit.
        like: the state_dict of the network they are for, of which only names and shapes are looked at.
        source: what the errors call the weights.
        label: what the errors call one of them.

    Raises:
        UserError: names every weight that is missing, left over, of another shape, no floating-point number, or not
            finite, and variances below 0.
    """
    _check_names_and_shapes(weights, expected_shapes(like), source, label)
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    broken = [label(name) for name, value in arrays.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(f"{source}: NaN or infinite weights in {', '.join(broken)}")
    below = [label(n) for n, v in arrays.items() if n.endswith("/moving_variance") and (v < 0).any()]
    if below:
        raise UserError(f"{source}: a variance below 0 in {', '.join(below)}")
    biases = folded_biases()
    carried = {ours: arrays[theirs] for theirs, ours in biases.items() if theirs in arrays}
    state: dict[str, Tensor] = {}
    for pair in pairs_of(like):
        value = arrays[pair.keras]
        # batch norm subtracts its mean from the biased maps: without the bias, the mean is smaller by it
        state[pair.ours] = pair.to_ours(value - carried[pair.ours] if pair.ours in carried else value)
    return {name: state.get(name, torch.zeros((), dtype=torch.int64)) for name in like}


def _check_names_and_shapes(
    weights: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], source: str, label: Callable[[str], str]
) -> None:
    problems = [f"missing {label(name)} {shape}" for name, shape in expected.items() if name not in weights]
    problems += [f"unexpected {label(name)} {tuple(v.shape)}" for name, v in weights.items() if name not in expected]
    for name, shape in expected.items():
        if name not in weights:
            continue
        got = tuple(weights[name].shape)
        if got != shape:
            problems.append(f"{label(name)} expected {shape}, got {got}")
        elif weights[name].dtype not in (np.float16, np.float32, np.float64):
            problems.append(f"{label(name)} expected floating-point numbers, got {weights[name].dtype}")
    if problems:
        raise UserError(f"{source}: its weights do not fit: {'; '.join(problems)}")


def to_keras_weights(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A network's state_dict as Keras's weights; the biases of the convolutions are zero."""
    weights = {pair.keras: pair.to_keras(state[pair.ours]) for pair in pairs_of(state)}
    for theirs, ours in folded_biases().items():
        weights[theirs] = np.zeros_like(state[ours].detach().cpu().numpy())
    return weights


def moments_to_keras(moments: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Adam's moments of the trained parameters of ``state`` as of Keras's; the convolutions' biases have none here."""
    pairs = {pair.ours: pair for pair in pairs_of(state)}
    return {pairs[name].keras: pairs[name].to_keras(value) for name, value in moments.items()}
