"""Trains the two systems side by side: Lightning's leads, TensorFlow's replays its order, draws and dropout masks.

Ours is the system as it is: Trainer, data module, augmentation, classifier, with a callback that listens. Theirs is
``tf_reference``'s model, compiled by it, stepped by Keras's own train function as ``fit`` steps it; only its dropout
layer takes a mask instead of drawing one, and its augmentation the recorded draws. Optionally a third network, ours
again with each weight moved by one unit in the last place, trains along: what rounding alone does.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import lightning as L
import numpy as np
import torch
from torch.nn import functional as F

from lightning_cifake import CIFAKEDataModule, FakeImageClassifier
from lightning_cifake.data import augment
from lightning_cifake.training.keras_adam import KerasAdam
from parity_tests.reference_run import traced_once
from parity_tests.twins import array, copy_weights, largest_difference, our_weights, their_weights

LATE_LEARNING_RATE = 1e-4
"""About the schedule's epoch 45 (1e-3 x 0.95^45), where rounding is not blown up.

From random weights at the first epochs' 9.5e-4 the published system is chaotic: one weight moved by one unit in the
last place, within one framework, is a difference of 5e-2 in the loss after 16 steps. No two computations with different
orders of summation can agree there for long.
"""


@dataclass
class Course:
    """What was seen on the way; every list holds an entry a step, or a pair (step, value) where it is not each."""

    our_loss: list[float] = field(default_factory=list)
    their_loss: list[float] = field(default_factory=list)
    nudged_loss: list[float] = field(default_factory=list)
    weights: list[tuple[int, float]] = field(default_factory=list)
    """Largest difference between ours and theirs."""
    nudged_weights: list[tuple[int, float]] = field(default_factory=list)
    """Largest difference between ours and ours with each weight moved by one unit in the last place."""
    ours: dict[str, float] = field(default_factory=dict)
    theirs: dict[str, float] = field(default_factory=dict)
    """Of the epoch: train_loss, train_accuracy, val_loss, val_accuracy, lr."""


def make_replay_model(keras: Any, learning_rate: float) -> Any:
    """``tf_reference``'s model, compiled by it, whose dropout multiplies with ``masks`` ((32, 256), 0 or 2)."""
    from tf_reference import model as reference

    class ReplayDropout(keras.layers.Dropout):
        def build(self, input_shape):
            self.masks = self.add_weight(shape=(32, input_shape[-1]), trainable=False, name="masks")

        def call(self, inputs, training=False):
            return inputs * self.masks if training else inputs

    with patch.object(reference.layers, "Dropout", ReplayDropout):
        model = reference.build_model(weights=None)
    return traced_once(reference.compile_model(model, learning_rate))


class Theirs:
    """The TensorFlow system in float64, handed what ours drew."""

    def __init__(self, tf: Any, keras: Any, pixels: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        from tf_reference.model import published_callbacks

        self.tf, self.model = tf, make_replay_model(keras, learning_rate)
        self.model.make_train_function()
        self.pixels, self.labels = pixels, labels
        self.schedule = published_callbacks()[0]
        self.schedule.set_model(self.model)
        self._sum, self._steps = 0.0, 0

    def begin_epoch(self, epoch: int) -> None:
        self.schedule.on_epoch_begin(epoch)
        self.model.reset_metrics()
        self._sum, self._steps = 0.0, 0

    def step(self, index: np.ndarray, draws: dict[str, np.ndarray], mask: np.ndarray) -> float:
        """One step as ``fit`` takes it, metrics running on over the epoch; returns this batch's loss."""
        self.model.layers[4].masks.assign(mask)
        x, y = self.augment(self.images(index), draws), self.labels[index]
        # not train_on_batch, which starts the metrics anew at each step
        self.logs = self.model.train_function(iter([(x, y)]))
        self._steps += 1
        total = float(self.logs["loss"]) * self._steps  # Keras gives the mean so far
        loss, self._sum = total - self._sum, total
        return loss

    def images(self, index: np.ndarray) -> Any:
        """The paper's x/255, in float64."""
        return self.tf.cast(self.pixels[index], "float64") / 255

    def augment(self, x: Any, draws: dict[str, np.ndarray]) -> Any:
        """The paper's augmentation with given draws.

        ``tf.image``'s brightness and contrast compute in float32 whatever they are given, so here they are TensorFlow's
        arithmetic in float64; test_data.py holds ``tf.image``'s own against ours, in float32.
        """
        tf = self.tf
        x = tf.where(draws["left_right"][:, None, None, None], tf.image.flip_left_right(x), x)
        x = tf.where(draws["up_down"][:, None, None, None], tf.image.flip_up_down(x), x)
        x = x + draws["delta"]
        mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
        return (x - mean) * draws["factor"] + mean

    def evaluate(self, index: np.ndarray) -> dict[str, float]:
        """Keras's own ``evaluate``."""
        # these images alone: a map that closed over all of CIFAKE would put 370 MB into its graph, 100 s of work
        data = self.tf.data.Dataset.from_tensor_slices((self.pixels[index], self.labels[index])).batch(250)
        data = data.map(lambda x, y: (self.tf.cast(x, "float64") / 255, y))
        values = self.model.evaluate(data, verbose=0, return_dict=True)
        return {name: float(value) for name, value in values.items()}


class Replay(L.Callback):
    """Listens to ours, steps theirs, compares.

    Args:
        theirs: the TensorFlow system.
        weights_every: steps between two comparisons of all weights.
        nudged: trains the third network along.
        progress: called with the step's number after each.
    """

    def __init__(self, theirs: Theirs, weights_every: int = 10, nudged: bool = False, progress: Any = None) -> None:
        self.theirs, self.weights_every, self.nudge, self.progress = theirs, weights_every, nudged, progress
        self.course = Course()
        self.pool = ThreadPoolExecutor(1)
        self._draws: dict[str, np.ndarray] = {}
        self._mask = np.empty(0)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        copy_weights(pl_module.network, self.theirs.model, bias=0.0)  # as both begin: with no bias
        if self.nudge:
            self.nudged = copy.deepcopy(pl_module.network)
            self.nudged.head.dropout = _Masked(self)
            nudge(self.nudged)
            self.optimizer = KerasAdam(self.nudged.parameters(), lr=1e-3)
        pl_module.network.head.dropout.register_forward_pre_hook(self._note_mask)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.theirs.begin_epoch(trainer.current_epoch)
        self.lr = float(self.theirs.model.optimizer.learning_rate)

    def _note_mask(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """The mask that the layer is about to draw; output / input would not do, where a dead unit's input is 0."""
        if layer.training:
            with torch.random.fork_rng(devices=[]):
                self._mask = array(F.dropout(torch.ones_like(inputs[0]), layer.p)).copy()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes what the augmentation draws, by listening to the functions that apply it."""
        flip, brighten, contrast = augment.flip, augment.adjust_brightness, augment.adjust_contrast

        def noted(apply: Any, *names: str) -> Any:
            def call(images: torch.Tensor, *draws: torch.Tensor) -> torch.Tensor:
                self._draws |= {name: array(draw).copy() for name, draw in zip(names, draws, strict=True)}
                return apply(images, *draws)

            return call

        with ExitStack() as stack:
            stack.enter_context(patch.object(augment, "flip", noted(flip, "left_right", "up_down")))
            stack.enter_context(patch.object(augment, "adjust_brightness", noted(brighten, "delta")))
            stack.enter_context(patch.object(augment, "adjust_contrast", noted(contrast, "factor")))
            yield

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        course, step = self.course, batch_idx + 1
        course.our_loss.append(outputs["loss"].item())
        theirs = self.pool.submit(self.theirs.step, array(batch.index), self._draws, self._mask)
        if self.nudge:  # beside theirs, which leaves a core idle
            course.nudged_loss.append(self._nudged_step(batch, self.lr))
        course.their_loss.append(theirs.result())
        if step % self.weights_every == 0 or step == 1 or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            ours = our_weights(pl_module.network)
            course.weights.append((step, largest_difference(ours, their_weights(self.theirs.model))))
            if self.nudge:
                course.nudged_weights.append((step, largest_difference(our_weights(self.nudged), ours)))
        if self.progress is not None:
            self.progress(step, course)

    def _nudged_step(self, batch: Any, lr: float) -> float:
        self.nudged.train()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.nudged(batch.images), batch.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        values = self.theirs.evaluate(pl_module.outputs.index)
        logs = self.theirs.logs
        self.course.theirs = {
            "train_loss": float(logs["loss"]),
            "train_accuracy": float(logs["accuracy"]),
            "val_loss": values["loss"],
            "val_accuracy": values["accuracy"],
            "lr": float(self.theirs.model.optimizer.learning_rate),
        }


@torch.no_grad()
def nudge(network: torch.nn.Module) -> None:
    """Moves every weight by one unit in the last place, up or down by a coin: the least that any rounding does."""
    coin = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        up = torch.rand(weight.shape, generator=coin) < 0.5
        weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf).to(weight.dtype)))


class _Masked(torch.nn.Module):
    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = (replay,)  # in a tuple: not a part of the module

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * torch.from_numpy(self._replay[0]._mask) if self.training else features


def train_side_by_side(
    tf: Any,
    keras: Any,
    data: CIFAKEDataModule,
    steps: int | None = None,
    start: Any = None,
    weights_every: int = 10,
    nudge: bool = False,
    progress: Any = None,
    learning_rate: float = 1e-3,
) -> tuple[Course, FakeImageClassifier, Theirs]:
    """One epoch, or its first ``steps``, in float64, and its validation. Keras has to be in float64 already.

    ``start`` is called with our network before the first step, to give it weights of its own.
    """
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    model = FakeImageClassifier("resnet50", learning_rate=learning_rate, channels_last=True)
    model.double()
    if start is not None:
        start(model.network)
    images = data.images
    assert images is not None
    theirs = Theirs(tf, keras, np.asarray(images.images), images.labels.astype(np.float64), learning_rate)
    replay = Replay(theirs, weights_every, nudge, progress)
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        limit_train_batches=steps if steps is not None else 1.0,
        num_sanity_val_steps=0,
        callbacks=[replay],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with replay.listening():
        trainer.fit(model, datamodule=data)
    course = replay.course
    course.ours = {name: model.history[0][name] for name in course.theirs}
    return course, model, theirs
