"""What the paper leaves to Keras's own defaults, asked of Keras, and the reference's own objects against ours."""

import inspect

import pytest

from lightning_cifake.data import augment, protocols
from lightning_cifake.networks import head
from lightning_cifake.networks import resnet50 as network
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.early_stopping import KerasEarlyStopping
from lightning_cifake.training.keras_adam import KerasAdam

RUNG = "0 reference"


@pytest.fixture(scope="module")
def their_model(tf, keras):
    from tf_reference.model import build_model, compile_model

    return compile_model(build_model(weights=None))


def test_adam_has_the_constants_of_keras(their_model):
    theirs = their_model.optimizer.get_config()
    (ours,), _ = FakeImageClassifier().configure_optimizers()
    assert isinstance(ours, KerasAdam)
    assert ours.defaults["betas"] == (theirs["beta_1"], theirs["beta_2"])
    assert ours.epsilon == theirs["epsilon"]
    assert FakeImageClassifier().hparams["learning_rate"] == pytest.approx(theirs["learning_rate"], rel=1e-7)
    plain = {"weight_decay": None, "clipnorm": None, "clipvalue": None, "global_clipnorm": None, "amsgrad": False,
             "use_ema": False, "gradient_accumulation_steps": None}  # fmt: skip
    assert {name: theirs[name] for name in plain} == plain  # none of what ours does not do
    assert their_model.loss == "binary_crossentropy"


def test_the_callbacks_have_the_same_constants(keras):
    from tf_reference.model import EPOCHS, INITIAL_LEARNING_RATE, lr_scheduler, published_callbacks

    schedule, theirs = published_callbacks()
    ours, hparams = KerasEarlyStopping(), FakeImageClassifier().hparams
    assert (ours.patience, ours.monitor, ours.min_delta) == (theirs.patience, theirs.monitor, theirs.min_delta)
    assert theirs.restore_best_weights and theirs.start_from_epoch == 0 and theirs.baseline is None
    assert hparams["lr_decay"] == lr_scheduler(0, 1.0) and hparams["learning_rate"] == INITIAL_LEARNING_RATE
    assert schedule.schedule(0, INITIAL_LEARNING_RATE) == INITIAL_LEARNING_RATE * hparams["lr_decay"]
    from lightning_cifake.commands.lightning_arguments import TRAINER_DEFAULTS

    assert TRAINER_DEFAULTS["max_epochs"] == EPOCHS


def test_the_head_and_the_norms_have_the_same_constants(their_model, keras):
    backbone, *layers = their_model.layers
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Flatten", "Dense", "BatchNormalization", "Dropout", "Dense", "Dense"]
    ours = head.PUBLISHED_HEAD
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert [f"dense {layer.units}" in ours for layer in dense] == [True] * 3
    assert layers[3].rate == FakeImageClassifier().network.init_args["dropout"]
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {norm.epsilon for norm in norms} == {network.KERAS_BACKBONE_BN_EPS}
    assert {norm.momentum for norm in [*norms, layers[2]]} == {1 - network.KERAS_BN_MOMENTUM}
    (own,) = (m for m in FakeImageClassifier().network.head.modules() if hasattr(m, "running_var"))
    assert (own.eps, own.momentum) == (layers[2].epsilon, network.KERAS_BN_MOMENTUM)


def test_the_data_has_the_same_constants(tf, keras):
    from keras.src.utils import image_dataset_utils

    from tf_reference import data

    given = inspect.signature(keras.utils.image_dataset_from_directory).parameters
    assert given["batch_size"].default == data.BATCH_SIZE == protocols.PUBLISHED_BATCH
    assert given["shuffle"].default is True and given["interpolation"].default == "bilinear"
    assert "shuffle_buffer_size = batch_size * 8\n" in inspect.getsource(image_dataset_utils)
    assert data.SHUFFLE_BUFFER == 8 * data.BATCH_SIZE
    assert all(data.split_sizes(n) == protocols.published_batches(n) for n in (625, 3125))  # 3750: test_split.py
    source = inspect.getsource(data.augment_data)
    low, high = augment.CONTRAST
    assert f"max_delta={augment.MAX_BRIGHTNESS}" in source and f"lower={low}, upper={high}" in source
