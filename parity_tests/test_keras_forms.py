"""Models as people save them, in float32: what they were fed, what they do to it, two classes, mixed precision.

Each must answer in Lightning what it answers in Keras, of the same images.
"""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.training.convert import Options, convert
from parity_tests import tolerances
from parity_tests.test_convert import imported, perturb

RUNG = "8 round trip"
SIZE = 32


@pytest.fixture(scope="module")
def keras32(keras):
    """Keras in float32, whatever other modules left."""
    keras.backend.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    return keras


@pytest.fixture(scope="module")
def backbone(keras32):
    random.seed(2)  # of the first eight the one whose answers differ most by image, however they are scaled
    return perturb(keras32.applications.ResNet50(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)))


@pytest.fixture(scope="module")
def raw():
    """(6, 32, 32, 3) uint8, some dark and some bright."""
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, high, (SIZE, SIZE, 3), np.uint8) for high in (256, 60, 256, 120, 30, 200)])


def model_of(keras, backbone, front, units=1, activation="sigmoid"):
    """front -> ResNet50 -> average -> Dense, with answers between 0 and 1 and not at the ends."""
    layers = keras.layers
    entry = keras.Input((SIZE, SIZE, 3))
    features = layers.GlobalAveragePooling2D()(backbone(front(entry)))
    last = layers.Dense(units, activation=activation)
    model = keras.Model(entry, last(features))
    rng = np.random.default_rng(1)
    last.set_weights([rng.normal(0, 0.02, (2048, units)), rng.normal(0, 0.1, units)])
    return model


def prob_real(model, images):
    output = np.array(model(images.astype(np.float32), training=False))
    return output[:, 1] if output.shape[1] == 2 else output[:, 0]


def of_checkpoint(path, raw):
    return answers(load_classifier(path), raw)


def answers(network, raw):
    images = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return network.eval()(images).sigmoid().numpy()


def caffe(images):
    return images[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)


FED = {"0-255": lambda raw: raw, "-1-1": lambda raw: raw / 127.5 - 1, "caffe": caffe, "0-1": lambda raw: raw / 255}


def agree(found, expected, claim, text):
    assert np.ptp(expected) > 1e-3
    claim(text, np.abs(found - expected).max(), tolerances.FED_FLOAT32)


@pytest.fixture(scope="module")
def plain(keras32, backbone, tmp_path_factory):
    model = model_of(keras32, backbone, lambda entry: entry)
    path = tmp_path_factory.mktemp("plain") / "plain.keras"
    model.save(path)
    return model, path


@pytest.mark.parametrize("base", FED)
def test_what_a_model_was_fed_is_part_of_its_checkpoint(plain, raw, tmp_path, claim, base):
    model, path = plain
    report = convert(path, tmp_path / "model.ckpt", Options(pixels=base, real_class=1))
    assert not [note for note in report.notes if "taken for granted" in note]
    agree(of_checkpoint(tmp_path / "model.ckpt", raw), prob_real(model, FED[base](raw)), claim, f"fed {base}")
    if base == "caffe":
        turned = tmp_path / "turned.ckpt"
        convert(path, turned, Options(pixels=base, real_class=0))
        agree(of_checkpoint(turned, raw), 1 - prob_real(model, FED[base](raw)), claim, "class 0 is REAL")


def test_an_exported_model_answers_of_bytes_whatever_it_was_fed(plain, raw, tmp_path, claim):
    from lightning_cifake import Detector
    from lightning_cifake.deploy.export import metadata, set_metadata, to_onnx

    model, path = plain
    convert(path, tmp_path / "model.ckpt", Options(pixels="caffe", real_class=1))
    classifier = load_classifier(tmp_path / "model.ckpt")
    exported = to_onnx(classifier)
    facts = metadata(classifier, "float32", "uint8", 1.0, 0.5)
    assert facts["network"]["init_args"]["pixels"] == "caffe"
    set_metadata(exported, facts)
    (tmp_path / "model.onnx").write_bytes(exported.SerializeToString())
    answers = Detector(tmp_path / "model.onnx").predict(list(raw))
    found = np.array([answer.prob_real for answer in answers])
    agree(found, prob_real(model, caffe(raw)), claim, "exported, fed caffe")


def fronts(keras, raw):
    layers = keras.layers
    normal = layers.Normalization()
    normal.adapt(raw.astype(np.float32))
    whole = layers.Normalization(axis=None, mean=110.0, variance=5000.0)
    augment = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])
    both = keras.Sequential([layers.RandomContrast(0.1), layers.Rescaling(1 / 127.5, offset=-1)])
    return {
        "x / 255": lambda x: x / 255.0,
        "x / 127.5 - 1": lambda x: x / 127.5 - 1,
        "preprocess_input of resnet50": keras.applications.resnet50.preprocess_input,
        "preprocess_input of densenet": keras.applications.densenet.preprocess_input,
        "Rescaling(1/255)": layers.Rescaling(1 / 255),
        "an adapted Normalization": normal,
        "one Normalization for all": whole,
        "augmentation, then Rescaling": lambda x: layers.Rescaling(1 / 255)(augment(x)),
        "Rescaling in a Sequential": both,
        "keras.ops": lambda x: keras.ops.subtract(keras.ops.multiply(keras.ops.cast(x, "float32"), 1 / 100), 1.2),
    }


NAMES = [
    "x / 255", "x / 127.5 - 1", "preprocess_input of resnet50", "preprocess_input of densenet", "Rescaling(1/255)",
    "an adapted Normalization", "one Normalization for all", "augmentation, then Rescaling",
    "Rescaling in a Sequential", "keras.ops",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_does_to_its_images_goes_along_both_ways(keras32, backbone, raw, tmp_path, claim, name):
    keras = keras32
    model = model_of(keras, backbone, fronts(keras, raw)[name])
    expected = prob_real(model, raw)
    model.save(tmp_path / "model.keras")
    both_ways = name in ("x / 255", "preprocess_input of resnet50", "an adapted Normalization")
    if both_ways:
        notes = convert(tmp_path / "model.keras", tmp_path / "model.ckpt", Options()).notes
        found = of_checkpoint(tmp_path / "model.ckpt", raw)
    else:  # what the checkpoint is made of: not written, and read again, for each
        network, read = imported(tmp_path / "model.keras")
        notes, found = read.notes, answers(network, raw)
    assert any("its own scaling" in note and "from 0 to 255" in note for note in notes)
    agree(found, expected, claim, name)
    if both_ways:
        back = convert(tmp_path / "model.ckpt", tmp_path / "back.keras", Options())
        assert any("fed RGB from 0 to 255" in note for note in back.notes)
        again = keras.models.load_model(tmp_path / "back.keras")
        assert [layer for layer in again.layers if isinstance(layer, keras.layers.Rescaling)]
        agree(prob_real(again, raw), expected, claim, f"{name}, and back")
        found = import_keras(tmp_path / "back.keras")
        assert any("its own scaling" in note for note in found.notes)
    if name in ("an adapted Normalization", "augmentation, then Rescaling"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("absl.logging.warning", lambda *_: None)
            model.save(tmp_path / "model.h5")
        agree(answers(imported(tmp_path / "model.h5")[0], raw), expected, claim, f"{name}, in .h5")


def test_kerass_own_top_of_two_classes_is_taken(keras32, raw, tmp_path, claim):
    shape = (SIZE, SIZE, 3)
    model = keras32.applications.ResNet50(weights=None, include_top=True, classes=2, input_shape=shape)
    perturb(model)
    expected = prob_real(model, raw / 255)
    model.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "model.ckpt", Options())
    agree(of_checkpoint(tmp_path / "model.ckpt", raw), expected, claim, "include_top, two classes")


@pytest.mark.long  # test_system.py reads the published system's own, with neither a Rescaling nor two classes
def test_a_saved_model_is_read_by_its_layers_names(keras32, backbone, raw, tmp_path, claim):
    model = model_of(keras32, backbone, keras32.layers.Rescaling(1 / 255), 2, "softmax")
    model.export(tmp_path / "exported", verbose=False)
    report = convert(tmp_path / "exported", tmp_path / "model.ckpt", Options(pixels="0-1"))
    assert any("tells no activations" in note for note in report.notes)
    agree(of_checkpoint(tmp_path / "model.ckpt", raw), prob_real(model, raw), claim, "a SavedModel")


@pytest.fixture(scope="module")
def mixed(keras32, backbone, tmp_path_factory):
    """A model compiled under mixed_float16, its head trained for 7 steps, as .keras and .h5."""
    keras = keras32
    folder = tmp_path_factory.mktemp("mixed")
    backbone.trainable = False
    keras.config.set_dtype_policy("mixed_float16")
    try:
        entry = keras.Input((SIZE, SIZE, 3))
        features = keras.layers.GlobalAveragePooling2D()(backbone(entry))
        hidden = keras.layers.Dense(8, activation="relu")(features)
        model = keras.Model(entry, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(hidden))
        model.compile(optimizer=keras.optimizers.Adam(1e-3 * 0.95**4), loss="binary_crossentropy")
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        model.optimizer.build(model.trainable_variables)
        inner = model.optimizer.inner_optimizer
        inner.iterations.assign(7)
        for at, variable in enumerate(inner.variables[2:]):
            variable.assign(np.random.default_rng(at).random(variable.shape))
        model.save(folder / "mixed.keras")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("absl.logging.warning", lambda *_: None)
            model.save(folder / "mixed.h5")
            again = keras.models.load_model(folder / "mixed.h5")
        again.save(folder / "again.keras")
    finally:
        keras.config.set_dtype_policy("float32")
        backbone.trainable = True
    return inner, folder


@pytest.mark.parametrize("name", ["mixed.keras", "mixed.h5"])
def test_the_optimizer_inside_one_that_scales_its_loss_goes_along(mixed, name):
    inner, folder = mixed
    found = import_keras(Path(folder) / name)
    assert found.adam is not None, found.notes
    assert found.adam.iterations == 7
    assert found.adam.learning_rate == pytest.approx(1e-3 * 0.95**4, rel=1e-6)
    first, second = (np.array(inner.variables[at]) for at in (2, 3))
    assert np.array_equal(found.adam.exp_avg["head.dense1.weight"].numpy().T, first)
    assert np.array_equal(found.adam.exp_avg_sq["head.dense1.weight"].numpy().T, second)


def test_a_file_saved_after_an_h5_says_that_keras_dropped_the_state(mixed):
    found = import_keras(Path(mixed[1]) / "again.keras")
    assert found.adam is None
    assert any(note.startswith("the optimizer state is left out: ") for note in found.notes), found.notes
