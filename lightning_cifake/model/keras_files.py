"""Reads Keras's files without Keras: ``.keras``, ``.weights.h5``, and ``.h5`` of a whole model or of weights alone.

Nothing in them is executed, and no file beside them is opened. Source: keras/src/saving/saving_lib.py and
keras/src/legacy/saving/legacy_h5_format.py, Keras 3.15.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from lightning_cifake.errors import UserError

SUFFIXES = (".keras", ".h5", ".hdf5")
KERAS2_LAYERS = "_layer_checkpoint_dependencies"
LARGEST = 8 << 30  # bytes of weights; ResNet50 with Adam has 0.3 GB


@dataclass
class KerasFile:
    """An open file.

    ``model`` and ``optimizer`` are the configurations it holds, or None. ``layers`` gives the variables of each layer
    in the order in which Keras wrote them, ``optimizer_variables`` those of the optimizer. Variables are read when
    they are converted.
    """

    path: Path
    legacy: bool
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    layers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """By path and "" in Keras 3's format; in the older one by the outermost layer and the layer's own name. Then by the
    variable's place ("0", "1", ...) in Keras 3's format, by its name in the older one."""
    names: dict[str, str] = field(default_factory=dict)
    """Keras 3's path of every layer, weights or not -> the name that it had, or "" where the file does not tell."""
    optimizer_variables: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name


def is_keras_file(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


@contextmanager
def open_keras(path: Path) -> Iterator[KerasFile]:
    """Opens a file for as long as its variables are read.

    Raises:
        UserError: no such file, damaged, or none that Keras wrote; also for what turns out damaged while it is read.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: expected one that ends in .keras, .h5 or .weights.h5")
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
        if path.suffix.lower() == ".keras" and not zipped:
            raise UserError(f"{path} is no .keras file: expected a zip archive, came another kind of file")
        if zipped:
            with zipfile.ZipFile(path) as archive:
                config = json.loads(_entry(archive, "config.json", path))
                weights = io.BytesIO(_entry(archive, "model.weights.h5", path))
            with h5py.File(weights, "r") as h5:
                yield _read_keras3(path, h5, config)
        else:
            with h5py.File(path, "r") as h5:
                yield _read_h5(path, h5)
    # h5py raises OSError, KeyError and RuntimeError for what is cut short
    except (OSError, zipfile.BadZipFile, KeyError, RuntimeError, ValueError, EOFError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged, or no file that Keras wrote ({reason})") from error


def _entry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Reads and, by its checksum, verifies an entry."""
    if name not in archive.namelist():
        raise UserError(f"{path} is no .keras file: expected {name} in it, came {', '.join(archive.namelist()[:5])}")
    if archive.getinfo(name).file_size > LARGEST:
        raise UserError(f"{path}: its {name} is larger than {LARGEST >> 30} GiB, which no ResNet50 is")
    return archive.read(name)


def _read_h5(path: Path, h5: Any) -> KerasFile:
    if "model_config" in h5.attrs:
        file = _read_legacy(path, _inside(h5, "model_weights", path))
        file.model = json.loads(_text(h5.attrs["model_config"]))
        training = json.loads(_text(h5.attrs["training_config"])) if "training_config" in h5.attrs else {}
        file.optimizer = (training or {}).get("optimizer_config")
        if "optimizer_weights" in h5:
            group = _inside(h5, "optimizer_weights", path)
            names = _attribute(group, "weight_names")
            if [name.rpartition("_")[2] for name in names[2:4]] == ["momentum", "velocity"]:  # as Keras 3 writes them
                file.optimizer_variables = [_dataset(group, name, path) for name in names]
        return file
    if _attribute(h5, "layer_names"):
        return _read_legacy(path, h5)
    if "layers" in h5 or KERAS2_LAYERS in h5:
        return _read_keras3(path, h5, {})
    raise UserError(f"{path} is an HDF5 file that Keras did not write: it has no layers in it")


def _read_keras3(path: Path, h5: Any, config: dict[str, Any]) -> KerasFile:
    if KERAS2_LAYERS in h5:
        raise UserError(f"{path} is of Keras 2: save the model as .h5 there, or load and save it in Keras 3")
    file = KerasFile(path, legacy=False, model=config or None)
    file.optimizer = (config.get("compile_config") or {}).get("optimizer")
    optimizer: dict[int, Any] = {}

    def visit(name: str, entry: Any) -> None:
        parts = name.split("/")
        if parts[0] == "layers" and parts[-1] == "vars" and "seed_generator" not in parts:
            file.names["/".join(parts[:-1])] = _text(entry.attrs.get("name", ""))
        if not isinstance(entry, h5py.Dataset) or "seed_generator" in parts:  # where a dropout's numbers stand
            return
        _check_storage(entry, name, path)
        if parts[0] == "optimizer":
            if parts[1] == "vars" and parts[2].isdecimal():
                optimizer[int(parts[2])] = entry
        else:
            layer = "/".join(parts[:-2] if parts[-2:-1] == ["vars"] else parts[:-1])
            file.layers.setdefault((layer, ""), {})[parts[-1]] = entry

    h5.visititems(visit)
    file.optimizer_variables = [optimizer[at] for at in sorted(optimizer)]
    return file


def _read_legacy(path: Path, weights: Any) -> KerasFile:
    file = KerasFile(path, legacy=True)
    for group_name in _attribute(weights, "layer_names"):
        group = _inside(weights, group_name, path)
        named = {name: name.split(":")[0].split("/") for name in _attribute(group, "weight_names")}
        inside = {parts[-2] for parts in named.values() if len(parts) > 1}
        file.layers.setdefault((group_name, group_name), {})
        for name, parts in named.items():
            # of a model inside the model each layer keeps its name; a layer alone may have been renamed since
            layer = parts[-2] if len(inside) > 1 else group_name
            file.layers.setdefault((group_name, layer), {})[parts[-1]] = _dataset(group, name, path)
        if len(inside) > 1:
            del file.layers[group_name, group_name]
    return file


def _inside(group: Any, name: str, path: Path) -> Any:
    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise UserError(f"{path}: {name} points to another file, which is not opened")
    return group[name]


def _dataset(group: Any, name: str, path: Path) -> Any:
    entry = _inside(group, name, path)
    if not isinstance(entry, h5py.Dataset):
        raise UserError(f"{path}: expected numbers at {name}, came a group")
    _check_storage(entry, name, path)
    return entry


def _check_storage(entry: Any, name: str, path: Path) -> None:
    if entry.is_virtual or entry.external:
        raise UserError(f"{path}: {name} lies in another file, which is not opened")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names; Keras cuts one that is too long for HDF5 into name0, name1, ..."""
    if name in group.attrs:
        return [_text(value) for value in group.attrs[name]]
    values: list[str] = []
    part = 0
    while f"{name}{part}" in group.attrs:
        values += [_text(value) for value in group.attrs[f"{name}{part}"]]
        part += 1
    return values
