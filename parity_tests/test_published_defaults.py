"""What the paper leaves to Keras's own defaults, asked of Keras, and the reference's own objects against ours.

Dropout and the first weights are drawn, and side by side (replay.py) both frameworks are handed the same: that each by
itself draws as the other does is held here.
"""

import inspect
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from lightning_cifake.data import augment, protocols
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.early_stopping import KerasEarlyStopping
from lightning_cifake.training.keras_adam import KerasAdam
from parity_tests import tolerances
from parity_tests.twins import array, our_weights, their_weights

RUNG = "0 reference"
DROPOUT = "3 activations"


@pytest.fixture(scope="module")
def their_model(tf, keras):
    from tf_reference.model import build_model, compile_model

    return compile_model(build_model(weights=None))


@pytest.fixture(scope="module")
def our_network():
    torch.manual_seed(0)
    return FakeImageClassifier().network


def test_adam_has_the_constants_of_keras(their_model, claim):
    theirs = their_model.optimizer.get_config()
    (ours,), _ = FakeImageClassifier().configure_optimizers()
    assert isinstance(ours, KerasAdam)
    claim.equal("Adam's two betas", ours.defaults["betas"], (theirs["beta_1"], theirs["beta_2"]))
    claim.equal("Adam's epsilon", ours.epsilon, theirs["epsilon"])
    rates = (np.float32(FakeImageClassifier().hparams["learning_rate"]), np.float32(theirs["learning_rate"]))
    claim.equal("learning rate before its first decay, in Keras's float32", *rates)
    plain = {"weight_decay": None, "clipnorm": None, "clipvalue": None, "global_clipnorm": None, "amsgrad": False,
             "use_ema": False, "gradient_accumulation_steps": None}  # fmt: skip
    text = "what Keras's Adam can do and ours does not, left off as published (decay, clipping, AMSGrad, averages)"
    claim.equal(text, list(plain.values()), [theirs[name] for name in plain])
    claim.equal("loss that the published model is compiled with", "binary_crossentropy", their_model.loss)


def test_the_callbacks_have_the_same_constants(keras, claim):
    from tf_reference.model import EPOCHS, INITIAL_LEARNING_RATE, lr_scheduler, published_callbacks

    schedule, theirs = published_callbacks()
    ours, hparams = KerasEarlyStopping(), FakeImageClassifier().hparams
    watched = [(each.monitor, each.patience, each.min_delta) for each in (ours, theirs)]
    claim.equal("early stopping: what is watched, patience, least change", *watched)
    published = (theirs.restore_best_weights, theirs.start_from_epoch, theirs.baseline)
    text = "early stopping: best weights restored, from the first epoch on, no baseline"
    claim.equal(text, (True, 0, None), published)
    claim.equal("factor on the learning rate at each epoch's beginning", hparams["lr_decay"], lr_scheduler(0, 1.0))
    first = schedule.schedule(0, INITIAL_LEARNING_RATE)
    claim.equal("learning rate of the first epoch", hparams["learning_rate"] * hparams["lr_decay"], first)
    from lightning_cifake.commands.lightning_arguments import TRAINER_DEFAULTS

    claim.equal("epochs", TRAINER_DEFAULTS["max_epochs"], EPOCHS)


def test_the_head_and_the_norms_have_the_same_constants(their_model, our_network, keras, claim):
    backbone, *layers = their_model.layers
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Flatten", "Dense", "BatchNormalization", "Dropout", "Dense", "Dense"]
    ours = {kind: layer for kind, layer in our_network.head.named_modules() if kind}
    theirs = [layer.units for layer in layers if isinstance(layer, keras.layers.Dense)]
    units = [layer.out_features for layer in ours.values() if isinstance(layer, nn.Linear)]
    claim.equal("units of the head's dense layers", units, theirs)
    claim.equal("dropout's rate", ours["dropout"].p, layers[3].rate)
    claim.equal("dropout stands behind the head's batch norm, before its second dense layer", list(ours)[3:5],
                ["dropout", "dense2"])  # fmt: skip
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    epsilons = [{norm.eps for norm in our_network.backbone.modules() if hasattr(norm, "running_var")}]
    claim.equal("epsilons of the backbone's batch norms", epsilons, [{norm.epsilon for norm in norms}])
    claim.equal("epsilon of the head's batch norm", ours["norm"].eps, layers[2].epsilon)
    momenta = {1 - each.momentum for each in our_network.modules() if hasattr(each, "running_var")}
    theirs = {norm.momentum for norm in [*norms, layers[2]]}
    claim.equal("momenta of all batch norms, as Keras counts them", [momenta], [theirs])


def test_the_data_has_the_same_constants(tf, keras, claim):
    from keras.src.utils import image_dataset_utils

    from tf_reference import data

    given = inspect.signature(keras.utils.image_dataset_from_directory).parameters
    defaults = [given[name].default for name in ("batch_size", "shuffle", "interpolation")]
    ours = [protocols.PUBLISHED_BATCH, True, "bilinear"]
    claim.equal("image_dataset_from_directory's defaults: images a batch, shuffled, bilinear", ours, defaults)
    assert data.BATCH_SIZE == protocols.PUBLISHED_BATCH
    assert "shuffle_buffer_size = batch_size * 8\n" in inspect.getsource(image_dataset_utils)
    claim.equal("tf_reference's shuffle buffer, 8 batches as Keras's", data.SHUFFLE_BUFFER, 8 * defaults[0])
    numbers = (625, 3125)  # 3750: test_split.py
    cuts = [[cut(n) for n in numbers] for cut in (protocols.published_batches, data.split_sizes)]
    claim.equal("batches of train, validation and test, of 625 and of 3,125", *cuts)
    source = inspect.getsource(data.augment_data)
    low, high = augment.CONTRAST
    ranges = (f"max_delta={augment.MAX_BRIGHTNESS}", f"lower={low}, upper={high}")
    claim.equal("ranges of brightness and contrast that tf_reference asks for", [each in source for each in ranges],
                [True, True])  # fmt: skip


def test_the_first_weights_are_drawn_as_keras_draws_them(their_model, our_network, claim):
    ours, theirs = our_weights(our_network), their_weights(their_model)
    assert ours.keys() == theirs.keys()
    drawn = [name for name, value in ours.items() if value.ndim > 1]
    assert len(drawn) == 53 + 3
    others = [(ours[name], theirs[name]) for name in ours if name not in drawn]
    text = "first biases, scales, shifts and running statistics: values unlike Keras's"
    claim.equal(text, *(np.concatenate(values) for values in zip(*others, strict=True)))
    furthest = max(spreads_apart(ours[name], theirs[name]) for name in drawn)
    claim(f"spread of each of {len(drawn)} kernels' first values against Keras's", furthest, tolerances.FIRST_SPREAD)
    distance = max(
        scipy.stats.ks_2samp(ours[name].ravel()[:2000], theirs[name].ravel()[:2000], method="asymp").statistic
        for name in drawn
        if ours[name].size >= 2000
    )
    claim("2,000 first values of each kernel: Smirnov's distance, the largest", distance, tolerances.KS_DISTANCE)
    moved = spreads_apart(array(nn.Linear(2048, 256).weight), theirs["head.dense1.weight"])
    claim.fault("first weights of a dense layer as torch draws them: spread", moved, tolerances.FIRST_SPREAD, factor=10)


def spreads_apart(ours, theirs):
    """Two standard deviations, compared, in units of what chance makes of the ratio of two samples of uniform draws."""
    return abs(ours.std() / theirs.std() - 1) / np.sqrt(0.4 / ours.size)


UNITS = (1024, 1024)  # as many counts in rows as in columns, a million draws


class Dropped:
    """What a dropout layer does to ones of UNITS: which it drops, and what stays of those that it keeps."""

    def __init__(self, output):
        self.units = output == 0
        self.kept = np.unique(output[~self.units])

    @property
    def share(self):
        return self.units.mean()

    def spread(self, axis):
        """Variance of how many are dropped of an image (1), or of a feature (0)."""
        return self.units.sum(axis).var()


@pytest.fixture(scope="module")
def layers(their_model, our_network):
    """The dropout layers of both published networks, in train mode, as functions of an array."""
    ours, theirs = our_network.head.dropout, their_model.layers[4]
    return (
        lambda values: array(ours.train()(torch.from_numpy(values))),
        lambda values: np.array(theirs(values, training=True)),
    )


@pytest.fixture(scope="module")
def dropped(layers):
    torch.manual_seed(0)
    return [Dropped(layer(np.ones(UNITS, np.float32))) for layer in layers]


def test_dropout_drops_as_often_as_keras_and_each_unit_by_itself(dropped, claim):
    ours, theirs = dropped
    text = "share that dropout drops of a million units"
    claim(f"{text}, ours against Keras's", abs(ours.share - theirs.share), tolerances.DROPOUT_RATE, DROPOUT)
    claim(f"{text}, ours against the published 0.5", abs(ours.share - 0.5), tolerances.DROPOUT_RATE, DROPOUT)
    for axis, of in ((1, "an image"), (0, "a feature")):
        ratio = ours.spread(axis) / theirs.spread(axis)
        text = f"variance of how many units dropout drops of {of}, ratio less 1"
        claim(text, abs(ratio - 1), tolerances.DROPOUT_SPREAD, DROPOUT)
    once = np.repeat(ours.units[:1], UNITS[0], axis=0)
    moved = abs(once.sum(0).var() / theirs.spread(0) - 1)
    claim.fault("one draw of dropout for all images: variance", moved, tolerances.DROPOUT_SPREAD, 10, DROPOUT)


def test_dropout_scales_what_it_keeps_by_one_over_the_share_kept(dropped, claim):
    for side, found in zip(("ours", "Keras's"), dropped, strict=True):
        claim.equal(f"what dropout makes of a 1 that it keeps, {side}", found.kept, np.float32([2]), DROPOUT)


def test_a_rate_of_dropout_of_four_tenths_is_seen(layers, dropped, our_network, claim, monkeypatch):
    monkeypatch.setattr(our_network.head.dropout, "p", 0.4)
    wrong = Dropped(layers[0](np.ones(UNITS, np.float32)))
    moved = abs(wrong.share - dropped[1].share)
    claim.fault("dropout's rate 0.4 instead of 0.5: share dropped", moved, tolerances.DROPOUT_RATE, 10, DROPOUT)
    moved = np.count_nonzero(wrong.kept != dropped[1].kept)
    text = "dropout's rate 0.4 instead of 0.5: what is kept is scaled otherwise"
    claim.fault(text, moved, tolerances.EXACT, rung=DROPOUT)


def test_dropout_without_its_scale_is_seen(dropped, claim):
    unscaled = Dropped(np.where(dropped[0].units, 0, 1))
    moved = np.count_nonzero(unscaled.kept != dropped[1].kept)
    claim.fault("dropout that does not scale what it keeps", moved, tolerances.EXACT, rung=DROPOUT)


def test_both_whole_networks_drop_in_train_mode_and_nothing_in_eval_mode(their_model, our_network, claim):
    """Inside the whole network, at its place: what goes into the layer against what comes out of it."""
    images = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
    for training in (True, False):
        our_network.train(training)
        with seen(our_network.head.dropout, "forward") as ours, torch.no_grad():
            our_network(torch.from_numpy(images).permute(0, 3, 1, 2))
        with seen(their_model.layers[4], "call") as theirs:
            their_model(images, training=training)
        for side, (before, after) in (("ours", ours), ("Keras's", theirs)):
            if training:
                changed = np.count_nonzero((after != 0) & (after != 2 * before))
                text = f"units of the whole network in train mode that dropout neither drops nor doubles, {side}"
                claim.equal(text, changed, 0, DROPOUT)
                assert 0.4 < np.mean(after == 0) < 0.6
            else:
                text = f"units of the whole network in eval mode that dropout changes, {side}"
                claim.equal(text, np.count_nonzero(after != before), 0, DROPOUT)
    our_network.head.dropout.train()  # the network is in eval mode
    with seen(our_network.head.dropout, "forward") as pair, torch.no_grad():
        our_network(torch.from_numpy(images).permute(0, 3, 1, 2))
    moved = np.count_nonzero(pair[1] != pair[0])
    claim.fault("dropout left on in eval mode: units changed", moved, tolerances.EXACT, rung=DROPOUT)


@contextmanager
def seen(layer, method):
    """What goes into the layer and what comes out of it in the block, as arrays."""
    pair, plain = [], getattr(layer, method)

    def noted(values, **given):
        output = plain(values, **given)
        pair.extend(np.array(each) for each in (values, output))
        return output

    with patch.object(layer, method, noted):
        yield pair
