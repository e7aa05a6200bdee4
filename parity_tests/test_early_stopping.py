"""For any course of the validation loss both stop after the same epoch and restore the same one."""

import math
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightning_cifake.training import early_stopping
from lightning_cifake.training.checkpoints import best_checkpoint
from lightning_cifake.training.early_stopping import KerasEarlyStopping, RestoreBestWeights
from parity_tests import tolerances

RUNG = "5 optimizer"


def takes_any_first(keras):
    """Whether the first epoch is Keras's best so far whatever its loss; until Keras 3.6 infinity is."""
    return tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 7)


def skip_if_it_differs(keras, losses):
    if not math.isfinite(losses[0]) and not takes_any_first(keras):
        pytest.skip(f"Keras {keras.__version__} begins with infinity for the best loss: 3.7 and later are copied")


class FakeKerasModel:
    """Its weights are the epoch's number."""

    stop_training = False
    weights = -1

    def get_weights(self):
        return [self.weights]

    def set_weights(self, weights):
        [self.weights] = weights


def keras_run(keras, losses, patience):
    """(epochs trained, epoch whose weights the model ends with) through the hooks that Keras's fit calls."""
    model = FakeKerasModel()
    callback = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience, restore_best_weights=True)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        model.weights = epoch
        callback.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch + 1, model.weights


class FakeTrainer:
    """What the callbacks look at of a Trainer; a checkpoint is the epoch's number, kept in memory."""

    def __init__(self, callbacks):
        self.callback_metrics = {}
        self.should_stop, self.current_epoch, self.global_step = False, 0, 0
        self.fast_dev_run, self.sanity_checking, self.is_global_zero = False, False, True
        self.num_val_batches, self.world_size, self.val_check_interval, self.check_val_every_n_epoch = [1], 1, 1.0, 1
        self.loggers, self.default_root_dir, self.ckpt_path = [], "", None
        self.state = SimpleNamespace(fn=TrainerFn.FITTING)
        self.strategy = SimpleNamespace(
            reduce_boolean_decision=lambda decision, all=True: decision,
            broadcast=lambda value: value,
            checkpoint_io=None,  # which knows what it has written; here nothing is
        )
        self.checkpoint_callbacks = [callback for callback in callbacks if hasattr(callback, "best_model_path")]
        self.saved = {}

    def save_checkpoint(self, path, weights_only):
        self.saved[Path(path).name] = self.current_epoch


def our_run(losses, patience, stopper=KerasEarlyStopping, keeper=best_checkpoint):
    """The same by the project's callbacks, through the hooks that Lightning's fit calls, in its order."""
    stop, best, restore = stopper(patience=patience), keeper(Path("nowhere")), RestoreBestWeights()
    trainer, model = FakeTrainer([best]), SimpleNamespace(weights=-1, device="cpu")
    model.load_state_dict = lambda state, strict: setattr(model, "weights", state)
    stop.setup(trainer, model, "fit")
    for epoch, loss in enumerate(losses):
        trainer.current_epoch = model.weights = epoch
        trainer.global_step += 1
        trainer.callback_metrics = {"val_loss": torch.tensor(loss)}
        stop.on_validation_end(trainer, model)
        best.on_validation_end(trainer, model)
        stop.on_train_epoch_end(trainer, model)
        best.on_train_epoch_end(trainer, model)
        if trainer.should_stop:
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_stopping, "read_checkpoint", lambda path: {"state_dict": trainer.saved[path.name]})
        restore.on_fit_end(trainer, model)
    return epoch + 1, model.weights


# few values, so that ties are common, and any float32: a framework's loss is one. Not those below 1e-38, which
# TensorFlow's threads take for 0 and which no mean of losses is.
LOSSES = st.lists(
    st.sampled_from([0.25, 0.5, 0.75, math.nan, math.inf]) | st.floats(width=32, allow_subnormal=False),
    min_size=1,
    max_size=14,
)


@settings(max_examples=500, deadline=None)
@given(LOSSES, st.integers(1, 5))
def test_any_losses_stop_after_the_same_epoch_and_restore_the_same_one(claim, keras, losses, patience):
    assume(math.isfinite(losses[0]) or takes_any_first(keras))
    (our_stop, our_best), (their_stop, their_best) = our_run(losses, patience), keras_run(keras, losses, patience)
    claim.equal("early stopping, any losses and patience: epochs trained", our_stop, their_stop)
    claim.equal("early stopping, any losses and patience: epoch restored", our_best, their_best)


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(1, 5))
def test_a_first_epoch_of_nan_stays_the_best_in_both(claim, keras, losses, patience):
    skip_if_it_differs(keras, [math.nan])
    ours, theirs = our_run([math.nan, *losses], patience), keras_run(keras, [math.nan, *losses], patience)
    claim.equal("early stopping, first epoch's loss NaN: epochs trained and epoch restored", ours, theirs)
    assert ours[1] == 0


def test_lightnings_own_callbacks_are_seen(claim, keras):
    """Each of the three things in which they differ from Keras; patience 2."""
    later, first = [0.5, math.nan, 0.4, 0.3, 0.2], [math.nan, 0.5, 0.4, 0.3, 0.2]

    def stops_on_nan(patience):
        return EarlyStopping("val_loss", patience=patience)

    def forgets_nan(patience):
        return EarlyStopping("val_loss", patience=patience, check_finite=False)

    def keeps_infinity(folder):
        return ModelCheckpoint(folder, "best", "val_loss", enable_version_counter=False)

    moved = abs(our_run(later, 2, stops_on_nan)[0] - keras_run(keras, later, 2)[0])
    claim.fault("Lightning's EarlyStopping, which ends a run at NaN: epochs trained", moved, tolerances.EXACT)
    skip_if_it_differs(keras, first)
    faults = {
        "Lightning's EarlyStopping without check_finite, first epoch's loss NaN: epochs trained": our_run(
            first, 2, forgets_nan
        )[0]
        - keras_run(keras, first, 2)[0],
        "Lightning's ModelCheckpoint, which takes NaN for infinity: epoch restored": our_run(
            first, 2, keeper=keeps_infinity
        )[1]
        - keras_run(keras, first, 2)[1],
    }
    for text, moved in faults.items():
        claim.fault(text, abs(moved), tolerances.EXACT)


class Counting(L.LightningModule):
    """Its one weight is the epoch's number, and its val_loss what it is told."""

    def __init__(self, losses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.losses = losses

    def training_step(self, batch, batch_idx):
        self.weight.data.fill_(self.current_epoch)
        return 0 * self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.losses[self.current_epoch], batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_fit(losses, patience, folder):
    model = Counting(losses)
    loader = torch.utils.data.DataLoader(torch.zeros(1, 1))
    trainer = L.Trainer(
        max_epochs=len(losses),
        accelerator="cpu",
        callbacks=[KerasEarlyStopping(patience), RestoreBestWeights(), best_checkpoint(folder)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader, loader)
    return trainer.current_epoch, int(model.weight.item())


def keras_fit(keras, tf, losses, patience):
    """The same with Keras's own fit: a model of one weight that reports what it is told."""

    class Told(keras.Model):
        metrics = ()  # Keras's own mean of the loss would stand in for what the steps return

        def __init__(self):
            super().__init__()
            self.epoch = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self.trained = -1

        def train_step(self, data):
            self.trained += 1
            self.epoch.assign(float(self.trained))
            return {"loss": tf.zeros(())}

        def test_step(self, data):
            return {"loss": tf.constant(losses[self.trained], tf.float32)}

    model = Told()
    model.compile(run_eagerly=True)
    callback = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience, restore_best_weights=True)
    one = np.zeros((1, 1), np.float32)
    history = model.fit(
        one, one, validation_data=(one, one), epochs=len(losses), batch_size=1, verbose=0, callbacks=[callback]
    )
    return len(history.history["val_loss"]), int(model.epoch.numpy())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    "losses",
    [
        [0.5, 0.4, 0.4, 0.45, 0.3],
        [0.5, math.nan, 0.6, 0.1],
        [0.9, 0.8, 0.7, 0.6],
        [0.3, 0.4],
        [math.nan, 0.5, 0.4, 0.6],
        [math.inf, 0.5, math.nan, 0.5],
    ],
)
def test_a_whole_fit_of_both_ends_with_the_same_epochs_weights(claim, keras, tf, losses, tmp_path):
    skip_if_it_differs(keras, losses)
    ours, theirs = lightning_fit(losses, 2, tmp_path), keras_fit(keras, tf, losses, 2)
    claim.equal("early stopping in a whole fit: epochs trained and epoch restored", ours, theirs)
