"""What people's models were fed, and what they do to it before ResNet50: scaling, means, augmentation, operations.

Each must answer in Lightning what it answers in Keras, of the same images.
"""

from functools import cache

import numpy as np
import pytest

from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.training.convert import Options, convert
from parity_tests import tolerances
from parity_tests.keras_files import apart, imported, network_of, ours, outputs, save_h5, theirs

RUNG = "8 round trip"
SIZE = 32


def long(name):
    return pytest.param(name, marks=pytest.mark.long)


@pytest.fixture(scope="module")
def raw():
    """(6, 32, 32, 3) uint8, some dark and some bright."""
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, high, (SIZE, SIZE, 3), np.uint8) for high in (256, 60, 256, 120, 30, 200)])


def model_of(keras, backbone, front, images):
    """front -> ResNet50 -> average -> Dense, whose answers of the images lie around 1/2 and far from each other."""
    layers = keras.layers
    entry = keras.Input((SIZE, SIZE, 3))
    features = layers.GlobalAveragePooling2D()(backbone(front(entry)))
    last = layers.Dense(1, activation="sigmoid")
    model = keras.Model(entry, last(features))
    kernel = np.random.default_rng(1).normal(size=(2048, 1))
    logits = outputs(keras.Model(entry, features), images) @ kernel
    last.set_weights([kernel / logits.std(), -logits.mean(keepdims=True)[0] / logits.std()])
    return model


def caffe(images):
    return images[..., ::-1] - np.array([103.939, 116.779, 123.68])


FED = {
    "0-255": ("bytes from 0 to 255", lambda raw: raw * 1.0),
    "-1-1": ("values from -1 to 1", lambda raw: raw / 127.5 - 1),
    "caffe": ("preprocess_input's BGR less the means", caffe),
    "0-1": ("values from 0 to 1", lambda raw: raw / 255),
}


def claim_alike(claim, text, found, expected, tolerance=tolerances.FORWARD_EVAL_FLOAT64):
    assert np.ptp(expected) > 1e-4  # fed values from 0 to 1 it is nearly a constant
    kind = "float64" if tolerance is tolerances.FORWARD_EVAL_FLOAT64 else "float32"
    claim(f"P(REAL), {kind}: {text}", apart(found, expected), tolerance)


@pytest.fixture(scope="module")
def plain(keras_float64, backbone, raw, module_folder):
    model = model_of(keras_float64, backbone, lambda entry: entry, raw * 1.0)
    path = module_folder("plain") / "plain.keras"
    model.save(path)
    return model, path


@pytest.fixture(scope="module")
def fed_caffe(plain, module_folder):
    """The same as a checkpoint that is told so, and the report."""
    path = module_folder("caffe") / "model.ckpt"
    return path, convert(plain[1], path, Options(pixels="caffe", real_class=1))


@pytest.mark.parametrize("base", ["0-255", *map(long, ["-1-1", "caffe", "0-1"])])
def test_what_a_model_was_fed_is_told(plain, raw, claim, base):
    model, path = plain
    network, found = imported(path, pixels=base, real_class=1)
    assert not [note for note in found.notes if "taken for granted" in note]
    fed, feed = FED[base]
    claim_alike(claim, f"a model that was fed {fed}, here 0 to 1", ours(network, raw / 255), theirs(model, feed(raw)))


def test_what_a_model_was_fed_is_part_of_its_checkpoint(plain, fed_caffe, raw, claim):
    model, path = plain
    checkpoint, report = fed_caffe
    assert not [note for note in report.notes if "taken for granted" in note]
    expected, fed = theirs(model, caffe(raw)), FED["caffe"][0]
    found = ours(network_of(checkpoint), raw / 255)
    claim_alike(claim, f"a model that was fed {fed}, its checkpoint fed 0 to 1", found, expected)
    network, _ = imported(path, pixels="caffe", real_class=0)
    text = "a model whose one output is of FAKE (its class 0 is REAL), turned round"
    claim_alike(claim, text, ours(network, raw / 255), 1 - expected)


def test_an_exported_model_answers_of_bytes_whatever_it_was_fed(plain, fed_caffe, raw, tmp_path, claim):
    from lightning_cifake import Detector
    from lightning_cifake.deploy.export import metadata, set_metadata, to_onnx

    classifier = load_classifier(fed_caffe[0])
    exported = to_onnx(classifier)
    facts = metadata(classifier, "float32", "uint8", 1.0, 0.5)
    assert facts["network"]["init_args"]["pixels"] == "caffe"
    set_metadata(exported, facts)
    (tmp_path / "model.onnx").write_bytes(exported.SerializeToString())
    answers = Detector(tmp_path / "model.onnx").predict(list(raw))
    found = np.array([answer.prob_real for answer in answers])
    text = f"a model that was fed {FED['caffe'][0]}, exported, fed bytes (an exported model has no float64)"
    claim_alike(claim, text, found, theirs(plain[0], caffe(raw)), tolerances.FED_FLOAT32)


def rounded(scale):
    """What the images that a Rescaling is fed are multiplied by: it rounds its factor to float32, in float64 too."""
    return scale / float(np.float32(scale))


def fronts(keras, raw):
    """What stands before ResNet50, and what to multiply bytes by before it is fed them."""
    layers = keras.layers
    normal = layers.Normalization()
    normal.adapt(raw.astype(np.float64))
    augment = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])
    both = keras.Sequential([layers.RandomContrast(0.1), layers.Rescaling(1 / 127.5, offset=-1)])
    float64 = keras.backend.floatx()
    return {
        "x / 255": (lambda x: x / 255.0, 1),
        "x / 127.5 - 1": (lambda x: x / 127.5 - 1, 1),
        "preprocess_input of resnet50, as operations": (keras.applications.resnet50.preprocess_input, 1),
        "preprocess_input of densenet, as operations": (keras.applications.densenet.preprocess_input, 1),
        "Rescaling(1/255)": (layers.Rescaling(1 / 255), rounded(1 / 255)),
        "Rescaling(2, offset=-1), fed [0, 1]": (layers.Rescaling(2, offset=-1), 1 / 255),
        "Rescaling with an offset for each channel": (layers.Rescaling(1 / 64, offset=[-2, -1.5, -1]), 1),
        "an adapted Normalization": (normal, 1),
        "one Normalization for all channels": (layers.Normalization(axis=None, mean=110.0, variance=5000.0), 1),
        "augmentation layers, then Rescaling(1/255)": (
            lambda x: layers.Rescaling(1 / 255)(augment(x)),
            rounded(1 / 255),
        ),
        "RandomContrast and Rescaling(1/127.5, offset=-1) in a Sequential": (both, rounded(1 / 127.5)),
        "keras.ops: (x * 1/100) - 1.2": (
            lambda x: keras.ops.subtract(keras.ops.multiply(keras.ops.cast(x, float64), 1 / 100), 1.2),
            1,
        ),
    }


FRONTS = [
    "preprocess_input of resnet50, as operations",
    "Rescaling with an offset for each channel",
    "an adapted Normalization",
    "augmentation layers, then Rescaling(1/255)",
    "keras.ops: (x * 1/100) - 1.2",
    *map(
        long,
        [
            "x / 255", "x / 127.5 - 1", "preprocess_input of densenet, as operations", "Rescaling(1/255)",
            "Rescaling(2, offset=-1), fed [0, 1]", "one Normalization for all channels",
            "RandomContrast and Rescaling(1/127.5, offset=-1) in a Sequential",
        ],
    ),
]  # fmt: skip

BACK = ["preprocess_input of resnet50, as operations", "x / 255", "an adapted Normalization"]


@pytest.fixture(scope="module")
def fronted(keras_float64, backbone, raw, module_folder):
    """A function of a front's name: the model, its answers of ``raw`` and its file, each made once."""

    @cache
    def made(name):
        front, factor = fronts(keras_float64, raw)[name]
        model = model_of(keras_float64, backbone, front, raw * factor)
        path = module_folder("front") / "model.keras"
        model.save(path)
        return model, theirs(model, raw * factor), path

    return made


@pytest.mark.parametrize("name", FRONTS)
def test_what_a_model_does_to_its_images_goes_along(fronted, raw, tmp_path, claim, name):
    model, expected, path = fronted(name)
    network, read = imported(path)
    if name not in BACK:
        path.unlink()  # before it is written to the disk
    fed = "from 0 to 1" if "fed [0, 1]" in name else "from 0 to 255"
    assert any("its own scaling" in note and fed in note for note in read.notes), read.notes
    found = ours(network, raw / 255)
    claim_alike(claim, f"in front of ResNet50: {name}", found, expected)
    if "augmentation" in name or "adapted" in name:
        try:
            save_h5(model, tmp_path / "model.h5")
        except TypeError as error:  # Keras copies the backend that such a layer holds
            if "cannot pickle 'module' object" not in str(error):
                raise
            pytest.skip("this Keras, as 3.5, writes no H5 file of a model with augmentation layers")
        again, _ = imported(tmp_path / "model.h5")
        claim_alike(claim, f"in front of ResNet50: {name}; as .h5", ours(again, raw / 255), expected)
    if "each channel" in name:
        scale, offset = network.pixel_scale.clone(), network.pixel_offset.clone()
        network.pixel_scale = scale / 255
        moved = apart(ours(network, raw / 255), expected)
        text = "a model's own scaling of bytes, applied to images in [0, 1]: P(REAL)"
        claim.fault(text, moved, tolerances.FORWARD_EVAL_FLOAT64)
        network.pixel_scale, network.pixel_offset = scale, offset * scale
        moved = apart(ours(network, raw / 255), expected)
        claim.fault("a scaling's offset added before the scale: P(REAL)", moved, tolerances.FORWARD_EVAL_FLOAT64)


@pytest.mark.parametrize("name", [BACK[0], *map(long, BACK[1:])])
def test_what_a_model_does_to_its_images_comes_back(keras_float64, fronted, raw, tmp_path, claim, name):
    keras = keras_float64
    _, expected, path = fronted(name)
    convert(path, tmp_path / "model.ckpt", Options())
    back = convert(tmp_path / "model.ckpt", tmp_path / "back.keras", Options())
    assert any("fed RGB from 0 to 255" in note for note in back.notes)
    again = keras.models.load_model(tmp_path / "back.keras")
    assert [layer for layer in again.layers if isinstance(layer, keras.layers.Rescaling)]
    assert any("its own scaling" in note for note in import_keras(tmp_path / "back.keras").notes)
    claim_alike(claim, f"in front of ResNet50: {name}; Keras -> Lightning -> Keras", theirs(again, raw * 1.0), expected)


@pytest.mark.long  # test_system.py reads the published system's own, with neither a Rescaling nor two classes
def test_a_saved_model_is_read_by_its_layers_names(keras_float64, backbone, raw, tmp_path, claim):
    layers = keras_float64.layers
    head = [layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")]
    model = keras_float64.Sequential([keras_float64.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255), backbone, *head])
    rng = np.random.default_rng(1)
    head[1].set_weights([rng.normal(0, 0.02, (2048, 2)), rng.normal(0, 0.1, 2)])
    model.export(tmp_path / "exported")
    report = convert(tmp_path / "exported", tmp_path / "model.ckpt", Options(pixels="0-1"))
    assert any("tells no activations" in note for note in report.notes)
    found = ours(network_of(tmp_path / "model.ckpt"), raw / 255)
    claim_alike(claim, "a SavedModel of two classes", found, theirs(model, raw * rounded(1 / 255)))
