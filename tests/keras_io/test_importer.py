"""Keras's files read without Keras: what is taken, what is refused and in what words.

parity_tests/test_convert.py holds the same against files that Keras itself wrote.
"""

import hashlib
import json
import pickle
import zipfile

import h5py
import keras_form as form
import numpy as np
import pytest
import torch

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io import imagenet as keras_imagenet
from lightning_cifake.keras_io.graph import read_graph
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.keras_io.match_resnet import frozen_backbone, recognise
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.initial_weights import load_weights


@pytest.fixture(scope="module")
def weights():
    return form.random_weights()


@pytest.fixture(scope="module")
def published(weights, module_folder):
    folder = module_folder("published")
    return form.write_keras(folder / "published.keras", form.published(), form.paths(weights))


def recognised(model):
    return recognise(read_graph(model, "model.keras"), "model.keras")


def with_head(*layers):
    return form.sequential(form.input_layer("input_1"), form.resnet(), *(form.layer(*each) for each in layers))


def test_the_published_model_is_read(published, weights):
    found = import_keras(published)
    assert (found.head, found.dropout, found.image_size) == (PUBLISHED_HEAD, 0.5, 32)
    assert (found.weights, found.values) == (328, 24_146_305)
    assert len(found.notes) == 2  # what the file does not tell, and nothing else
    assert all(note.startswith("taken for granted: ") for note in found.notes)
    assert found.pixels == "0-1"
    assert found.adam is None
    kernel = found.state["backbone.layer1.0.conv2.weight"].numpy()
    np.testing.assert_array_equal(kernel.transpose(2, 3, 1, 0), weights["conv2_block1_2_conv/kernel"])
    np.testing.assert_array_equal(found.state["head.dense2.weight"].numpy().T, weights["dense2/kernel"])


def test_a_file_of_weights_alone_is_read_in_the_order_of_the_published_model(weights, published, tmp_path):
    form.write_h5(tmp_path / "all.weights.h5", form.paths(weights))
    with h5py.File(tmp_path / "all.weights.h5", "r+") as file:
        for name in ("flatten", "dropout", "softmax"):  # the last as behind two outputs
            file.create_group(f"layers/{name}/vars")
    found, expected = import_keras(tmp_path / "all.weights.h5"), import_keras(published)
    assert (found.head, found.dropout) == (PUBLISHED_HEAD, 0.5)
    assert any("tells no activations" in note for note in found.notes)
    assert all(torch.equal(found.state[name], value) for name, value in expected.state.items())


def test_weights_alone_of_another_head_take_the_head_that_the_user_says(tmp_path):
    line = "avgpool, dense 8 tanh, batchnorm, dense 8 tanh, batchnorm, dense 1"
    weights = form.random_weights(line)
    own = {"dense1": "dense", "dense2": "dense_1", "logit": "dense_2"}
    norms = {"norm": "batch_normalization", "norm2": "batch_normalization_1"}
    path = tmp_path / "other.weights.h5"
    form.write_h5(path, form.paths(weights, own | norms))
    with pytest.raises(UserError, match=r"behind which dense layer its batch norms stand .*: give --head"):
        import_keras(path)
    found = import_keras(path, head=line)
    assert found.head == line
    np.testing.assert_array_equal(found.state["head.dense1.weight"].numpy().T, weights["dense1/kernel"])
    np.testing.assert_array_equal(found.state["head.norm2.running_var"].numpy(), weights["norm2/moving_variance"])


def test_a_plain_file_of_kerass_weights_is_a_backbone(tmp_path):
    weights = form.random_weights(head=None)
    weights["predictions/kernel"] = np.zeros((2048, 1000), np.float32)
    weights["predictions/bias"] = np.zeros(1000, np.float32)
    path = form.write_legacy_weights(tmp_path / "top.h5", weights)
    with pytest.raises(UserError, match=r"got 1000 units: of ImageNet's 1,000 classes; .* fit --model.weights"):
        import_keras(path)
    found = import_keras(path, backbone=True)
    assert found.head is None
    assert all(name.startswith("backbone.") for name in found.state)
    assert found.notes == ["its layer predictions, a classifier of ImageNet, is left out"]


@pytest.mark.parametrize(
    ("layer", "field", "value", "said"),
    [
        ("conv3_block1_1_conv", "strides", [1, 1], r"expected strides \[2, 2\] \(conv3_block1_1_conv\), got \[1, 1\]"),
        ("conv3_block1_2_conv", "kernel_size", [5, 5], r"expected kernel_size \[3, 3\] \(.*\), got \[5, 5\]"),
        ("conv5_block3_2_conv", "padding", "valid", r"expected padding same \(.*\), got valid"),
        ("conv4_block2_3_conv", "use_bias", False, r"expected use_bias True \(.*\), got False"),
        ("conv1_bn", "epsilon", 1e-3, r"expected epsilon 1.001e-05 \(conv1_bn\), got 0.001"),
        ("conv1_bn", "momentum", 0.9, r"expected momentum 0.99 \(conv1_bn\), got 0.9"),
        ("conv2_block1_out", "activation", "gelu", r"expected activation relu \(.*\), got gelu"),
        ("pool1_pool", "pool_size", [2, 2], r"expected pool_size \[3, 3\] \(.*\), got \[2, 2\]"),
        ("conv1_conv", "data_format", "channels_first", r"expected data_format channels_last .* channels_first"),
    ],
)  # fmt: skip
def test_the_first_layer_that_differs_is_named(layer, field, value, said):
    model = form.published()
    form.config_of(model, layer)[field] = value
    form.config_of(model, "conv5_block3_3_bn")["epsilon"] = 1.0  # a later one, which is not to be named first
    if layer == "conv5_block3_2_conv":
        form.config_of(model, "conv5_block3_3_bn")["epsilon"] = 1.001e-5
    with pytest.raises(UserError, match=f"the first layer that differs is {layer}: {said}"):
        recognised(model)


def test_another_join_of_the_same_layers_is_refused():
    model = form.published()
    layers = {each["name"]: each for each in model["config"]["layers"][1]["config"]["layers"]}
    tensors = layers["conv3_block2_add"]["inbound_nodes"][0]["args"][0]
    tensors[0]["config"]["keras_history"][0] = "conv2_block3_out"
    with pytest.raises(
        UserError, match=r"first layer that differs is conv3_block2_1_conv: expected Add \(conv3_block2_add"
    ):
        recognised(model)  # fmt: skip


def lambda_layer():
    return "Lambda", {"name": "half", "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}}


OWN_FUNCTION = {"module": "builtins", "class_name": "function", "config": "f", "registered_name": "f"}


def custom_layer(**fields):
    return {**form.layer("MyLayer", {"name": "mine"}), **fields}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (form.layer(*lambda_layer()), r"layer half holds code of its own \(Lambda\), which is never run: refused"),
        (
            custom_layer(module="my_package", registered_name="Custom>MyLayer"),
            "layer mine needs Custom>MyLayer of my_package",
        ),
        (custom_layer(module=None, registered_name="Custom>MyLayer"), "layer mine needs Custom>MyLayer of its author"),
        (
            form.layer("Dense", {"name": "odd", "units": 3, "activation": OWN_FUNCTION}),
            "layer odd needs f of builtins, which is not Keras's own: refused",
        ),
    ],
)  # fmt: skip
def test_code_and_custom_objects_are_refused_by_their_layers_name(extra, said):
    with pytest.raises(UserError, match=said):
        recognised(form.sequential(form.input_layer("input_1"), form.resnet(), extra))


POOL = ("GlobalAveragePooling2D", {"name": "pool", "keepdims": False})
LOGIT = ("Dense", {"name": "out", "units": 1, "activation": "sigmoid"})


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([LOGIT], r"cannot take layer out \(Dense\): expected Flatten or GlobalAveragePooling2D"),
        ([("GlobalMaxPooling2D", {"name": "pool"}), LOGIT], r"cannot take layer pool \(GlobalMaxPooling2D\)"),
        ([POOL, ("LeakyReLU", {"name": "leaky"}), LOGIT], r"layer leaky \(LeakyReLU\): expected one of Dense"),
        ([POOL, ("Cast", {"name": "cast", "dtype": "int32"}), LOGIT], r"layer cast \(Cast\): expected one of Dense"),
        ([POOL, ("ReLU", {"name": "six", "max_value": 6.0}), LOGIT], r"layer six \(ReLU\): expected max_value"),
        ([POOL, ("Dense", {"name": "two", "units": 2, "activation": "sigmoid"})], r"two .*, got Dense\(2\) with sig"),
        ([POOL, ("Dense", {"name": "one", "units": 1, "activation": "softmax"})], r"one .*, got Dense\(1\) with soft"),
        ([POOL, ("Dense", {"name": "ten", "units": 10})], r"ten .*: expected Dense\(1\) .* Dense\(2\) .* got 10"),
        ([POOL, ("Dense", {"name": "mid", "units": 2, "activation": "softmax"}), LOGIT], "mid .*, got softmax"),
        ([POOL, ("Dense", {"name": "big", "units": 10**9}), LOGIT], r"big \(Dense\): expected 1 to 1,048,575 units"),
        ([POOL, ("Dense", {"name": "odd", "units": "1"})], r"odd \(Dense\): expected 1 to 1,048,575 units, got 1"),
        ([POOL, ("Dropout", {"name": "drop", "rate": float("nan")}), LOGIT], "drop .*from 0 up to 1, got nan"),
        ([POOL, ("Activation", {"name": "end", "activation": "softmax"})], "end .*: expected Dense.*, got Activation"),
        (
            [POOL, ("BatchNormalization", {"name": "bn", "axis": 2, "epsilon": 1e-3, "momentum": 0.9}), LOGIT],
            r"cannot take layer bn \(BatchNormalization\): expected axis -1, got 2",
        ),
        ([POOL, ("Dropout", {"name": "drop", "rate": 0.5, "noise_shape": [None, 1]}), LOGIT], "drop .*no noise_shape"),
    ],
)  # fmt: skip
def test_heads_that_cannot_be_taken_are_refused_by_their_first_such_layer(layers, said):
    with pytest.raises(UserError, match=said):
        recognised(with_head(*layers))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_cast_between_layers_of_two_precisions_is_no_layer_of_the_head(dtype):
    """As Keras 3.5 writes it of a model under a mixed policy whose last layer is kept in float32."""
    cast = ("Cast", {"name": "cast", "dtype": dtype})
    dense = ("Dense", {"name": "hidden", "units": 8, "activation": "relu"})
    plain = recognised(with_head(POOL, dense, LOGIT))
    assert recognised(with_head(POOL, cast, dense, cast, LOGIT, cast)).head == plain.head


def test_a_backbone_that_was_frozen_is_frozen_here():
    model = form.published()
    assert not frozen_backbone(recognised(model))
    for each in model["config"]["layers"][1]["config"]["layers"]:
        each["config"]["trainable"] = False
    assert frozen_backbone(recognised(model))
    assert not recognised(model).notes
    form.config_of(model, "conv5_block3_3_conv")["trainable"] = True
    assert "105 of its layers were frozen" in recognised(model).notes[0]


def test_weights_that_do_not_fit_are_all_named_as_the_file_names_them(weights, tmp_path):
    wrong = form.paths(weights)
    del wrong["layers/functional/layers/conv2d/vars/1"]
    wrong["layers/dense_2/vars/0"] = np.zeros((64, 1), np.float32)
    wrong["layers/dense_9/vars/0"] = np.zeros(3, np.float32)
    path = form.write_keras(tmp_path / "wrong.keras", form.published(), wrong)
    with pytest.raises(UserError) as caught:
        import_keras(path)
    assert "missing conv1_conv/bias (64,)" in str(caught.value)
    assert "dense_2/kernel expected (128, 1), got (64, 1)" in str(caught.value)
    assert "unexpected layers/dense_9/0 (3,)" in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(published, weights, tmp_path, share):
    legacy = form.write_legacy_weights(tmp_path / "whole.h5", weights)
    for path in (published, legacy):
        content = path.read_bytes()
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="is damaged, or no file that Keras wrote"):
            import_keras(cut)


def test_a_flipped_byte_in_a_keras_file_is_seen(published, tmp_path):
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.keras").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        import_keras(tmp_path / "flipped.keras")


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_files_of_other_kinds_are_refused_and_run_no_code(tmp_path, name, capsys):
    path = tmp_path / name
    with pytest.raises(UserError, match="there is no file"):
        import_keras(path)
    for content in (b"", b"text", pickle.dumps(Trap())):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is no \.keras file|is damaged, or no file that Keras wrote"):
            import_keras(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "text")
    with pytest.raises(UserError, match=r"is no \.keras file: expected config.json in it, got data.txt"):
        import_keras(path)
    with h5py.File(path, "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(UserError, match=r"is no \.keras file|an HDF5 file that Keras did not write"):
        import_keras(path)
    assert "code ran" not in capsys.readouterr().out


def test_numbers_that_lie_in_another_file_are_not_opened(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.zeros((7, 7, 3, 64))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1_conv"]
        group = file.create_group("conv1_conv")
        group.attrs["weight_names"] = [b"conv1_conv/kernel:0"]
        group["conv1_conv/kernel:0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "numbers")
    with pytest.raises(UserError, match="points to another file, which is not opened"):
        import_keras(tmp_path / "model.h5")


@pytest.mark.parametrize(
    "config", [{}, {"class_name": "Sequential"}, {"class_name": "Sequential", "config": {"layers": []}}]
)
def test_configurations_that_keras_does_not_write_are_refused(config):  # fmt: skip
    with pytest.raises(UserError, match="configuration is not as Keras writes it"):
        recognised(config)


def test_a_model_of_a_class_of_its_author_is_refused():
    with pytest.raises(UserError, match="cannot take a model of class Mine: expected a Sequential or a Functional one"):
        recognised({"class_name": "Mine", "module": "keras", "config": {}})


@pytest.fixture(scope="module")
def notop(module_folder):
    return form.write_legacy_weights(module_folder("notop") / "notop.h5", form.random_weights(head=None))


def test_imagenet_weights_of_the_keras_layout_come_from_kerass_cache(notop, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    digest = hashlib.md5(notop.read_bytes()).hexdigest()
    path = keras_imagenet.fetch_imagenet(notop.as_uri(), digest)
    assert path == tmp_path / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    monkeypatch.setattr(keras_imagenet, "urlopen", None)  # not asked again
    assert keras_imagenet.fetch_imagenet("", digest) == path
    monkeypatch.setattr(keras_imagenet.fetch_imagenet, "__defaults__", ("", digest))
    monkeypatch.setattr(keras_imagenet, "MD5", digest)
    network = ResNet50Detector()
    head = network.head.dense1.weight.clone()
    load_weights(network, "imagenet")
    expected = import_keras(notop).state
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())
    assert torch.equal(network.head.dense1.weight, head)


def test_another_file_than_kerass_is_not_kept(notop, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"expected a file with the MD5 4d473c1d.*; nothing was kept"):
        keras_imagenet.fetch_imagenet(notop.as_uri())
    assert not list(tmp_path.rglob("*.h5"))


def test_a_body_without_end_is_not_read_to_it(notop, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras_imagenet, "LARGEST", 3 << 20)
    with pytest.raises(
        UserError, match=r"could not fetch Keras's ImageNet weights \(more than 3,145,728 bytes received\)"
    ):
        keras_imagenet.fetch_imagenet(notop.as_uri())
    monkeypatch.setattr(keras_imagenet, "LONGEST_SECONDS", 0.0)
    with pytest.raises(UserError, match="it was not there after 0 s"):
        keras_imagenet.fetch_imagenet(notop.as_uri())
    assert not list(tmp_path.rglob("*.h5"))


def test_without_a_connection_it_is_said_where_the_file_would_be_taken_from(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"could not fetch Keras's ImageNet weights .*put resnet50_.* into .*models"):
        keras_imagenet.fetch_imagenet((tmp_path / "absent.h5").as_uri())


def test_kerass_files_are_weights_to_start_from(notop, published, tmp_path):
    network = ResNet50Detector()
    load_weights(network, str(published))
    assert torch.equal(network.head.logit.weight, import_keras(published).state["head.logit.weight"])
    with pytest.raises(UserError, match=r"needs model\.network\.layout: keras and .*, got layout: torchvision"):
        load_weights(ResNet50Detector(layout="torchvision"), str(notop))
    with pytest.raises(UserError, match=r"unexpected head\.norm\.weight"):
        load_weights(ResNet50Detector(head="flatten, dense 1"), str(published))


def test_a_configuration_is_json_and_nothing_else(published, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
        archive.writestr("config.json", "{not json")
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(UserError, match="is damaged, or no file that Keras wrote"):
        import_keras(tmp_path / "bad.keras")
    assert json.loads(zipfile.ZipFile(published).read("config.json"))["class_name"] == "Sequential"


def test_an_hdf5_file_is_said_to_be_unchecked_and_kerass_own_is_checked_by_its_digest(tmp_path, caplog):
    path = form.write_legacy_weights(tmp_path / "other.weights.h5", form.random_weights(head=None))
    import_keras(path)
    assert "other.weights.h5 carries no checksums, as no HDF5 file of Keras does: damage to it is not" in caplog.text
    path.rename(tmp_path / keras_imagenet.FILE)
    with pytest.raises(UserError, match="is damaged, or another file: it has not the MD5"):
        import_keras(tmp_path / keras_imagenet.FILE)
