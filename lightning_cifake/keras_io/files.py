"""Reads Keras's files without Keras: ``.keras``, ``.weights.h5``, and ``.h5`` of a whole model or of weights alone.

Nothing in them is executed, and no file beside them is opened. Source: keras/src/saving/saving_lib.py and
keras/src/legacy/saving/legacy_h5_format.py, Keras 3.15.
"""

import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io import imagenet as keras_imagenet
from lightning_cifake.keras_io.hdf5 import (
    FREE,
    LARGEST,
    MOST_TEXT,
    UNPACKED,
    check_storage,
    dataset,
    follow,
    names_attribute,
    text_attribute,
    walk,
)
from lightning_cifake.keras_io.keras_file import KerasFile
from lightning_cifake.text import printable, reason_of, shorten

log = logging.getLogger(__name__)

SUFFIXES = (".keras", ".h5", ".hdf5")
SAVED_MODEL = "saved_model.pb"
KERAS2_LAYERS = "_layer_checkpoint_dependencies"
LONGEST_MESSAGE = 8000  # characters; every weight of a ResNet50 that does not fit is named in it
MOST_ENTRIES_OF_A_ZIP = 1000  # Keras writes three, and one for each asset


def is_keras_file(path: Path) -> bool:
    """By its name; a folder by the SavedModel in it."""
    return path.name.lower().endswith(SUFFIXES) or (path / SAVED_MODEL).is_file()


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block is the file's fault, in one harmless line.

    Raises:
        UserError: for every exception.
    """
    try:
        yield
    except UserError as error:  # layers' names in it are the file's own
        raise UserError(shorten(printable(error), LONGEST_MESSAGE)) from error
    # h5py, zipfile, json and numpy raise two dozen kinds for what is damaged or was never meant well
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: "
        reason = kind + reason_of(error)
        raise UserError(f"{printable(path)} is damaged, or no file that Keras wrote ({reason})") from error


@contextmanager
def open_keras(path: Path) -> Iterator[KerasFile]:
    """Opens a file for as long as its variables are read.

    Raises:
        UserError: no such file, damaged, or none that Keras wrote; also for whatever goes wrong while it is read.
    """
    if (path / SAVED_MODEL).is_file():
        from lightning_cifake.keras_io.savedmodel import read_saved_model

        with guarded(path):
            yield read_saved_model(path)
        return
    if not path.is_file():
        raise UserError(f"there is no file {printable(path)}: expected one that ends in .keras, .h5 or .weights.h5")
    with guarded(path):
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
        if path.suffix.lower() == ".keras" and not zipped:
            raise UserError(f"{path} is no .keras file: expected a zip archive, got another kind of file")
        if zipped:
            with zipfile.ZipFile(path) as archive:
                config = _json(_entry(archive, "config.json", path, MOST_TEXT), "config.json", path)
                weights = io.BytesIO(_entry(archive, "model.weights.h5", path, LARGEST))
            with h5py.File(weights, "r") as h5:
                yield _read_keras3(path, h5, config)
        else:
            _check_content(path)
            with h5py.File(path, "r") as h5:
                yield _read_h5(path, h5)


def _check_content(path: Path) -> None:
    """HDF5 as Keras writes it has no checksums: the one file whose digest is known is checked, of others it is said.

    Raises:
        UserError: keras.applications' own file, by its name, with another content.
    """
    if path.name != keras_imagenet.FILE:
        log.warning("%s carries no checksums, as no HDF5 file of Keras does: damage to it is not seen", printable(path))
    elif path.stat().st_size > keras_imagenet.LARGEST or keras_imagenet.md5_of(path.read_bytes()) != keras_imagenet.MD5:
        raise UserError(f"{path} is damaged, or another file: it has not the MD5 of keras.applications' {path.name}")


def _entry(archive: zipfile.ZipFile, name: str, path: Path, limit: int) -> bytes:
    """Reads and, by its checksum, verifies an entry, whose size is bounded before any of it is read."""
    names = archive.namelist()
    if name not in names:
        shown = ", ".join(names[:5]) or "nothing"
        raise UserError(f"{path} is no .keras file: expected {name} in it, got {shown}")
    if len(names) > MOST_ENTRIES_OF_A_ZIP:
        raise UserError(f"{path}: expected at most {MOST_ENTRIES_OF_A_ZIP} files in it, got {len(names)}")
    info = archive.getinfo(name)
    if info.file_size > min(limit, FREE + UNPACKED * info.compress_size):
        raise UserError(
            f"{path}: its {name} would unpack {info.compress_size:,} bytes to {info.file_size:,}, which no ResNet50 "
            "does: refused"
        )
    return archive.read(name)


def _json(content: bytes | str, what: str, path: Path) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object as its {what}, got {type(value).__name__}")
    return value


def _read_h5(path: Path, h5: Any) -> KerasFile:
    if "model_config" in h5.attrs:
        file = _read_legacy(path, follow(h5, "model_weights", path.name))
        file.model = _json(text_attribute(h5, "model_config", path.name), "model_config", path)
        if "training_config" in h5.attrs:
            training = json.loads(text_attribute(h5, "training_config", path.name))
            file.optimizer = _optimizer(training, "optimizer_config")
        if "optimizer_weights" in h5:
            group = follow(h5, "optimizer_weights", path.name)
            names = names_attribute(group, "weight_names", path.name)
            file.optimizer_variables = [(name, dataset(group, name, path.name)) for name in names]
        return file
    if names_attribute(h5, "layer_names", path.name):
        return _read_legacy(path, h5)
    if "layers" in h5 or KERAS2_LAYERS in h5:
        return _read_keras3(path, h5, {})
    raise UserError(f"{path} is an HDF5 file that Keras did not write: it has no layers in it")


def _optimizer(training: Any, name: str) -> dict[str, Any] | None:
    """An optimizer's configuration; None where the model was not compiled."""
    found = training.get(name) if isinstance(training, dict) else None
    return found if isinstance(found, dict) else None


def _read_keras3(path: Path, h5: Any, config: dict[str, Any]) -> KerasFile:
    if KERAS2_LAYERS in h5:
        raise UserError(f"{path} is of Keras 2: save the model as .h5 there, or load and save it in Keras 3")
    file = KerasFile(path, legacy=False, model=config or None)
    file.optimizer = _optimizer(config.get("compile_config"), "optimizer")
    optimizers: dict[str, dict[int, Any]] = {}
    entries = sorted(walk(h5, path.name), key=lambda found: found[0])
    for name, entry in entries:
        parts = name.split("/")
        if parts[0] == "layers" and parts[-1] == "vars" and "seed_generator" not in parts:
            named = "name" in entry.attrs
            file.names["/".join(parts[:-1])] = text_attribute(entry, "name", path.name) if named else ""
        if not isinstance(entry, h5py.Dataset) or "seed_generator" in parts:  # where a dropout's numbers stand
            continue
        check_storage(entry, name, path.name)
        if parts[0] == "optimizer":
            if len(parts) > 2 and parts[-2] == "vars" and parts[-1].isdecimal():
                optimizers.setdefault("/".join(parts[:-2]), {})[int(parts[-1])] = entry
        else:
            layer = "/".join(parts[:-2] if parts[-2:-1] == ["vars"] else parts[:-1])
            file.layers.setdefault((layer, ""), {})[parts[-1]] = entry
    # one that scales its loss (mixed_float16) lists the variables of the one inside it among its own
    innermost = optimizers.get(max(optimizers, key=lambda name: name.count("/"), default=""), {})
    file.optimizer_variables = [("", innermost[at]) for at in sorted(innermost)]
    return file


def _read_legacy(path: Path, weights: Any) -> KerasFile:
    file = KerasFile(path, legacy=True)
    for group_name in names_attribute(weights, "layer_names", path.name):
        group = follow(weights, group_name, path.name)
        named = {name: name.split(":")[0].split("/") for name in names_attribute(group, "weight_names", path.name)}
        inside = {parts[-2] for parts in named.values() if len(parts) > 1}
        file.layers.setdefault((group_name, group_name), {})
        for name, parts in named.items():
            # of a model inside the model each layer keeps its name; a layer alone may have been renamed since
            layer = parts[-2] if len(inside) > 1 else group_name
            file.layers.setdefault((group_name, layer), {})[parts[-1]] = dataset(group, name, path.name)
        if len(inside) > 1:
            del file.layers[group_name, group_name]
    return file
