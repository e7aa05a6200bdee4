"""What a Keras model does to its images before ResNet50, read from configurations as Keras 3.15 and Keras 2 write them.

parity_tests/test_keras_forms.py holds the same against Keras itself.
"""

from typing import Any

import keras_form as form
import numpy as np
import pytest
import torch

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.graph import read_graph
from lightning_cifake.keras_io.importer import import_keras
from lightning_cifake.keras_io.match_resnet import Model, recognise
from lightning_cifake.networks.pixels import BASES, Affine, parse_pixels
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.initial_weights import load_weights

MEANS = [-103.939, -116.779, -123.68]
LINE = "avgpool, dense 1"


def tensor(name: str) -> dict[str, Any]:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [], "dtype": "float32", "keras_history": [name, 0, 0]},
    }


def array(value: Any, kind: str = "__tensor__") -> dict[str, Any]:
    return {"class_name": kind, "config": {"value": value, "dtype": "float32"}}


ELLIPSIS = {"class_name": "__ellipsis__", "config": {}}


def slice_of(step: int | None = None) -> dict[str, Any]:
    return {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": step}}


def op(kind: str, name: str, *arguments: Any, **config: Any) -> dict[str, Any]:
    """As keras.ops and the operators of a KerasTensor are written."""
    return {
        "module": "keras.src.ops.numpy",
        "class_name": kind,
        "config": {"name": name, **config},
        "registered_name": kind,
        "name": name,
        "inbound_nodes": [{"args": list(arguments), "kwargs": {}}],
    }


def keras2(function: str, name: str, source: str, kind: str = "TFOpLambda", **constants: Any) -> dict[str, Any]:
    """As tf.keras 2 writes an operation."""
    return {
        "class_name": kind,
        "config": {"name": name, "trainable": True, "dtype": "float32", "function": function},
        "name": name,
        "inbound_nodes": [[source, 0, 0, {**constants, "name": None}]],
    }


def functional(front: list[dict[str, Any]], last: str, size: int | None = 32) -> dict[str, Any]:
    """input -> front -> ResNet50 -> average pooling -> Dense(1)."""
    resnet = {**form.resnet(), "name": "resnet50", "inbound_nodes": [{"args": [tensor(last)], "kwargs": {}}]}
    layers = [
        form.input_layer("images", size),
        *front,
        resnet,
        form.layer("GlobalAveragePooling2D", {"name": "pool"}, ("resnet50",)),
        form.layer("Dense", {"name": "out", "units": 1, "activation": "sigmoid"}, ("pool",)),
    ]
    config = {"name": "model", "layers": layers, "input_layers": ["images", 0, 0], "output_layers": ["out", 0, 0]}
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}


def recognised(model: dict[str, Any], **arguments: Any) -> Model:
    return recognise(read_graph(model, "model.keras"), "model.keras", **arguments)


def planes() -> list[dict[str, Any]]:
    """preprocess_input's "caffe" mode on a symbolic tensor, as Keras 3.15 saves it."""
    taken = [
        op("GetItem", f"get_item{'_' * bool(at)}{at or ''}", tensor("images"), [ELLIPSIS, 2 - at]) for at in range(3)
    ]
    names = ["get_item", "get_item_1", "get_item_2"]
    return [
        *taken,
        op("Stack", "stack", [tensor(name) for name in names], axis=-1),
        op("Add", "add", tensor("stack"), array([[[MEANS]]])),
    ]


def normalization(**config: Any) -> dict[str, Any]:
    return form.layer("Normalization", {"name": "norm", "axis": [-1], "invert": False, **config}, ("images",))


def rescaling(scale: Any, offset: Any = 0.0, source: str = "images", name: str = "rescaling") -> dict[str, Any]:
    return form.layer("Rescaling", {"name": name, "scale": scale, "offset": offset}, (source,))


MINUS_ONE_TO_ONE = ((0, 1, 2), (1 / 127.5,) * 3, (-1.0,) * 3)
BYTES = ((0, 1, 2), (1 / 255,) * 3, (0.0,) * 3)
CAFFE = ((2, 1, 0), (1.0,) * 3, tuple(MEANS))
TORCH = ((0, 1, 2), tuple(1 / 255 / s for s in (0.229, 0.224, 0.225)), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225))
FRONTS: dict[str, tuple[list[dict[str, Any]], str, Any, str]] = {
    "x / 255": ([op("TrueDivide", "d", tensor("images"), 255.0)], "d", BYTES, "0-255"),
    "ops.divide": ([op("Divide", "d", tensor("images"), 255)], "d", BYTES, "0-255"),
    "x * (1 / 255)": ([op("Multiply", "m", tensor("images"), 1 / 255)], "m", BYTES, "0-255"),
    "x / 127.5 - 1": (
        [op("TrueDivide", "d", tensor("images"), 127.5), op("Subtract", "s", tensor("d"), 1)],
        "s", MINUS_ONE_TO_ONE, "0-255",
    ),
    "cast, then x / 255": (
        [op("Cast", "c", tensor("images"), dtype="float32"), op("TrueDivide", "d", tensor("c"), 255.0)],
        "d", BYTES, "0-255",
    ),
    "1 - x": ([op("Subtract", "s", 1.0, tensor("images"))], "s", ((0, 1, 2), (-1.0,) * 3, (1.0,) * 3), "0-1"),
    "x * 255": ([op("Multiply", "m", tensor("images"), 255.0)], "m", ((0, 1, 2), (255.0,) * 3, (0.0,) * 3), "0-1"),
    "an array's means": (
        [op("Subtract", "s", tensor("images"), array([1.0, 2.0, 3.0], "__numpy__"))],
        "s", ((0, 1, 2), (1.0,) * 3, (-1.0, -2.0, -3.0)), "0-255",
    ),
    "Rescaling(1/127.5, -1)": ([rescaling(1 / 127.5, -1)], "rescaling", MINUS_ONE_TO_ONE, "0-255"),
    "Rescaling of lists": (
        [rescaling([1 / 255, 2 / 255, 3 / 255], [0, 1, 2])],
        "rescaling", ((0, 1, 2), (1 / 255, 2 / 255, 3 / 255), (0.0, 1.0, 2.0)), "0-255",
    ),
    "preprocess_input": (planes(), "add", CAFFE, "0-255"),
    "x[..., ::-1] - means": (
        [op("GetItem", "g", tensor("images"), [ELLIPSIS, slice_of(-1)]), op("Add", "a", tensor("g"), array(MEANS))],
        "a", CAFFE, "0-255",
    ),
    "x[:, :, :, ::-1]": (
        [op("GetItem", "g", tensor("images"), [slice_of(), slice_of(), slice_of(), slice_of(-1)])],
        "g", ((2, 1, 0), (1.0,) * 3, (0.0,) * 3), "0-1",
    ),
    "ops.flip": (
        [op("Flip", "f", tensor("images"), axis=-1)], "f", ((2, 1, 0), (1.0,) * 3, (0.0,) * 3), "0-1",
    ),
    "the torch mode": (
        [
            op("TrueDivide", "d", tensor("images"), 255.0),
            op("Add", "a", tensor("d"), array([[[[-0.485, -0.456, -0.406]]]])),
            op("TrueDivide", "e", tensor("a"), array([0.229, 0.224, 0.225])),
        ],
        "e", TORCH, "0-255",
    ),
    "Normalization of bytes": (
        [normalization(mean=[120.0, 110.0, 100.0], variance=[3600.0, 2500.0, 1600.0])],
        "norm", ((0, 1, 2), (1 / 60, 1 / 50, 1 / 40), (-2.0, -2.2, -2.5)), "0-255",
    ),
    "Normalization of shares": (
        [normalization(mean=0.5, variance=0.0625, axis=[])],
        "norm", ((0, 1, 2), (4.0,) * 3, (-2.0,) * 3), "0-1",
    ),
    "augmentation and Rescaling": (
        [
            form.layer("RandomFlip", {"name": "flip"}, ("images",)),
            form.layer("RandomContrast", {"name": "contrast"}, ("flip",)),
            rescaling(1 / 255, source="contrast"),
        ],
        "rescaling", BYTES, "0-255",
    ),
    "Keras 2: x / 127.5 - 1": (
        [keras2("math.truediv", "tf.math.truediv", "images", y=127.5),
         keras2("math.subtract", "tf.math.subtract", "tf.math.truediv", y=1.0)],
        "tf.math.subtract", MINUS_ONE_TO_ONE, "0-255",
    ),
    "Keras 2: preprocess_input": (
        [keras2("__operators__.getitem", "get", "images", "SlicingOpLambda",
                slice_spec=[ELLIPSIS, {"start": None, "stop": None, "step": -1}]),
         keras2("nn.bias_add", "add", "get", bias=MEANS)],
        "add", CAFFE, "0-255",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRONTS)
def test_what_stands_before_resnet50_is_read(name: str) -> None:
    front, last, expected, _ = FRONTS[name]
    inside = recognised(functional(front, last)).inside
    assert inside.order == expected[0]
    np.testing.assert_allclose(inside.scale, expected[1], rtol=1e-12)
    np.testing.assert_allclose(inside.offset, expected[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("front", "last", "said"),
    [
        ([op("TrueDivide", "d", 255.0, tensor("images"))], "d", "d .*: expected the images divided by a number"),
        ([op("TrueDivide", "d", tensor("images"), 0)], "d", "expected the images divided by a number that is not 0"),
        ([op("TrueDivide", "d", tensor("images"), float("nan"))], "d", "expected one finite number, or one for each"),
        ([op("Multiply", "m", tensor("images"), 1e9)], "m", "cannot take m: expected finite scales"),
        ([op("Add", "a", tensor("images"), array([1.0, 2.0]))], "a", "expected one finite number, or one for each"),
        ([op("GetItem", "g", tensor("images"), [ELLIPSIS, 0])], "g", r"expected one way .*several \(g\)"),
        ([op("GetItem", "g", tensor("images"), [0])], "g", r"g .*: expected one channel, or all in reverse"),
        ([op("Cast", "c", tensor("images"), dtype="uint8")], "c", "expected a cast to a floating-point"),
        ([rescaling("x")], "rescaling", "expected one finite number"),
        ([normalization(mean=None, variance=None)], "norm", "its mean and variance are missing"),
        ([normalization(mean=0.5, variance=-1)], "norm", "expected a variance of at least 0, got -1"),
        ([normalization(mean=[0.5] * 32, variance=[1.0] * 32, axis=[1])], "norm", "expected one mean a channel"),
        ([keras2("math.exp", "exp", "images")], "exp", "exp .*: expected one of math.truediv"),
        (
            [form.layer("Resizing", {"name": "resize", "height": 32, "width": 64}, ("images",))],
            "resize", "resize .*: expected bilinear, to one height and width",
        ),
        (
            [form.layer("CenterCrop", {"name": "crop", "height": 32, "width": 32}, ("images",))],
            "crop", "the first layer that differs is crop: expected ZeroPadding2D",
        ),
    ],
)  # fmt: skip
def test_what_is_not_scale_offset_and_order_is_refused_by_its_layers_name(front: Any, last: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recognised(functional(front, last), variables=lambda node: {})


def test_a_resizing_gives_the_size_of_the_images() -> None:
    resize = form.layer("Resizing", {"name": "resize", "height": 64, "width": 64}, ("images",))
    assert recognised(functional([resize], "resize", None)).image_size == 64
    with pytest.raises(UserError, match="expected images of any size before a Resizing to 64"):
        recognised(functional([resize], "resize", 32))


@pytest.mark.parametrize("size", [20000, -1, 2.5, True, "32"])
def test_an_input_that_no_machine_holds_is_refused(size: Any) -> None:
    with pytest.raises(UserError, match=r"expected images of 1 to 1024 pixels a side, got"):
        recognised(functional([], "images", size))


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return form.random_weights(LINE)


@pytest.fixture
def few(shrunk: None) -> dict[str, np.ndarray]:
    return form.small_weights(LINE)


def write(folder: Any, weights: dict[str, np.ndarray], front: Any, last: str, **more: Any) -> Any:
    datasets = {**form.paths(weights, {"logit": "dense"}), **more}
    return form.write_keras(folder / "model.keras", functional(front, last), datasets)


@pytest.mark.parametrize("name", ["x / 255", "preprocess_input", "Normalization of shares", "x * 255"])
def test_a_model_that_scales_itself_says_what_it_was_taken_to_be_fed(tmp_path, few, name) -> None:
    front, last, _, base = FRONTS[name]
    path = write(tmp_path, few, front, last)
    found = import_keras(path)
    assert parse_pixels(found.pixels).base == base
    (note,) = (note for note in found.notes if "its own scaling" in note)
    assert f"fed RGB from {base.replace('-', ' to ')} (--pixels says otherwise)" in note
    told = import_keras(path, pixels="0-1", real_class=1)
    assert parse_pixels(told.pixels).base == "0-1"
    assert not [note for note in told.notes if "taken for granted" in note]


def test_a_scaling_of_bytes_to_shares_is_nothing_here_and_remembered(tmp_path, few) -> None:
    found = import_keras(write(tmp_path, few, [rescaling(1 / 255)], "rescaling"))
    assert found.pixels == "0-255, scale 0.00392156862745098"
    assert parse_pixels(found.pixels).affine == Affine()


def test_the_means_of_a_normalization_are_read_from_the_files_weights(tmp_path, few) -> None:
    numbers = {"mean": np.float32([120, 110, 100]), "variance": np.float32([3600, 2500, 1600])}
    more = {f"layers/normalization/vars/{at}": value for at, value in enumerate([*numbers.values(), np.int64(9)])}
    front = [normalization(mean=None, variance=None)]
    found = import_keras(write(tmp_path, few, front, "norm", **more))
    inside = parse_pixels(found.pixels).inside
    np.testing.assert_allclose(inside.scale, (1 / 60, 1 / 50, 1 / 40), rtol=1e-6)
    np.testing.assert_allclose(inside.offset, (-2.0, -2.2, -2.5), rtol=1e-6)
    more["layers/normalization/vars/0"] = np.float32([120, np.nan, 100])
    with pytest.raises(UserError, match="expected one finite number, or one for each channel"):
        import_keras(write(tmp_path, few, front, "norm", **more))


def test_a_normalization_in_a_file_of_weights_alone_is_refused_and_not_passed_over(tmp_path, few) -> None:
    numbers = (np.float32([120, 110, 100]), np.float32([3600, 2500, 1600]))
    more = {f"layers/normalization/vars/{at}": value for at, value in enumerate(numbers)}
    form.write_h5(tmp_path / "model.weights.h5", {**form.paths(few, {"logit": "dense"}), **more})
    with pytest.raises(UserError, match=r"does not tell where its layer \S+ \(Normalization\) stands"):
        import_keras(tmp_path / "model.weights.h5", head=LINE)


@pytest.mark.parametrize("base", BASES)
def test_what_a_model_was_fed_goes_into_its_pixels(tmp_path, few, base) -> None:
    path = write(tmp_path, few, [], "images")
    assert import_keras(path, pixels=base).pixels == base
    (note,) = (note for note in import_keras(path).notes if "fed RGB" in note)
    assert note.startswith("taken for granted: it was fed RGB in [0, 1]")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pixels": "0-256"}, "--pixels: expected one of 0-1, 0-255, -1-1, caffe, got 0-256"),
        ({"real_class": 2}, "--real_class: expected 0 or 1, got 2"),
        ({"image_size": 20000}, "--image_size: expected 1 to 1024, got 20000"),
    ],
)  # fmt: skip
def test_options_of_other_values_are_refused(tmp_path, arguments, said) -> None:
    with pytest.raises(UserError, match=said):
        import_keras(tmp_path / "model.keras", **arguments)


def answers(found: Any, images: torch.Tensor) -> np.ndarray:
    network = ResNet50Detector(head=found.head, image_size=found.image_size, pixels=found.pixels).eval()
    network.load_state_dict(found.state)
    with torch.no_grad():
        return network(images).double().sigmoid().numpy()


IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain(module_folder, weights) -> tuple[Any, np.ndarray]:
    """A model of one output, and what it answers of IMAGES."""
    path = write(module_folder("plain"), weights, [], "images")
    return path, answers(import_keras(path, real_class=1), IMAGES)


def test_a_model_whose_class_0_is_real_is_turned_round(plain) -> None:
    (path, expected), images = plain, IMAGES
    np.testing.assert_allclose(answers(import_keras(path, real_class=0), images), 1 - expected, atol=1e-6)
    (note,) = (note for note in import_keras(path).notes if "class 1" in note)
    assert "--real_class 0" in note


def two_outputs(folder: Any, weights: dict[str, np.ndarray], *last: dict[str, Any], top: bool = False) -> Any:
    """The same model with an output for each class; the second's less the first's is the logit of the one."""
    rng = np.random.default_rng(1)
    kernel, bias = rng.random((2048, 2), np.float32) - 0.5, rng.random(2, np.float32)
    kernel[:, 1] = kernel[:, 0] + weights["logit/kernel"][:, 0]
    bias[1] = bias[0] + weights["logit/bias"][0]
    model = functional([], "images")
    layers = model["config"]["layers"]
    layers[-1:] = last
    model["config"]["output_layers"][0] = last[-1]["name"]
    datasets = form.paths({**weights, "logit/kernel": kernel, "logit/bias": bias}, {"logit": "dense"})
    return form.write_keras(folder / "two.keras", model, datasets)


def dense(units: int, activation: str, name: str = "predictions") -> dict[str, Any]:
    return form.layer("Dense", {"name": name, "units": units, "activation": activation}, ("pool",))


@pytest.mark.parametrize(
    "last",
    [
        [dense(2, "softmax")],
        [dense(2, "linear")],
        [dense(2, "linear"), form.layer("Activation", {"name": "end", "activation": "softmax"}, ("predictions",))],
        [dense(2, "linear"), form.layer("Softmax", {"name": "end", "axis": -1}, ("predictions",))],
        [dense(2, "softmax"), form.layer("Activation", {"name": "end", "activation": "linear"}, ("predictions",))],
    ],
    ids=["softmax", "logits", "Activation", "Softmax", "cast"],
)
def test_two_classes_are_the_difference_of_their_logits(tmp_path, weights, plain, last) -> None:
    (_, expected), images = plain, IMAGES
    path = two_outputs(tmp_path, weights, *last)
    found = import_keras(path)
    assert (found.head, found.weights) == (LINE, len(weights))
    np.testing.assert_allclose(answers(found, images), expected, atol=1e-5)
    np.testing.assert_allclose(answers(import_keras(path, real_class=0), images), 1 - expected, atol=1e-5)
    taken = [note for note in found.notes if "taken for logits" in note]
    assert bool(taken) == (len(last) == 1 and last[0]["config"]["activation"] == "linear")


@pytest.mark.parametrize("units", [10, 1000])
def test_a_classifier_of_other_classes_is_no_backbone(tmp_path, few, units) -> None:
    kernel = np.zeros((2048, units), np.float32)
    path = tmp_path / "model.keras"
    datasets = form.paths(
        {**few, "logit/kernel": kernel, "logit/bias": np.zeros(units, np.float32)}, {"logit": "dense"}
    )
    model = functional([], "images")
    model["config"]["layers"][-1] = dense(units, "softmax")
    model["config"]["output_layers"][0] = "predictions"
    form.write_keras(path, model, datasets)
    with pytest.raises(UserError, match=rf"predictions \(Dense\): expected Dense\(1\) .*, got {units} units"):
        import_keras(path)
    if units == 10:
        with pytest.raises(UserError, match="got 10 units"):
            import_keras(path, backbone=True)
        return
    found = import_keras(path, backbone=True)
    assert found.head is None
    assert found.notes == ["its layer predictions, a classifier of ImageNet, is left out"]


def test_weights_to_start_from_must_be_scaled_as_the_network_scales(tmp_path, weights, caplog) -> None:
    front, last, _, _ = FRONTS["x / 127.5 - 1"]
    path = write(tmp_path, weights, front, last)
    with pytest.raises(
        UserError, match=r"scales its images itself: expected model\.network\.pixels '0-255, scale .*', got '0-1'"
    ):
        load_weights(ResNet50Detector(head=LINE), str(path))
    load_weights(ResNet50Detector(head=LINE, pixels="-1-1"), str(path))
    load_weights(ResNet50Detector(head=LINE), str(write(tmp_path, weights, [rescaling(1 / 255)], "rescaling")))
    assert "class 1 is REAL" in caplog.text


def test_layers_that_work_in_training_alone_are_left_out_with_a_note() -> None:
    model = functional([form.layer("RandomRotation", {"name": "turn"}, ("images",))], "turn")
    layers = model["config"]["layers"]
    layers.insert(-1, form.layer("GaussianNoise", {"name": "noise"}, ("pool",)))
    layers[-1] = form.layer("Dense", {"name": "out", "units": 1, "activation": "sigmoid"}, ("noise",))
    notes = recognised(model).notes
    assert [note.split(":")[0] for note in notes] == [
        "its layer turn (RandomRotation) works in training alone",
        "its layer noise (GaussianNoise) works in training alone",
    ]


def test_mixed_precision_is_told() -> None:
    model = functional([], "images")
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    form.config_of(model, "conv1_conv")["dtype"] = policy
    assert any("compute in 16 bits" in note for note in recognised(model).notes)
