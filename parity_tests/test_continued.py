"""A run begun in one framework and finished in the other equals one that was never interrupted, optimizer and all."""

from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import Batch
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.keras_io.exporter import Exported, build_model
from lightning_cifake.keras_io.weights import to_state_dict
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import Options, convert
from lightning_cifake.training.keras_adam import KerasAdam
from lightning_cifake.training.optimization import EpochDecay
from parity_tests import tolerances, twins
from parity_tests.keras_files import backbone_of, made_in, perturb, published_head
from parity_tests.replay import LATE_LEARNING_RATE

RUNG = "8 round trip"

BEFORE, AFTER = 2, 5  # steps in the first framework, and at most in the second
EPOCHS = 44  # that the schedule has behind it then: late, where rounding is not blown up (replay.LATE_LEARNING_RATE)


@pytest.fixture(scope="module")
def batches():
    """(images (32, 32, 32, 3), labels (32, 1)) float64 each."""
    rng = np.random.default_rng(3)
    # 32: with batches of 8 the last stage normalises 8 values, and rounding grows a thousand times faster
    return [(rng.random((32, 32, 32, 3)), rng.integers(0, 2, (32, 1)).astype(float)) for _ in range(BEFORE + AFTER)]


# begun in Keras


def begin_epoch(model, epoch):
    """What the published schedule does as an epoch of Keras's ``fit`` begins."""
    from tf_reference.model import published_callbacks

    schedule = published_callbacks()[0]
    schedule.set_model(model)
    schedule.on_epoch_begin(epoch)


def their_steps(keras, tf, model, batches):
    """Steps of Keras's Adam, at the rate that the optimizer has."""
    variables = model.trainable_variables
    for images, labels in batches:
        with tf.GradientTape() as tape:
            predicted = model(tf.constant(images), training=True)
            loss = keras.ops.mean(keras.losses.binary_crossentropy(tf.constant(labels), predicted))
        model.optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)


@pytest.fixture(scope="module")
def begun_in_keras(keras_float64, tf, batches, module_folder):
    """The published model after some steps of Adam late in the schedule, its file and its conversions."""
    keras = keras_float64
    head = published_head(keras, rate=0.0)
    model = keras.Sequential([keras.Input((32, 32, 3)), perturb(backbone_of(keras)), *head])
    model.compile(optimizer=keras.optimizers.Adam(1e-3 * 0.95 ** (EPOCHS - 1)), loss="binary_crossentropy")
    begin_epoch(model, EPOCHS - 1)
    their_steps(keras, tf, model, batches[:BEFORE])
    folder = module_folder("begun_in_keras")
    model.save(folder / "trained.keras")
    report = convert(folder / "trained.keras", folder / "last.ckpt", Options())
    convert(folder / "last.ckpt", folder / "back.keras", Options())
    return model, folder, report


def test_a_model_converted_there_and_back_has_kerass_own_optimizer_state(begun_in_keras, keras_float64, claim):
    model, folder, _ = begun_in_keras
    back = keras_float64.models.load_model(folder / "back.keras")
    assert type(back.optimizer) is keras_float64.optimizers.Adam
    found, expected = back.optimizer.variables, model.optimizer.variables
    assert len(found) == len(expected) == 442
    what = "a trained model, Keras -> Lightning -> Keras"
    rate = abs(float(found[1]) / (1e-3 * 0.95**EPOCHS) - 1)
    claim(f"{what}: Adam's learning rate of epoch {EPOCHS}, float64, relative", rate, tolerances.SCHEDULE_FLOAT64)
    claim.equal(f"{what}: Adam's count of steps", int(found[0]), BEFORE)
    # a convolution's bias has moments of rounding alone, which batch norm takes away
    kept = [at for at, variable in enumerate(expected) if at > 1 and "_conv_bias_" not in variable.path]
    moments = [[np.array(variables[at]) for at in kept] for variables in (found, expected)]
    assert all(each.any() for each in moments[0])
    claim.equal(f"{what}: Adam's moments of every weight, float64", *moments)


class Resumed(NamedTuple):
    """A network in train mode, its optimizer and its schedule, as they stand in a checkpoint."""

    network: nn.Module
    optimizer: KerasAdam
    schedule: EpochDecay

    def step(self, images, labels):
        logits = self.network(torch.from_numpy(images).permute(0, 3, 1, 2))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[:, 0]))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @property
    def rate(self):
        return self.optimizer.param_groups[0]["lr"]


def resume(checkpoint):
    """As the classifier resumes: its optimizer and its schedule, with the checkpoint's state."""
    content = read_checkpoint(checkpoint)
    with made_in(torch.float64):
        classifier = load_classifier(checkpoint)
    (optimizer,), (schedule,) = classifier.configure_optimizers()
    optimizer.load_state_dict(content["optimizer_states"][0])
    schedule.load_state_dict(content["lr_schedulers"][0])
    assert isinstance(optimizer, KerasAdam)
    return Resumed(classifier.network.train(), optimizer, schedule)


LOST = {
    "Adam's count of steps begins at 0 again": lambda state: state["step"].zero_(),
    "Adam's first moments are lost": lambda state: state["exp_avg"].zero_(),
    "Adam's second moments are lost": lambda state: state["exp_avg_sq"].zero_(),
}


class Spoiled(NamedTuple):
    """A weight matrix after the first step in the other framework: as it is, and with something lost on the way."""

    right: torch.Tensor
    wrong: dict[str, torch.Tensor]


def first_step(resumed, images, labels):
    """Takes a step, and takes it of one weight once more for each fault, from the same gradient."""
    weight, optimizer = resumed.network.head.dense1.weight, resumed.optimizer
    before = weight.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[weight].items()}
    resumed.step(images, labels)

    def again(lose, rate=resumed.rate):
        twin = nn.Parameter(before.clone())
        twin.grad = weight.grad.clone()
        own = KerasAdam([twin], lr=rate)
        own.state[twin] = {name: value.clone() for name, value in state.items()}
        lose(own.state[twin])
        own.step()
        return twin.detach()

    right = weight.detach().clone()
    assert (again(lambda _: None) - right).abs().max() < 1e-14  # with nothing lost it is the step that was taken
    wrong = {f"{what} on the way": again(lose) for what, lose in LOST.items()}
    wrong["the epoch is lost on the way, so the learning rate"] = again(lambda _: None, rate=1e-3 * 0.95)
    return Spoiled(right, wrong)


@pytest.fixture(scope="module")
def in_lightning(begun_in_keras, batches):
    """Resumed in Lightning from what Keras began, after two steps; and its first step with faults."""
    resumed = resume(begun_in_keras[1] / "last.ckpt")
    (first, second) = batches[BEFORE:][:2]
    spoiled = first_step(resumed, *first)
    resumed.step(*second)
    return resumed, spoiled


def test_a_run_begun_in_keras_and_finished_in_lightning_equals_one_never_interrupted(
    begun_in_keras, in_lightning, keras_float64, tf, batches, claim
):
    model, _, report = begun_in_keras
    assert f"Adam after {BEFORE} steps, epochs done: {EPOCHS}" in report.line
    claim_never_interrupted(keras_float64, tf, model, in_lightning[0], batches[BEFORE:][:2], claim)


@pytest.mark.long
def test_a_longer_run_begun_in_keras_and_finished_in_lightning_equals_one_never_interrupted(
    begun_in_keras, keras_float64, tf, batches, claim
):
    _, folder, _ = begun_in_keras
    resumed = resume(folder / "last.ckpt")
    for batch in batches[BEFORE:]:
        resumed.step(*batch)
    model = keras_float64.models.load_model(folder / "trained.keras")
    claim_never_interrupted(keras_float64, tf, model, resumed, batches[BEFORE:], claim)


def test_what_is_lost_on_the_way_is_seen(in_lightning, claim):
    right, wrong = in_lightning[1]
    for text, weight in wrong.items():
        claim.fault(f"{text}: a weight after one step more", (weight - right).abs().max(), tolerances.CONTINUED_FLOAT64)


def claim_never_interrupted(keras, tf, model, resumed, batches, claim):
    """Keras goes on where it stands, Lightning has gone on from the file."""
    before = np.array(model.layers[0].get_layer("conv1_conv").kernel)
    begin_epoch(model, EPOCHS)
    their_steps(keras, tf, model, batches)
    assert np.abs(np.array(model.layers[0].get_layer("conv1_conv").kernel) - before).max() > 1e-4
    steps = f"begun in Keras ({BEFORE} steps) and finished in Lightning ({len(batches)} steps)"
    what = f"a run {steps} equals one never interrupted"
    claim_one_run(claim, what, resumed.network.state_dict(), model, resumed.rate)


def claim_one_run(claim, what, found, model, rate):
    """``found`` is the state_dict of ours, ``model`` Keras's."""
    expected = state_of(model, found)
    apart = {n: (found[n] - value).abs().max().item() for n, value in expected.items() if value.is_floating_point()}
    lagging = [name for name in apart if name.startswith("backbone.") and name.endswith("running_mean")]
    means = max(apart.pop(name) for name in lagging)
    claim(f"{what}: every weight, float64", max(apart.values()), tolerances.CONTINUED_FLOAT64)
    claim(f"{what}: running means of the backbone, float64", means, tolerances.CONTINUED_MEANS_FLOAT64)
    theirs = float(model.optimizer.learning_rate)
    claim(f"{what}: learning rate, float64, relative", abs(rate / theirs - 1), tolerances.SCHEDULE_FLOAT64)


def state_of(model, like):
    """The published model's weights under our names, without a file between."""
    body, *head = model.layers
    names = ("dense1", "norm", "dense2", "logit")
    layers = [(layer.name, layer) for layer in body.layers]
    layers += zip(names, [layer for layer in head if layer.weights], strict=True)
    weights = {f"{name}/{variable.name}": np.array(variable) for name, layer in layers for variable in layer.weights}
    return to_state_dict(weights, like, "the model")


# begun in Lightning


def exported(resumed, steps, epochs):
    """What a checkpoint written now would hand to Keras."""
    states = {name: resumed.optimizer.state[weight] for name, weight in resumed.network.named_parameters()}
    moments = {name: (state["exp_avg"], state["exp_avg_sq"]) for name, state in states.items()}
    weights = resumed.network.state_dict()
    return Exported(weights, PUBLISHED_HEAD, 0.0, 32, False, resumed.rate, moments, steps, epochs)


def test_a_run_that_lightning_hands_to_keras_goes_on_as_in_lightning(in_lightning, keras_float64, tf, batches, claim):
    """Without files, which are others' work; with its own beginning and Keras's fit in the long one below."""
    resumed, _ = in_lightning
    model = build_model(keras_float64, exported(resumed, BEFORE + 2, EPOCHS + 1))
    begin_epoch(model, EPOCHS + 1)
    their_steps(keras_float64, tf, model, batches[-1:])
    resumed.schedule.step()
    resumed.step(*batches[-1])
    what = "a run handed from Lightning to Keras after 2 steps equals one never interrupted, a step later"
    claim_one_run(claim, what, resumed.network.state_dict(), model, resumed.rate)


class Steps:
    """The same batches in each epoch, as a loader gives them."""

    def __init__(self, batches):
        self.batches = [
            Batch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels[:, 0]), torch.arange(32))
            for images, labels in batches
        ]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class KeepFirst(L.Callback):
    """Writes the checkpoint of the end of the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def lightning_run(batches, path):
    """Two epochs of the published system in Lightning, never interrupted; the checkpoint of the first is kept."""
    torch.manual_seed(0)
    network = ResNet50Detector(dropout=0.0).double()
    twins.perturb(network)
    classifier = FakeImageClassifier(network, learning_rate=LATE_LEARNING_RATE)
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=2,
        num_sanity_val_steps=0,
        callbacks=[KeepFirst(path)],
        plugins=[SafeCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, Steps(batches))
    return classifier


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_a_run_begun_in_lightning_and_finished_in_keras_equals_one_never_interrupted(
    keras_float64, batches, tmp_path, claim
):
    """Finished by Keras's own ``fit`` with ``initial_epoch``, as ``convert`` tells people to."""
    batches = batches[:AFTER]
    whole = lightning_run(batches, tmp_path / "last.ckpt")
    report = convert(tmp_path / "last.ckpt", tmp_path / "begun.keras", Options())
    assert f"Adam after {AFTER} steps, epochs done: 1" in report.line
    model = fitted(keras_float64, tmp_path / "begun.keras", batches)
    steps = f"begun in Lightning ({AFTER} steps) and finished in Keras ({AFTER} steps)"
    what = f"a run {steps} equals one never interrupted"
    claim.equal(f"{what}: Adam's count of steps", int(model.optimizer.iterations), 2 * AFTER)
    claim_one_run(claim, what, whole.network.state_dict(), model, whole.history[1]["lr"])
    kernel = whole.network.head.dense1.weight.detach().numpy().T
    for text, lose in (
        ("Adam's count of steps begins at 0 again in Keras", lambda optimizer: optimizer.iterations.assign(0)),
        ("the epoch is lost on the way to Keras", lambda optimizer: optimizer.learning_rate.assign(LATE_LEARNING_RATE)),
    ):
        spoiled = fitted(keras_float64, tmp_path / "begun.keras", batches, lose)
        moved = np.abs(np.array(spoiled.get_layer("dense1").kernel) - kernel).max()
        claim.fault(f"{text}: a weight at the end", moved, tolerances.CONTINUED_FLOAT64)


def fitted(keras, path, batches, lose=None):
    """A file's model after its second epoch, of the same batches in the same order."""
    from tf_reference.model import published_callbacks

    model = keras.models.load_model(path)
    model.jit_compile = False  # as tf_reference trains
    if lose is not None:
        lose(model.optimizer)
    images, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    model.fit(
        images,
        labels,
        batch_size=len(batches[0][0]),
        shuffle=False,
        initial_epoch=1,
        epochs=2,
        callbacks=published_callbacks()[:1],
        verbose=0,
    )
    return model
