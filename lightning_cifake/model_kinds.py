"""Which kind of model a file is, and which commands take it: for the command that was handed another one."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from lightning_cifake.hub import SAFETENSORS
from lightning_cifake.text import printable

ModelKind = Literal["checkpoint", "ONNX", "Keras"]

NAMES: dict[ModelKind, str] = {
    "checkpoint": "a checkpoint", "ONNX": "an exported model (ONNX)", "Keras": "a Keras file",
}  # fmt: skip
_HDF5 = b"\x89HDF\r\n\x1a\n"
_KERAS_ENTRIES = {"config.json", "model.weights.h5"}
_ENDINGS: dict[str, ModelKind] = {".ckpt": "checkpoint", ".keras": "Keras", ".h5": "Keras", ".onnx": "ONNX"}
_MAX_ARCHIVE = 2**32  # bytes, whose directory is still looked at

TAKEN_BY: dict[ModelKind, str] = {
    "checkpoint": "test, validate, fit, export, convert, ensemble, evaluate, calibrate, predict and benchmark take it, "
    "with --ckpt_path (convert, ensemble, evaluate and calibrate: by its name)",
    "ONNX": "predict takes it with --model, benchmark with --onnx, evaluate, calibrate and verify by its name; for the "
    "rest make a checkpoint of it: python -m lightning_cifake convert {path} {stem}.ckpt",
    "Keras": "evaluate takes it by its name, export, predict and verify with --ckpt_path, fit with --model.weights; "
    "for the rest make a "
    "checkpoint of it: python -m lightning_cifake convert {path} {stem}.ckpt",
}


def model_kind(path: Path) -> ModelKind | None:
    """By what the file begins with, and what its archive lists; an ONNX model has no such mark: by its name."""
    with suppress(OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RecursionError):
        if path.is_dir():
            return "Keras" if (path / "saved_model.pb").is_file() else None
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(8)
        if start == _HDF5:
            return "Keras"
        if start.startswith(b"PK\x03\x04"):
            if path.stat().st_size > _MAX_ARCHIVE:
                return None
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if _KERAS_ENTRIES & set(names):
                return "Keras"
            return "checkpoint" if any(name.endswith("/data.pkl") for name in names[:100]) else None
        if path.suffix.lower() == ".onnx":
            return "ONNX"
        if path.suffix == SAFETENSORS:  # what of a checkpoint is published
            return "checkpoint"
    return None


def what_is_wrong(path: Path) -> str | None:
    """Why there is no model in what lies there, by its ending and its content; None where neither tells."""
    shown = printable(path)
    if path.is_dir():
        return f"{shown} is a folder without a best.ckpt: expected a run's folder, or a model's file"
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return None
    named = _ENDINGS.get(path.suffix.lower())
    if not start:
        return f"{shown} is empty: expected {NAMES[named] if named else 'a model'}"
    if start.startswith(b"PK\x03\x04"):
        if zipfile.is_zipfile(path):
            return f"{shown} is a zip archive of something else: expected {_one_of('checkpoint', 'Keras')}"
        begun = NAMES[named] if named in ("checkpoint", "Keras") else _one_of("checkpoint", "Keras")
        return f"{shown} is damaged, or cut off: it begins as {begun} does, and does not end so"
    if named == "ONNX":
        return None  # what reads it says why it cannot
    if named:
        return f"{shown} is named as {NAMES[named]} is, and is none: damaged, or of something else"
    return f"{shown} is no model: expected {_one_of('checkpoint', 'ONNX', 'Keras')}"


def _one_of(*kinds: ModelKind) -> str:
    return ", ".join(NAMES[kind] for kind in kinds[:-1]) + f" or {NAMES[kinds[-1]]}"


def what_takes(path: Path, instead_of: ModelKind | None = None) -> str | None:
    """``it is a Keras file: ...``, where it is a model of another kind; None where nothing tells what it is."""
    kind = model_kind(path)
    if kind is None or kind == instead_of:
        return None
    stem = path.name.partition(".")[0] or "model"
    return f"it is {NAMES[kind]}: {TAKEN_BY[kind].format(path=printable(path), stem=printable(stem))}"
