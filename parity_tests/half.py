"""The two systems in half precision, each trained and asked as its users do, and how far they are from float64.

Half precision is what goes by that name in each framework. Ours: Lightning's plugin of ``--trainer.precision
bf16-mixed`` or ``16-mixed``. Theirs: ``tf_reference``'s model under Keras's policy ``mixed_bfloat16`` or
``mixed_float16``. Both keep float32 weights, compute convolutions and dense layers in 16 bits, take batch norm's
statistics in float32, and scale the loss in fp16. On a CPU Lightning's Trainer takes bf16 where it is asked for
``16-mixed``; handed the plugin itself, as here, it computes fp16 there too. Ours computes on a GPU as well
(half_on_a_gpu.py).

The truth is ours in float64, which test_network.py and test_training.py hold against TensorFlow's.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins import DoublePrecision, MixedPrecision, Precision
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_cifake import FakeImageClassifier
from lightning_cifake.data.datamodule import Batch
from lightning_cifake.networks.logit import logits_of
from lightning_cifake.networks.resnet50 import FEATURES
from parity_tests.reference_run import traced_once
from parity_tests.tolerances import Tolerance
from parity_tests.twins import array, published_model, to_ours, under_our_names
from tf_reference.benchmark import POLICIES

BF16, FP16, TRUTH = "bf16-mixed", "16-mixed", "64-true"
NAMES = {BF16: "bf16", FP16: "fp16"}
LEARNING_RATE = 1e-5
"""The published schedule's after 90 epochs. At 1e-4 a course is chaotic even from a well-trained model: within 40 steps
in float64 the last bit of one kernel becomes half of what bf16 makes of all. At 1e-5 it stays below a tenth of that."""
STEPS = 200  # of a course
SETTLED = 2.0**10
"""A loss scale that a run has come down to by then: the two begin at different ones, and skip steps."""
TRIES = 24  # of a step in fp16: torch's first loss scale of 2^16 halved to below 1, and some
CPU = "cpu"
BETA1 = 0.9  # of both Adams: their first moment after one step from nothing is 1 - BETA1 times the gradient

Images = tuple[np.ndarray, np.ndarray]
"""(N, S, S, C) float32, channels last, and (N,) float32 labels."""


@dataclass
class Trained:
    """What a training left; arrays under our names and in our shapes.

    Attributes:
        losses: of each step.
        scales: of the loss, after each step; 1 where it is not scaled.
        taken: steps that changed the weights: one whose gradient overflowed does not.
        weights: all parameters at the end.
        gradient: what Adam got in the first step that was taken, read from its first moment; only after one such step.
        prob_real: (M,), of the images that it was asked about at the end.
        network: ours then, with its running statistics.
    """

    losses: list[float]
    scales: list[float]
    taken: int
    weights: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray] = field(default_factory=dict)
    prob_real: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    network: nn.Module | None = None


def plugin_of(precision: str, scale: float | None = None, device: str = CPU) -> Precision:
    """What Lightning's Trainer makes of ``precision``; fp16's first loss scale is torch's own unless one is given."""
    if precision == TRUTH:
        return DoublePrecision()
    scaler = None if scale is None or precision != FP16 else torch.amp.GradScaler(device, init_scale=scale)
    return MixedPrecision(precision, device, scaler)


class Noting(L.Callback):
    """Notes every step's loss and loss scale; ``until_taken`` ends the run with the first step that is taken."""

    def __init__(self, until_taken: bool) -> None:
        self.until_taken = until_taken
        self.losses: list[float] = []
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.losses.append(outputs["loss"].item())
        self.scales.append(1.0 if scaler is None else scaler.get_scale())
        trainer.should_stop = self.until_taken and trainer.optimizers[0].steps_taken > 0


def train_ours(
    network: nn.Module,
    plugin: Precision,
    batches: Sequence[Images],
    until_taken: bool = False,
    ask: Images | None = None,
    device: str = CPU,
) -> Trained:
    """A copy of the network, trained by Lightning late in the published schedule, on these batches in this order."""
    module = FakeImageClassifier(copy.deepcopy(network), learning_rate=LEARNING_RATE)
    noting = Noting(until_taken)
    trainer = _trainer(plugin, device, callbacks=[noting], limit_val_batches=0 if ask is None else 1.0)
    trainer.fit(module, _loader(batches), _loader(batches[:1] if ask is None else _parts(ask)))
    [adam] = trainer.optimizers
    named = dict(module.network.named_parameters())
    weights = {name: array(p) for name, p in named.items()}
    made = Trained(noting.losses, noting.scales, adam.steps_taken, weights, network=module.network)
    if made.taken == 1:
        made.gradient = {name: array(adam.state[p]["exp_avg"]) / (1 - BETA1) for name, p in named.items()}
    if ask is not None:
        made.prob_real = module.outputs.prob_real
    return made


def ask_ours(network: nn.Module, plugin: Precision, images: Images, device: str = CPU) -> np.ndarray:
    """(N,) P(REAL) of a copy of the network, as Lightning's Trainer evaluates it."""
    module = FakeImageClassifier(copy.deepcopy(network))
    _trainer(plugin, device).validate(module, _loader(_parts(images)), verbose=False)
    return module.outputs.prob_real


def _trainer(plugin: Precision, device: str, **settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        plugins=[plugin],
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def _loader(batches: Sequence[Images]) -> DataLoader:
    made = [Batch(to_ours(x), torch.from_numpy(y), torch.arange(len(y))) for x, y in batches]
    return DataLoader(made, batch_size=None)


def _parts(images: Images, size: int = 250) -> list[Images]:
    return [(images[0][at : at + size], images[1][at : at + size]) for at in range(0, len(images[1]), size)]


class HeadAlone(nn.Module):
    """The published network's head on what its last stage gives: (N, 2048, 1, 1) -> (N,) logits. Quick."""

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)

    def forward(self, features: Tensor) -> Tensor:
        return logits_of(self.head[-1], self.head[:-1](features.flatten(1)))


@contextmanager
def policy(keras: Any, precision: str) -> Iterator[None]:
    """Keras's own mixed precision for what is built within."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def their_network(keras: Any, precision: str) -> Any:
    """``tf_reference``'s model in half precision, without dropout."""
    with policy(keras, precision):
        return published_model(keras, dropout=False)


def their_head(keras: Any, precision: str) -> Any:
    """Its head alone, on (N, 1, 1, 2048) features."""
    from tf_reference import model as reference

    entry = keras.layers.InputLayer(shape=(1, 1, FEATURES))
    with patch.object(reference, "ResNet50", lambda **_: entry):
        return their_network(keras, precision)


class Theirs:
    """``tf_reference``'s model, compiled by it; trained from given weights as often as asked, traced once.

    Args:
        model: of :func:`their_network` or :func:`their_head`.
        named: puts the arrays of its trainable variables under our names: :func:`of_network` or :func:`of_head`.
    """

    def __init__(self, model: Any, named: Callable[[Any, list[np.ndarray]], dict[str, np.ndarray]]) -> None:
        from tf_reference.model import LR_DECAY, compile_model

        self.model = traced_once(compile_model(model, LEARNING_RATE * LR_DECAY))
        self.named = named
        self.optimizer = self.model.optimizer
        self.scaled = hasattr(self.optimizer, "inner_optimizer")  # Keras wraps the optimizer of mixed_float16 itself
        self.adam = self.optimizer.inner_optimizer if self.scaled else self.optimizer

    def train(
        self,
        weights: list[np.ndarray],
        batches: Sequence[Images],
        until_taken: bool = False,
        scale: float | None = None,
        counter: int = 0,
        ask: Images | None = None,
    ) -> Trained:
        """As :func:`train_ours`; ``counter`` is how many steps since the loss scale last changed."""
        self._begin(weights, scale, counter)
        losses, scales = [], []
        for images, labels in batches:
            self.model.reset_metrics()  # in Keras 3.5 the loss is a mean of all steps since the last reset
            losses.append(float(self.model.train_on_batch(images, labels, return_dict=True)["loss"]))
            scales.append(float(self.optimizer.dynamic_scale) if self.scaled else 1.0)
            if until_taken and int(self.adam.iterations):
                break
        values = [np.array(variable) for variable in self.model.trainable_variables]
        made = Trained(losses, scales, int(self.adam.iterations), self.named(self.model, values))
        if made.taken == 1:
            moments = [np.array(variable) / (1 - BETA1) for variable in self.adam.variables[2::2]]
            made.gradient = self.named(self.model, moments)
        if ask is not None:
            made.prob_real = ask_theirs(self.model, ask)
        return made

    def _begin(self, weights: list[np.ndarray], scale: float | None, counter: int) -> None:
        self.model.set_weights(weights)
        self.adam.iterations.assign(0)
        for variable in self.adam.variables[2:]:  # the first two are the steps and the learning rate
            variable.assign(np.zeros(variable.shape))
        if self.scaled:
            self.optimizer.dynamic_scale.assign(self.optimizer.initial_scale if scale is None else scale)
            self.optimizer.step_counter.assign(counter)


def ask_theirs(model: Any, images: Images) -> np.ndarray:
    """(N,) P(REAL), by Keras's ``predict``."""
    return np.asarray(model.predict(images[0], batch_size=250, verbose=0)[:, 0], np.float32)


def of_network(model: Any, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    paths = [variable.path for variable in model.trainable_variables]
    return under_our_names(model, dict(zip(paths, values, strict=True)))[0]


def of_head(model: Any, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    names = [f"head.{layer}.{kind}" for layer in ("dense1", "norm", "dense2", "logit") for kind in ("weight", "bias")]
    return {name: value.T for name, value in zip(names, values, strict=True)}


def apart(found: Any, truth: Any) -> float:
    """Root mean square of the difference, relative to the truth's; arrays, or arrays by name as one vector."""
    ours, exact = (_vector(each) for each in (found, truth))
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def _vector(values: Any) -> np.ndarray:
    parts = [values[name] for name in sorted(values)] if isinstance(values, dict) else [values]
    return np.concatenate([np.asarray(part).astype(np.float64).ravel() for part in parts])


def losses_apart(made: Trained, truth: Trained) -> float:
    """Mean over the steps of how far a step's loss is from the true one."""
    return float(np.abs(np.subtract(made.losses, truth.losses)).mean())


def mean_square(distances: Sequence[Sequence[float]]) -> list[float]:
    """Of several pairs of distances, (ours, theirs) say: the root of each one's mean square."""
    return [float(each) for each in np.sqrt(np.mean(np.square(distances), axis=0))]


def as_close(
    claim: Any,
    what: str,
    ours: float,
    theirs: float,
    tolerance: Tolerance,
    rung: str | None = None,
    figures: bool = True,
    on_gpu: float | None = None,
) -> None:
    """Claims that ours is at most ``tolerance`` times as far from float64 as theirs, and reports both.

    Args:
        on_gpu: what is recorded of ours on a GPU, of which the same is claimed.
    """
    if figures:
        claim.figure(f"{what}: Lightning's distance from float64", ours, rung=rung)
        claim.figure(f"{what}: TensorFlow's distance from float64", theirs, rung=rung)
    claim(f"{what}: Lightning's distance from float64 over TensorFlow's", ours / theirs, tolerance, rung=rung)
    if on_gpu is not None:
        if figures:
            claim.figure(f"{what}: Lightning's distance from float64 on a GPU", on_gpu, rung=rung)
        text = f"{what}: Lightning's distance from float64 on a GPU over TensorFlow's on a CPU"
        claim(text, on_gpu / theirs, tolerance, rung=rung)


def change(made: Trained, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each weight in a training."""
    return {name: value - start[name] for name, value in made.weights.items()}


def draw(losses: dict[str, list[float]], truth: list[float], path: Path, width: int = 10) -> None:
    """How far each course of losses is from the true one, as a running mean over ``width`` steps."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for name, values in losses.items():
        distance = np.convolve(np.abs(np.subtract(values, truth)), np.ones(width) / width, "valid")
        axis.plot(np.arange(width, len(truth) + 1), distance, label=name)
    axis.set(xlabel="step", ylabel="distance of the loss from float64's", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
