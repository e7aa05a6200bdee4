"""The converter against Keras itself: what Keras saved, our network computes, and what we write, Keras computes."""

import json

import numpy as np
import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.exporter import Exported, build_model
from lightning_cifake.keras_io.graph import read_graph
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.keras_io.match_resnet import recognise
from lightning_cifake.keras_io.weights import to_state_dict
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.convert import Options, convert, read_exported
from lightning_cifake.training.initial_weights import load_weights
from lightning_cifake.training.keras_adam import KerasAdam
from parity_tests import tolerances

RUNG = "8 round trip"

BEFORE = 2  # steps in Keras before the conversion
EPOCHS = 44  # that the schedule has behind it then: late, where rounding is not blown up (replay.LATE_LEARNING_RATE)


def perturb(model):
    """Every variable moved, so that no two layers are alike and batch norm is far from the identity."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        value, name = np.array(variable), variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
        elif name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.uniform(-0.2, 0.2, value.shape))
    return model


def backbone_of(keras, **arguments):
    return keras.applications.ResNet50(weights=None, include_top=False, **{"input_shape": (32, 32, 3), **arguments})


@pytest.fixture(scope="module")
def backbone(keras_float64):
    return perturb(backbone_of(keras_float64))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((8, 32, 32, 3))


def published_head(keras, rate=0.5):
    layers = keras.layers
    return [
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(rate),
        layers.Dense(128, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ]


@pytest.fixture(scope="module")
def published(keras_float64, backbone):
    keras = keras_float64
    head = perturb(keras.Sequential([keras.Input((1, 1, 2048)), *published_head(keras)]))
    return keras.Sequential([keras.Input((32, 32, 3)), backbone, *head.layers])


def theirs(model, images):
    return np.array(model(images, training=False))[:, 0]


def ours(network, images):
    with torch.no_grad():
        return network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).sigmoid().numpy()


def imported(path, **arguments):
    """The network of a Keras file, without a checkpoint between."""
    found = import_keras(path, **arguments)
    network = ResNet50Detector(head=found.head, dropout=found.dropout, image_size=found.image_size, pixels=found.pixels)
    dtype = found.state["backbone.conv1.weight"].dtype
    network.to(dtype).load_state_dict(found.state, strict=True)
    return network, found


def agree(model, network, images):
    expected = theirs(model, images)
    assert np.ptp(expected) > 1e-4  # not one constant for all
    assert np.abs(ours(network, images) - expected).max() < tolerances.FORWARD_EVAL_FLOAT64


def network_of(checkpoint):
    classifier = load_classifier(checkpoint).double()
    classifier.load_state_dict(read_checkpoint(checkpoint)["state_dict"])  # again: float32 has rounded it
    return classifier.network


@pytest.fixture(scope="module")
def round_trip(keras_float64, published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round_trip")
    first, checkpoint, second = folder / "first.keras", folder / "between.ckpt", folder / "second.keras"
    published.save(first)
    report = convert(first, checkpoint, Options())
    convert(checkpoint, second, Options())
    return first, checkpoint, second, report


def test_a_keras_model_becomes_a_checkpoint_with_its_probabilities(round_trip, published, images):
    _, checkpoint, _, report = round_trip
    assert "328 weights, 24,146,305 values in float64" in report.line
    assert "no optimizer state" in report.line
    assert all(note.startswith("taken for granted: ") for note in report.notes)
    agree(published, network_of(checkpoint), images)


def test_a_checkpoint_becomes_a_keras_model_with_its_probabilities(round_trip, published, images, keras_float64):
    again = keras_float64.models.load_model(round_trip[2])
    assert again.count_params() == 24_146_305
    assert again.layers[0].get_layer("conv1_conv").kernel.dtype == "float64"
    assert np.abs(theirs(again, images) - theirs(published, images)).max() < tolerances.FORWARD_EVAL_FLOAT64


def test_a_second_conversion_changes_no_bit(round_trip, tmp_path):
    _, checkpoint, second, _ = round_trip
    convert(second, tmp_path / "again.ckpt", Options())
    before, after = (read_checkpoint(path)["state_dict"] for path in (checkpoint, tmp_path / "again.ckpt"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_legacy_h5_and_weights_files_hold_the_same_network(published, images, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("absl.logging.warning", lambda *_: None)
        published.save(tmp_path / "whole.h5")
    published.save_weights(tmp_path / "published.weights.h5")
    for name in ("whole.h5", "published.weights.h5"):
        network, found = imported(tmp_path / name)
        agree(published, network, images)
        assert (found.head, found.dropout) == (
            "flatten, dense 256 relu, batchnorm, dropout, dense 128 relu, dense 1",
            0.5,
        )


@pytest.mark.parametrize("end", [".h5", ".weights.h5"])
def test_checkpoints_become_the_other_formats_of_keras(round_trip, published, images, tmp_path, end, keras_float64):
    target = tmp_path / f"model{end}"
    convert(round_trip[1], target, Options())
    if end == ".h5":
        again = keras_float64.models.load_model(target)
    else:
        again = keras_float64.models.clone_model(published)
        again.load_weights(target)
    assert np.abs(theirs(again, images) - theirs(published, images)).max() < tolerances.FORWARD_EVAL_FLOAT64


ACTIVATIONS = ("elu", "selu", "gelu", "silu", "swish", "sigmoid", "linear")


def heads(keras):
    """Layers in Keras and the line they become."""
    layers = keras.layers
    dense = layers.Dense
    pooled = layers.GlobalAveragePooling2D
    return {
        "global average pooling": ([pooled(), dense(1)], "avgpool, dense 1"),
        "activations apart": (
            [layers.Flatten(), dense(16), layers.ReLU(), dense(8), layers.Activation("tanh")],
            "flatten, dense 16 relu, dense 8 tanh, dense 1",
        ),
        "every activation": (
            [pooled(), layers.Flatten(), *(dense(9, activation=name) for name in ACTIVATIONS)],
            "avgpool, dense 9 elu, dense 9 selu, dense 9 gelu, dense 9 silu, dense 9 silu, dense 9 sigmoid, dense 9, "
            "dense 1",
        ),
        "batch norms of other constants": (
            [
                *[layers.Flatten(), layers.BatchNormalization(), dense(16, use_bias=False)],
                *[layers.BatchNormalization(epsilon=0.5, momentum=0.9), layers.Activation("relu")],
                *[layers.Dropout(0.2), dense(8, activation="relu"), layers.Dropout(0.1)],
            ],
            "flatten, batchnorm, dense 16 nobias, batchnorm eps 0.5 momentum 0.1, relu, dropout 0.2, dense 8 relu, "
            "dropout 0.1, dense 1",
        ),
    }


@pytest.mark.parametrize(
    "kind",
    ["global average pooling", "activations apart", "every activation", "batch norms of other constants"],
)
def test_other_heads_are_taken_and_given_back(keras_float64, backbone, images, tmp_path, kind):
    keras = keras_float64
    layers, line = heads(keras)[kind]
    if kind != "global average pooling":  # which ends in a logit
        layers += [keras.layers.Dense(1), keras.layers.Activation("sigmoid")]
    head = perturb(keras.Sequential([keras.Input((1, 1, 2048)), *layers]))
    model = keras.Sequential([keras.Input((32, 32, 3)), backbone, *layers])
    assert len(head.layers) == len(layers)
    model.save(tmp_path / "model.keras")
    network, found = imported(tmp_path / "model.keras")
    assert found.head == line
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
    output = theirs(model, images)
    if kind == "global average pooling":
        output = 1 / (1 + np.exp(-output))
    assert np.ptp(output) > 1e-5  # seven activations one behind the other leave little
    assert np.abs(logits.sigmoid().numpy() - output).max() < tolerances.FORWARD_EVAL_FLOAT64
    if kind == "batch norms of other constants":
        given = Exported(found.state, found.head, 0.5, 32, False, 1e-3, None, None, None)
        again = build_model(keras, given)
        assert np.abs(theirs(again, images) - output).max() < tolerances.FORWARD_EVAL_FLOAT64
        norm = again.get_layer("norm2")
        assert (norm.epsilon, norm.momentum) == (0.5, 0.9)


def pooled_inside(keras, entry):
    """A Rescaling, a model in the model, and its pooling in it."""
    return backbone_of(keras, pooling="avg")(keras.layers.Rescaling(1 / 255)(entry))


def flat(keras, entry):
    return keras.layers.GlobalAveragePooling2D()(backbone_of(keras, input_tensor=entry).output)


def flattened(keras, entry):
    return keras.layers.Flatten()(backbone_of(keras, input_shape=(64, 64, 3))(entry))


# Keras's Rescaling rounds its factor to float32, in float64 too
PIXEL = float(np.float32(1 / 255))


@pytest.mark.parametrize(("form", "size", "scale"), [(flat, 32, 1), (pooled_inside, 32, PIXEL), (flattened, 64, 1)])
def test_functional_models_are_taken_in_the_forms_people_write(keras_float64, tmp_path, form, size, scale):
    keras = keras_float64
    images = np.random.default_rng(2).random((4, size, size, 3))
    entry = keras.Input((size, size, 3))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(12, activation="relu")(form(keras, entry)))
    model = perturb(keras.Model(entry, keras.layers.Dense(1, activation="sigmoid")(hidden)))
    model.save(tmp_path / "model.keras")
    network, found = imported(tmp_path / "model.keras")
    expected = theirs(model, images / scale)
    assert np.ptp(expected) > 1e-4
    assert np.abs(ours(network, images) - expected).max() < tolerances.FORWARD_EVAL_FLOAT64
    assert any("its own scaling" in note for note in found.notes) == (scale != 1)
    assert (found.image_size, found.dropout) == (size, 0.3)


def steps(keras, tf, model, batches, factor):
    """Steps of Keras's Adam at the published rate of an epoch."""
    model.optimizer.learning_rate = 1e-3 * factor
    variables = model.trainable_variables
    for images, labels in batches:
        with tf.GradientTape() as tape:
            predicted = model(tf.constant(images), training=True)
            loss = keras.ops.mean(keras.losses.binary_crossentropy(tf.constant(labels), predicted))
        model.optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(3)
    # 32: with batches of 8 the last stage normalises 8 values, and rounding grows a thousand times faster
    return [(rng.random((32, 32, 32, 3)), rng.integers(0, 2, (32, 1)).astype(float)) for _ in range(BEFORE + 5)]


@pytest.fixture(scope="module")
def trained(keras_float64, tf, batches, tmp_path_factory):
    """The published model after some steps of Adam late in the schedule, in Keras, its file and its conversion."""
    keras = keras_float64
    head = published_head(keras, rate=0.0)
    model = keras.Sequential([keras.Input((32, 32, 3)), perturb(backbone_of(keras)), *head])
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    steps(keras, tf, model, batches[:BEFORE], 0.95**EPOCHS)
    folder = tmp_path_factory.mktemp("trained")
    model.save(folder / "trained.keras")
    report = convert(folder / "trained.keras", folder / "last.ckpt", Options())
    convert(folder / "last.ckpt", folder / "back.keras", Options())
    return model, folder, report


def our_steps(checkpoint, batches):
    """Resumes as the classifier does: its optimizer and its schedule, with the checkpoint's state."""
    content = read_checkpoint(checkpoint)
    classifier = load_classifier(checkpoint).double()
    classifier.load_state_dict(content["state_dict"])
    (optimizer,), (schedule,) = classifier.configure_optimizers()
    optimizer.load_state_dict(content["optimizer_states"][0])
    schedule.load_state_dict(content["lr_schedulers"][0])
    assert isinstance(optimizer, KerasAdam)
    network = classifier.network.train()
    for images, labels in batches:
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[:, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, optimizer.param_groups[0]["lr"]


def test_a_model_converted_there_and_back_has_kerass_own_optimizer_state(trained, keras_float64):
    model, folder, _ = trained
    back = keras_float64.models.load_model(folder / "back.keras")
    assert type(back.optimizer) is keras_float64.optimizers.Adam
    assert float(back.optimizer.learning_rate) == pytest.approx(1e-3 * 0.95**EPOCHS, rel=1e-12)
    found, expected = back.optimizer.variables, model.optimizer.variables
    assert len(found) == len(expected) == 442
    assert int(found[0]) == int(expected[0]) == BEFORE
    names = [variable.path for variable in expected]
    for name, actual, other in zip(names[2:], found[2:], expected[2:], strict=True):
        if "_conv_bias_" not in name:  # rounding alone, which batch norm takes away
            assert np.array_equal(np.array(actual), np.array(other)), name
            assert np.abs(np.array(actual)).max() > 0, name


def state_of(model, like):
    """The published model's weights under our names, without a file between."""
    named = dict(zip(model.layers, ["", "", "dense1", "norm", "", "dense2", "logit"], strict=True))
    layers = [(layer.name, layer) for layer in model.layers[0].layers]
    layers += [(name, layer) for layer, name in named.items() if name]
    weights = {f"{name}/{variable.name}": np.array(variable) for name, layer in layers for variable in layer.weights}
    return to_state_dict(weights, like, "the model")


def test_two_steps_go_on_as_in_keras_from_a_converted_model(trained, keras_float64, tf, batches, claim):
    model, folder, report = trained
    assert f"Adam after {BEFORE} steps, epochs done: {EPOCHS}" in report.line
    claim_it_goes_on(keras_float64, tf, model, folder, batches[BEFORE:][:2], claim)


@pytest.mark.long
def test_training_goes_on_as_in_keras_from_a_converted_model(trained, keras_float64, tf, batches, claim):
    _, folder, _ = trained
    model = keras_float64.models.load_model(folder / "trained.keras")
    claim_it_goes_on(keras_float64, tf, model, folder, batches[BEFORE:], claim)


def claim_it_goes_on(keras, tf, model, folder, batches, claim):
    network, rate = our_steps(folder / "last.ckpt", batches)
    assert rate == pytest.approx(1e-3 * 0.95 ** (EPOCHS + 1), rel=1e-12)
    before = np.array(model.layers[0].get_layer("conv1_conv").kernel)
    steps(keras, tf, model, batches, 0.95 ** (EPOCHS + 1))
    assert np.abs(np.array(model.layers[0].get_layer("conv1_conv").kernel) - before).max() > 1e-4
    found = network.state_dict()
    expected = state_of(model, found)
    apart = {n: (found[n] - value).abs().max().item() for n, value in expected.items() if value.is_floating_point()}
    lagging = [name for name in apart if name.startswith("backbone.") and name.endswith("running_mean")]
    means = max(apart.pop(name) for name in lagging)
    text = f"after {len(batches)} more steps in both, from a model trained in Keras and converted"
    claim(f"weights {text}", max(apart.values()), tolerances.CONTINUED_FLOAT64)
    claim(f"running means of the backbone {text}", means, tolerances.CONTINUED_MEANS_FLOAT64)


def test_a_frozen_backbone_stays_frozen_both_ways(keras_float64, backbone, published, tmp_path):
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
    assert len(back.trainable_variables) == 8
    assert int(back.optimizer.iterations) == 7
    for actual, other in zip(back.optimizer.variables[2:], model.optimizer.variables[2:], strict=True):
        assert np.array_equal(np.array(actual), np.array(other))


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


def test_kerass_own_file_of_weights_fills_the_backbone(keras, tmp_path):
    """The form of the file that keras.applications fetches: groups by layer, no configuration."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    base = perturb(backbone_of(keras))
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, base)
    base.save_weights(tmp_path / "notop.weights.h5")
    images = np.random.default_rng(4).random((4, 32, 32, 3)).astype(np.float32)
    expected = np.array(base(images, training=False))
    for name in ("notop.h5", "notop.weights.h5"):
        network = ResNet50Detector()
        load_weights(network, str(tmp_path / name))
        maps = []
        network.backbone.layer4.register_forward_hook(lambda _m, _a, out, maps=maps: maps.append(out))
        ours(network, images)
        found = maps[0].permute(0, 2, 3, 1).numpy()
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()  # float32 on both sides
