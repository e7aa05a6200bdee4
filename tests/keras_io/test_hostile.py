"""Keras files that are damaged or not meant well: each is read, or refused in one line; nothing else is opened.

The files have ResNet50's form with arrays of a few numbers, so that hundreds can be tried.
"""

import copy
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras_form as form
import numpy as np
import pytest

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io import hdf5 as keras_hdf5
from lightning_cifake.keras_io import savedmodel as keras_savedmodel
from lightning_cifake.keras_io.files import LONGEST_MESSAGE
from lightning_cifake.keras_io.importer import Imported, import_keras

SEED = 20261125
TRIES = 60  # of each kind
LINE = "avgpool, dense 1"


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return form.small_weights(LINE)


def model() -> dict[str, Any]:
    return form.sequential(
        form.input_layer("input_1"),
        form.layer("Rescaling", {"name": "rescaling", "scale": 1 / 255, "offset": 0.0}),
        form.resnet(),
        form.layer("GlobalAveragePooling2D", {"name": "pool"}),
        form.layer("Dense", {"name": "out", "units": 1, "activation": "sigmoid", "use_bias": True}),
    )


ADAM = {"class_name": "Adam", "config": {"learning_rate": 9.5e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}}


def datasets(weights: dict[str, np.ndarray], adam: bool = True) -> dict[str, np.ndarray]:
    """In Keras 3's format, with Adam's state."""
    found = form.paths(weights, {"logit": "dense"})
    if not adam:
        return found
    owners = [each.name for each in form.expected_layers() if each.kind in form.SNAKE] + ["logit"]
    names = [f"{o}/{n}" for o in owners for n in ("kernel", "bias", "gamma", "beta") if f"{o}/{n}" in weights]
    optimizer = {"optimizer/vars/0": np.int64(40), "optimizer/vars/1": np.float32(9.5e-4)}
    for at, name in enumerate(names):
        for slot in (0, 1):
            optimizer[f"optimizer/vars/{2 + 2 * at + slot}"] = np.abs(weights[name])
    return {**found, **optimizer}


def keras_file(path: Path, config: Any, arrays: dict[str, Any]) -> Path:
    return form.write_keras(path, config, arrays, ADAM)


def legacy_file(path: Path, weights: dict[str, np.ndarray], attributes: dict[str, Any] | None = None) -> Path:
    """A whole model in .h5."""
    layers: dict[str, dict[str, np.ndarray]] = {"input_1": {}, "rescaling": {}, "resnet50": {}, "pool": {}, "out": {}}
    for name, value in weights.items():
        owner, _, variable = name.partition("/")
        inside = "out" if owner == "logit" else "resnet50"
        layers[inside][f"out/{variable}" if inside == "out" else f"{owner}/{variable}"] = value
    text = json.dumps({**model(), "name": "m"})
    with h5py.File(path, "w") as h5:
        h5.attrs["model_config"] = text
        h5.attrs["training_config"] = json.dumps({"optimizer_config": ADAM})
        group = h5.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, variables in layers.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in variables]
            for name, value in variables.items():
                inner.create_dataset(name, data=value)
        for name, value in (attributes or {}).items():
            h5.attrs[name] = value
    return path


def what_was_read(path: Path, **arguments: Any) -> Imported | None:
    """None where it is refused; anything but one harmless line fails."""
    try:
        return import_keras(path, **arguments)
    except UserError as error:
        text = str(error)
        assert text.isprintable() and len(text) <= LONGEST_MESSAGE, text[:500]
        return None


def outcome(path: Path, **arguments: Any) -> str:
    return "read" if what_was_read(path, **arguments) else "refused"


@pytest.fixture
def keras_sound(tmp_path: Path, shrunk: None, weights: dict[str, np.ndarray]) -> Path:
    return keras_file(tmp_path / "sound.keras", model(), datasets(weights))


@pytest.fixture(scope="module")
def sound_arrays(weights: dict[str, np.ndarray]) -> dict[bool, bytes]:
    """model.weights.h5, without Adam's state and with it."""
    found = {}
    for adam in (False, True):
        content = io.BytesIO()
        form.write_h5(content, datasets(weights, adam))
        found[adam] = content.getvalue()
    return found


@pytest.fixture
def legacy_sound(tmp_path: Path, shrunk: None, weights: dict[str, np.ndarray]) -> Path:
    return legacy_file(tmp_path / "sound.h5", weights)


def test_the_small_files_are_read_whole(keras_sound: Path, legacy_sound: Path) -> None:
    found = import_keras(keras_sound)
    assert (found.weights, found.head) == (320, LINE)
    assert found.adam is not None and found.adam.iterations == 40
    assert import_keras(legacy_sound).state.keys() == found.state.keys()


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(data), rng.choice([600, 5000, len(data)])))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, rng.randbytes(8), (2**40).to_bytes(8, "little")])
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("kind", ["keras_sound", "legacy_sound"])
def test_flipped_cut_and_moved_bytes_are_read_or_one_line(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sound: Path = request.getfixturevalue(kind)
    content, rng = sound.read_bytes(), random.Random(SEED)
    target = tmp_path / f"damaged{sound.suffix}"
    ends = []
    for _ in range(TRIES):
        target.write_bytes(mutated(content, rng))
        ends.append(outcome(target))
    assert ends.count("refused") > TRIES // 4


STRANGE: list[Any] = [
    None, True, -1, 0, 2**70, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m\u202e", [], {}, [None],
    [[]], {"class_name": "Dense"}, {"class_name": "__tensor__"}, [1, 2, 3, 4], {"config": None},
    {"class_name": "Functional", "config": {"layers": []}},
]  # fmt: skip


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [where] if where else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*where, key))
    return found


def changed(config: Any, rng: random.Random) -> Any:
    config = copy.deepcopy(config)
    for _ in range(rng.choice([1, 1, 1, 3])):
        everywhere = places(config)
        shallow = [place for place in everywhere if len(place) < rng.choice([4, 6, 20])]
        *path, last = rng.choice(shallow)
        parent = config
        for key in path:
            parent = parent[key]
        if rng.random() < 0.3:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(rng.choice(STRANGE))
    return config


def test_configurations_with_other_types_are_read_or_one_line(
    shrunk: None, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    content = io.BytesIO()
    form.write_h5(content, datasets(weights, adam=False))
    whole = {**model(), "compile_config": {"optimizer": ADAM}}
    ends = []
    for _ in range(TRIES // 2):
        path = tmp_path / "changed.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(changed(whole, rng)))
            archive.writestr("model.weights.h5", content.getvalue())
        ends.append(outcome(path))
    assert min(ends.count("refused"), ends.count("read")) > TRIES // 20


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000, '{"a":' * 100_000, "null", "[]", "3", '"x"', "{}", "\ufeff{}", "{not json", "9" * 5000, "\0",
        '{"class_name": "Sequential", "config": {"layers": ' + "[" * 900 + "]" * 900 + "}}",
        '{"class_name": "Sequential", "config": {"layers": ['
        + ",".join(['{"class_name": "F", "config": {"name": "f"}}'] * 9000) + "]}}",
    ],
    ids=range(13),
)  # fmt: skip
def test_json_that_is_none_of_keras_is_one_line(text: str, shrunk: None, weights: Any, tmp_path: Path) -> None:
    content = io.BytesIO()
    form.write_h5(content, {})
    path = tmp_path / "odd.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", content.getvalue())
    assert outcome(path) == "refused"


def strange_arrays() -> dict[str, Any]:
    return {
        "integers": np.ones(2, np.int32), "text": np.array([b"a", b"b"]), "bool": np.array([True, False]),
        "complex": np.ones(2, complex), "a scalar": np.float32(1), "nothing": np.zeros(0, np.float32),
        "NaN": np.array([np.nan, 1], np.float32), "infinity": np.array([np.inf, 1], np.float32),
        "a record": np.zeros(2, [("a", "f4"), ("b", "i4")]), "another size": np.zeros(3, np.float32),
        "another rank": np.zeros((2, 2, 2, 2, 2), np.float32), "empty": h5py.Empty("f4"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", [*strange_arrays(), "variable text", "references", "objects"])
@pytest.mark.parametrize("place", ["layers/functional/layers/conv2d/vars/1", "optimizer/vars/0", "optimizer/vars/3"])
def test_arrays_of_other_kinds_are_one_line(
    kind: str, place: str, shrunk: None, sound_arrays: dict[bool, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "other.keras"
    content = io.BytesIO(sound_arrays["optimizer" in place])
    with h5py.File(content, "r+") as h5:
        del h5[place]
        if kind == "variable text":
            h5.create_dataset(place, data=["a", "b"], dtype=h5py.string_dtype())
        elif kind == "references":
            h5.create_dataset(place, data=np.array([h5.ref, h5.ref], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        elif kind == "objects":
            h5.create_dataset(place, (2,), dtype=h5py.vlen_dtype(np.int32))
        else:
            h5[place] = strange_arrays()[kind]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({**model(), "compile_config": {"optimizer": ADAM}}))
        archive.writestr("model.weights.h5", content.getvalue())
    found = what_was_read(path)
    assert found is None or "optimizer" in place
    if found is not None:
        assert any("optimizer state is left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_config", "{not json"), ("training_config", 3), ("training_config", "[]"),
        ("training_config", '{"optimizer_config": {"class_name": "LossScaleOptimizer", "config": []}}'),
        ("model_config", 3.5), ("model_config", b"\xff\xfe"), ("model_config", np.zeros(4)),
        ("model_config", h5py.Empty("f4")),
    ],
)  # fmt: skip
def test_attributes_of_other_kinds_are_read_or_one_line(
    name: str, value: Any, shrunk: None, weights: Any, tmp_path: Path
) -> None:
    outcome(legacy_file(tmp_path / "model.h5", weights, {name: value}))


def refused(path: Path, said: str) -> None:
    with pytest.raises(UserError, match=said):
        import_keras(path)


@pytest.mark.parametrize("place", ["model_weights", "model_weights/resnet50", "model_weights/resnet50/conv1_conv"])
@pytest.mark.parametrize("kind", ["external", "soft"])
def test_a_link_in_the_middle_of_a_path_is_not_followed(
    place: str, kind: str, legacy_sound: Path, tmp_path: Path, weights: Any
) -> None:
    secret = legacy_file(tmp_path / "secret.h5", weights)
    with h5py.File(legacy_sound, "r+") as h5:
        attributes = dict(h5[place].attrs)
        del h5[place]
        h5[place] = h5py.ExternalLink(str(secret), place) if kind == "external" else h5py.SoftLink("/elsewhere")
        if kind == "soft":
            h5["elsewhere"] = h5py.ExternalLink(str(secret), place)
    assert attributes is not None
    refused(legacy_sound, "points to another file" if kind == "external" else "is a link by name, which Keras does not")


@pytest.mark.parametrize("kind", ["virtual", "external storage", "soft link", "external link"])
def test_numbers_that_lie_in_another_file_are_not_opened(
    kind: str, keras_sound: Path, weights: Any, tmp_path: Path
) -> None:
    place = "layers/dense/vars/0"
    arrays = datasets(weights)
    del arrays[place]
    path = tmp_path / "model.weights.h5"
    form.write_h5(path, arrays)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.ones((2, 1), np.float32)
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    with h5py.File(path, "r+") as h5:
        if kind == "virtual":
            layout = h5py.VirtualLayout((2, 1), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "numbers", (2, 1))
            h5.create_virtual_dataset(place, layout)
        elif kind == "external storage":
            h5.create_dataset(place, (2, 1), np.float32, external=[(str(tmp_path / "secret.bin"), 0, 8)])
        elif kind == "soft link":
            h5[place] = h5py.SoftLink("/layers/dense/vars/1")
        else:
            h5[place] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "numbers")
    refused(path, "another file, which is not opened|link by name")


def test_an_archive_that_unpacks_to_gigabytes_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(4 << 20))
    assert path.stat().st_size < 1 << 20
    refused(path, r"its model\.weights\.h5 would unpack [\d,]+ bytes to 268,435,456, which no ResNet50 does: refused")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (80 << 20))
        archive.writestr("model.weights.h5", b"")
    refused(path, r"its config\.json would unpack")


@pytest.mark.parametrize("kind", ["never written", "packed"])
def test_an_array_that_unpacks_to_gigabytes_is_refused_by_what_it_declares(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.weights.h5"
    with h5py.File(path, "w") as h5:
        if kind == "packed":
            numbers = np.zeros((1 << 22,), np.float32)
            h5.create_dataset("layers/dense/vars/0", data=numbers, chunks=(1 << 20,), compression="gzip")
        else:
            h5.create_dataset("layers/dense/vars/0", (1 << 14, 1 << 14), np.float32)
    refused(path, "would unpack")
    with h5py.File(path, "w") as h5:
        for at in range(6):
            h5.create_dataset(f"layers/dense/vars/{at}", (1 << 14, 1 << 14), np.float32)
    refused(path, "would unpack|at most 4 GiB")


def test_a_file_of_endless_groups_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_hdf5, "MOST_ENTRIES", 50)
    path = tmp_path / "many.weights.h5"
    with h5py.File(path, "w") as h5:
        for at in range(60):
            h5.create_group(f"layers/dense_{at}/vars")
        h5["layers/dense_0/vars/again"] = h5["layers"]  # a ring
    refused(path, "expected at most 50 groups and arrays in it, got more")


def test_names_from_the_file_are_shown_harmless(shrunk: None, weights: Any, tmp_path: Path) -> None:
    config = model()
    layer = config["config"]["layers"][3]
    layer["class_name"], layer["name"] = "GlobalMaxPooling2D", "\x1b[31mpool\u202e\n"
    path = keras_file(tmp_path / "odd.keras", config, datasets(weights))
    with pytest.raises(UserError) as caught:
        import_keras(path)
    assert "\\x1b[31mpool\\u202e\\n" in str(caught.value)
    assert str(caught.value).isprintable()
    config = model()
    config["config"]["layers"][1]["name"] = "\x1b[31mscale"
    notes = import_keras(keras_file(tmp_path / "odd.keras", config, datasets(weights))).notes
    assert any("\\x1b[31mscale" in note for note in notes)


def test_weights_that_keras_could_not_compute_with_are_refused(shrunk: None, weights: Any, tmp_path: Path) -> None:
    wrong = {**weights, "conv3_block1_0_bn/moving_variance": -np.ones(2, np.float32)}
    refused(keras_file(tmp_path / "wrong.keras", model(), datasets(wrong)), "a variance below 0 in conv3_block1_0_bn")
    wrong = datasets(weights)
    wrong["optimizer/vars/3"] = -wrong["optimizer/vars/3"] - 1
    refused(keras_file(tmp_path / "wrong.keras", model(), wrong), "its optimizer's mean squares are below 0")
    for rate in (np.nan, 0.0, -1.0):
        wrong = {**datasets(weights), "optimizer/vars/1": np.float32(rate)}
        refused(keras_file(tmp_path / "wrong.keras", model(), wrong), "expected a learning rate above 0")


def test_a_saved_model_without_tensorflow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").write_bytes(b"")
    monkeypatch.setattr(keras_savedmodel.importlib.util, "find_spec", lambda name: None)
    refused(tmp_path / "exported", r"reading a SavedModel needs TensorFlow, which is missing: pip install")
