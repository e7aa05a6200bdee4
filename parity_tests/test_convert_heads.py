"""Heads and forms as people write them: one logit, two classes, other layers, a model in a model; there and back."""

import numpy as np
import pytest

from lightning_cifake.keras_io.exporter import Exported, build_model
from parity_tests import tolerances
from parity_tests.keras_files import apart, backbone_of, imported, ours, outputs, perturb, prob_real, save_h5

RUNG = "8 round trip"
ACTIVATIONS = ("elu", "selu", "gelu", "silu", "swish", "sigmoid", "linear")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((8, 32, 32, 3))


def without_gelu():
    """TensorFlow before 2.19 rounds another constant in it, the root of 2: 1e-8 off what is copied here."""
    import tensorflow as tf

    return tuple(map(int, tf.__version__.split(".")[:2])) < (2, 19)


def heads(keras):
    """What it is called -> layers in Keras, the line they become, and whether logits come out."""
    layers = keras.layers
    dense, pooled, flat = layers.Dense, layers.GlobalAveragePooling2D, layers.Flatten
    end = [dense(1), layers.Activation("sigmoid")]
    names = [name for name in ACTIVATIONS if name != "gelu" or not without_gelu()]
    gelu = "dense 9 gelu, " * ("gelu" in names)
    return {
        "one logit": ([pooled(), dense(1)], "avgpool, dense 1", True),
        "activations as layers of their own": (
            [flat(), dense(16), layers.ReLU(), dense(8), layers.Activation("tanh"), *end],
            "flatten, dense 16 relu, dense 8 tanh, dense 1",
            False,
        ),
        "every activation": (
            [pooled(), flat(), *(dense(9, activation=name) for name in names), *end],
            f"avgpool, dense 9 elu, dense 9 selu, {gelu}dense 9 silu, dense 9 silu, dense 9 sigmoid, dense 9, dense 1",
            False,
        ),
        "batch norms and dropout of other constants": (
            [
                *[flat(), layers.BatchNormalization(), dense(16, use_bias=False)],
                *[layers.BatchNormalization(epsilon=0.5, momentum=0.9), layers.Activation("relu")],
                *[layers.Dropout(0.2), dense(8, activation="relu"), layers.Dropout(0.1), *end],
            ],
            "flatten, batchnorm, dense 16 nobias, batchnorm eps 0.5 momentum 0.1, relu, dropout 0.2, dense 8 relu, "
            "dropout 0.1, dense 1",
            False,
        ),
    }


HEADS = [
    "one logit", "activations as layers of their own", "every activation", "batch norms and dropout of other constants",
]  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_other_heads_are_taken_and_given_back(keras_float64, backbone, images, tmp_path, kind, claim):
    keras = keras_float64
    layers, line, logits = heads(keras)[kind]
    model = saved(keras, backbone, layers, tmp_path / "model.keras")
    network, found = imported(tmp_path / "model.keras")
    assert found.head == line
    expected = prob_real(outputs(model, images), logits)
    but = ", but GELU" * (kind == "every activation" and without_gelu())
    claim_alike(claim, f"a head of {kind}{but}", ours(network, images), expected)
    if kind == "batch norms and dropout of other constants":
        again = given_back(keras, found)
        claim_alike(claim, f"a head of {kind}, and back", prob_real(outputs(again, images)), expected)
        norm = again.get_layer("norm2")
        claim.equal("epsilon and momentum of a head's batch norm, and back", (norm.epsilon, norm.momentum), (0.5, 0.9))


def saved(keras, backbone, layers, path):
    """The layers behind ResNet50, every one of them moved, and the model's file."""
    perturb(keras.Sequential([keras.Input((1, 1, 2048)), *layers]))
    model = keras.Sequential([keras.Input((32, 32, 3)), backbone, *layers])
    save_h5(model, path) if path.suffix == ".h5" else model.save(path)
    return model


def given_back(keras, found):
    """The model that Keras is handed of an imported one."""
    return build_model(keras, Exported(found.state, found.head, found.dropout, 32, False, 1e-3, None, None, None))


def claim_alike(claim, text, found, expected):
    assert np.ptp(expected) > 1e-5  # seven activations one behind the other leave little
    claim(f"P(REAL), float64: {text}", apart(found, expected), tolerances.FORWARD_EVAL_FLOAT64)


def two_classes(keras, kind):
    """Layers behind ResNet50 that end in an output for each class."""
    layers = keras.layers
    hidden = [layers.GlobalAveragePooling2D(), layers.Dense(8, activation="relu")]
    end = {
        "softmax in its layer": [layers.Dense(2, activation="softmax")],
        "logits": [layers.Dense(2)],
        "a Softmax of its own": [layers.Dense(2), layers.Softmax()],
        # Keras's guide to mixed precision has this behind whatever a model ends in
        "softmax, then a cast to float": [
            layers.Dense(2, activation="softmax"),
            layers.Activation("linear", dtype="float64"),
        ],
    }[kind]
    return [*hidden, *end]


TWO_CLASSES = [
    "softmax in its layer",
    "logits",
    pytest.param("a Softmax of its own", marks=pytest.mark.long),
    pytest.param("softmax, then a cast to float", marks=pytest.mark.long),
]


@pytest.mark.parametrize("kind", TWO_CLASSES)
def test_two_classes_are_one_probability_there_and_back(keras_float64, backbone, images, tmp_path, kind, claim):
    keras = keras_float64
    path = tmp_path / ("model.h5" if kind == "logits" else "model.keras")
    model = saved(keras, backbone, two_classes(keras, kind), path)
    network, found = imported(path)
    assert (found.head, found.adam) == ("avgpool, dense 8 relu, dense 1", None)
    output = outputs(model, images)
    expected, what = prob_real(output, logits=kind == "logits"), f"Dense(2), {kind}"
    probabilities, again = ours(network, images), prob_real(outputs(given_back(keras, found), images))
    claim_alike(claim, f"two classes, {what}", probabilities, expected)
    claim_alike(claim, f"two classes, {what}, and back: one sigmoid", again, expected)
    moved = apart(1 - probabilities, expected)
    claim.fault("two classes exchanged, FAKE for REAL: P(REAL)", moved, tolerances.FORWARD_EVAL_FLOAT64)
    if kind == "logits":
        moved = apart(1 / (1 + np.exp(-output[:, 1])), expected)
        text = "of two logits the second alone, not its difference from the first: P(REAL)"
        claim.fault(text, moved, tolerances.FORWARD_EVAL_FLOAT64)


@pytest.mark.long
def test_a_model_of_logits_with_a_softmax_put_behind_it_is_read(keras_float64, backbone, images, tmp_path, claim):
    """As TensorFlow's tutorials end: Sequential([model, Softmax()])."""
    keras = keras_float64
    logits = saved(keras, backbone, two_classes(keras, "logits"), tmp_path / "logits.keras")
    model = keras.Sequential([logits, keras.layers.Softmax()])
    model.save(tmp_path / "model.keras")
    for real in (1, 0):
        network, _ = imported(tmp_path / "model.keras", real_class=real)
        text = f"two classes, a Softmax behind a whole model of logits, class {real} is REAL"
        claim_alike(claim, text, ours(network, images), outputs(model, images)[:, real])


def pooled_inside(keras, entry):
    """A Rescaling, a model in the model, and its pooling in it."""
    return backbone_of(keras, pooling="avg")(keras.layers.Rescaling(1 / 255)(entry))


def flat(keras, entry):
    return keras.layers.GlobalAveragePooling2D()(backbone_of(keras, input_tensor=entry).output)


def flattened(keras, entry):
    return keras.layers.Flatten()(backbone_of(keras, input_shape=(64, 64, 3))(entry))


# Keras's Rescaling rounds its factor to float32, in float64 too
PIXEL = float(np.float32(1 / 255))
FORMS = {
    flat: "a functional model whose layers lie beside ResNet50's own",
    pooled_inside: "a functional model around ResNet50 with its pooling, Rescaling(1/255) in front",
    flattened: "a functional model around ResNet50 for images of 64 px, flattened",
}


@pytest.mark.parametrize(("form", "size", "scale"), [(flat, 32, 1), (pooled_inside, 32, PIXEL), (flattened, 64, 1)])
def test_functional_models_are_taken_in_the_forms_people_write(keras_float64, tmp_path, form, size, scale, claim):
    keras = keras_float64
    images = np.random.default_rng(2).random((4, size, size, 3))
    entry = keras.Input((size, size, 3))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(12, activation="relu")(form(keras, entry)))
    model = perturb(keras.Model(entry, keras.layers.Dense(1, activation="sigmoid")(hidden)))
    model.save(tmp_path / "model.keras")
    network, found = imported(tmp_path / "model.keras")
    expected = prob_real(outputs(model, images / scale))
    assert np.ptp(expected) > 1e-4
    claim_alike(claim, FORMS[form], ours(network, images), expected)
    assert any("its own scaling" in note for note in found.notes) == (scale != 1)
    assert (found.image_size, found.dropout) == (size, 0.3)


@pytest.mark.parametrize(
    "activation", ["softmax", pytest.param(None, marks=pytest.mark.long)], ids=["softmax", "logits"]
)
def test_kerass_own_top_of_two_classes_is_taken(keras_float64, images, tmp_path, claim, activation):
    model = keras_float64.applications.ResNet50(
        weights=None, include_top=True, classes=2, input_shape=(32, 32, 3), classifier_activation=activation
    )
    perturb(model).save(tmp_path / "model.keras")
    network, _ = imported(tmp_path / "model.keras")
    expected = prob_real(outputs(model, images), logits=activation is None)
    text = f"keras.applications' own top (include_top) of two classes, {activation or 'logits'}"
    claim_alike(claim, text, ours(network, images), expected)
