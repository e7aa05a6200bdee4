"""The converter against Keras itself: what Keras saved, our network computes, and what we write, Keras computes."""

import json

import numpy as np
import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.exporter import build_model
from lightning_cifake.keras_io.graph import read_graph
from lightning_cifake.keras_io.match_resnet import recognise
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.convert import Options, convert, read_exported
from lightning_cifake.training.initial_weights import load_weights
from parity_tests import tolerances
from parity_tests.keras_files import (
    apart,
    backbone_of,
    imported,
    made_in,
    network_of,
    ours,
    perturb,
    published_head,
    save_h5,
    theirs,
)

RUNG = "8 round trip"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((8, 32, 32, 3))


@pytest.fixture(scope="module")
def published(keras_float64, backbone):
    keras = keras_float64
    head = perturb(keras.Sequential([keras.Input((1, 1, 2048)), *published_head(keras)]))
    return keras.Sequential([keras.Input((32, 32, 3)), backbone, *head.layers])


@pytest.fixture(scope="module")
def expected(published, images):
    """What the published model answers in Keras."""
    answers = theirs(published, images)
    assert np.ptp(answers) > 1e-4  # not one constant for all
    return answers


@pytest.fixture(scope="module")
def round_trip(keras_float64, published, module_folder):
    folder = module_folder("round_trip")
    first, checkpoint, second = folder / "first.keras", folder / "between.ckpt", folder / "second.keras"
    published.save(first)
    report = convert(first, checkpoint, Options())
    convert(checkpoint, second, Options())
    return first, checkpoint, second, report


def claim_alike(claim, text, found, expected):
    claim(f"P(REAL) of the published model, float64: {text}", apart(found, expected), tolerances.FORWARD_EVAL_FLOAT64)


def test_a_keras_model_becomes_a_checkpoint_with_its_probabilities(round_trip, expected, images, claim):
    _, checkpoint, _, report = round_trip
    assert "328 weights, 24,146,305 values in float64" in report.line
    assert "no optimizer state" in report.line
    assert all(note.startswith("taken for granted: ") for note in report.notes)
    claim_alike(claim, "a .keras file, converted to a checkpoint", ours(network_of(checkpoint), images), expected)


def test_a_checkpoint_becomes_a_keras_model_with_its_probabilities(round_trip, expected, images, keras_float64, claim):
    again = keras_float64.models.load_model(round_trip[2])
    assert again.count_params() == 24_146_305
    assert again.layers[0].get_layer("conv1_conv").kernel.dtype == "float64"
    claim_alike(claim, "the checkpoint, converted back to a .keras file", theirs(again, images), expected)


def test_a_second_conversion_changes_no_bit(round_trip, tmp_path, claim):
    _, checkpoint, second, _ = round_trip
    convert(second, tmp_path / "again.ckpt", Options())
    before, after = (read_checkpoint(path)["state_dict"] for path in (checkpoint, tmp_path / "again.ckpt"))
    assert before.keys() == after.keys()
    changed = sum((before[name] != after[name]).sum().item() for name in before)
    claim.equal("values that a second round, checkpoint -> .keras -> checkpoint, changes of 24 million", changed, 0)


def test_legacy_h5_and_weights_files_hold_the_same_network(published, expected, images, tmp_path, claim):
    save_h5(published, tmp_path / "whole.h5")
    published.save_weights(tmp_path / "published.weights.h5")
    for name, text in (("whole.h5", "an .h5 file"), ("published.weights.h5", "a .weights.h5 file, of weights alone")):
        network, found = imported(tmp_path / name)
        claim_alike(claim, f"{text}, read", ours(network, images), expected)
        assert (found.head, found.dropout) == (PUBLISHED_HEAD, 0.5)


@pytest.mark.parametrize("end", [".h5", ".weights.h5"])
def test_checkpoints_become_the_other_formats_of_keras(
    round_trip, published, expected, images, tmp_path, end, keras_float64, claim
):
    target = tmp_path / f"model{end}"
    convert(round_trip[1], target, Options())
    if end == ".h5":
        again = keras_float64.models.load_model(target)
    else:
        again = keras_float64.models.clone_model(published)
        again.load_weights(target)
    claim_alike(claim, f"the checkpoint, converted back to {end}", theirs(again, images), expected)


def test_a_frozen_backbone_stays_frozen_both_ways(keras_float64, backbone, published, tmp_path, claim):
    keras = keras_float64
    backbone.trainable = False
    try:
        model = keras.Sequential([keras.Input((32, 32, 3)), *published.layers])
        model.compile(optimizer=keras.optimizers.Adam(1e-3 * 0.95), loss="binary_crossentropy")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(7)
        for at, variable in enumerate(model.optimizer.variables[2:]):
            variable.assign(np.random.default_rng(at).random(variable.shape))
        model.save(tmp_path / "frozen.keras")
    finally:
        backbone.trainable = True
    convert(tmp_path / "frozen.keras", tmp_path / "frozen.ckpt", Options())
    content = read_checkpoint(tmp_path / "frozen.ckpt")
    assert content["hyper_parameters"]["network"]["init_args"]["freeze_backbone"]
    notes = []
    back = build_model(keras, read_exported(content, tmp_path / "frozen.ckpt", notes))
    assert not notes
    what = "a frozen backbone, Keras -> Lightning -> Keras"
    claim.equal(f"{what}: weights that train", len(back.trainable_variables), 8)
    claim.equal(f"{what}: Adam's steps", int(back.optimizer.iterations), 7)
    moments = [[np.array(each) for each in every.optimizer.variables[2:]] for every in (back, model)]
    claim.equal(f"{what}: Adam's moments", *moments)


def recognised(keras, model):
    """Of the configuration alone, as it stands in a file."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    return recognise(read_graph(config, "foreign.keras"), "foreign.keras")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ("ResNet50V2", r"the first layer that differs is pool1_pad: expected BatchNormalization \(conv1_bn\)"),
        ("ResNet101", r"that differs is conv4_block7_1_conv: expected filters 512 \(conv5_block1_1_conv\), got 256"),
        ("EfficientNetB0", r"first layer that differs is stem_conv_pad: expected padding \[\[3, 3\], \[3, 3\]\]"),
        ("MobileNetV2", r"first layer that differs is Conv1: expected ZeroPadding2D \(conv1_pad\), got Conv2D"),
        ("plain", r"first layer that differs is \S+: expected ZeroPadding2D \(conv1_pad\), got Conv2D"),
        ("max", r"cannot take layer max_pool \(GlobalMaxPooling2D\): expected Flatten or GlobalAveragePooling2D"),
        ("lambda", r"layer half holds code of its own \(Lambda\), which is never run: refused"),
        ("softmax", r"cannot take layer \S+ \(Dense\): expected Dense\(1\) .*, or Dense\(2\) .*, got 3 units"),
    ],
)  # fmt: skip
def test_foreign_models_are_refused_by_the_first_layer_that_differs(keras, build, said):
    layers, applications = keras.layers, keras.applications
    first = [keras.Input((32, 32, 3))]
    last = [layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")]
    if build == "plain":
        middle = [layers.Conv2D(8, 3)]
    elif build == "max":
        middle, last = [backbone_of(keras, pooling="max")], [layers.Dense(1)]
    elif build == "lambda":
        middle = [layers.Lambda(lambda x: x / 2, name="half"), layers.Conv2D(8, 3)]
    elif build == "softmax":
        middle, last = [backbone_of(keras)], [layers.Flatten(), layers.Dense(3, activation="softmax")]
    else:
        middle = [getattr(applications, build)(weights=None, include_top=False, input_shape=(32, 32, 3))]
    with pytest.raises(UserError, match=said):
        recognised(keras, keras.Sequential([*first, *middle, *last]))


def test_kerass_own_file_of_weights_fills_the_backbone(keras_float64, backbone, images, tmp_path, claim):
    """The form of the file that keras.applications fetches: groups by layer, no configuration."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(tmp_path / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, backbone)
    backbone.save_weights(tmp_path / "notop.weights.h5")
    expected = np.array(backbone(images, training=False))
    for name, text in (("notop.h5", "as keras.applications fetches them"), ("notop.weights.h5", ".weights.h5")):
        with made_in(torch.float64):
            network = ResNet50Detector()
        load_weights(network, str(tmp_path / name))
        maps = []
        network.backbone.layer4.register_forward_hook(lambda _m, _a, out, maps=maps: maps.append(out))
        ours(network, images)
        found = maps[0].permute(0, 2, 3, 1).numpy()
        text = f"ResNet50's last maps, float64, weights of a backbone alone ({text}), relative to their largest value"
        claim(text, apart(found, expected) / np.abs(expected).max(), tolerances.STAGE_FLOAT64)
