"""An exported model's file: onnxruntime's session on it, and what it says of itself, checked."""

import ctypes
import json
import math
import os
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.deploy.digest import MAX_MODEL_BYTES
from lightning_cifake.errors import UserError
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.machine import cores
from lightning_cifake.model_kinds import what_is_wrong, what_takes
from lightning_cifake.text import printable, reason_of, shorten

MAX_METADATA = 2**20  # characters; export writes some two thousand


@dataclass(frozen=True)
class ModelFacts:
    """What an exported file says of itself.

    Attributes:
        threshold: an image is REAL where its probability is strictly above.
        temperature: what the logits were divided by; 1 where none was fitted.
        image_size: height and width of the images of training.
        input_type: ``uint8`` (0 to 255) or ``float32`` (0 to 1).
        precision: ``float32``, ``float16`` or ``int8``.
        metadata: all of it, as text: protocol, digests of checkpoint and data, versions, licence.
    """

    threshold: float
    temperature: float
    image_size: int
    input_type: str
    precision: str
    metadata: dict[str, str]


Spin = Literal["short", "long", "none"]
SPIN_MICROSECONDS = 20  # some layers take no longer; waking a thread takes more. docs/benchmark/busy.md has figures
_BOUNDED_SINCE = (1, 26)  # onnxruntime's version that can bound it


def open_session(path: Path, threads: int | None = None, spin: Spin = "short") -> Any:
    """An onnxruntime session on the CPU.

    Args:
        path: the model.
        threads: that compute; all cores by default.
        spin: how long they spin while they wait for each other before they sleep: ``short``, within a call alone;
            ``long``, between calls too, onnxruntime's own default, which takes the time of whatever else runs, other
            sessions of the same process too; ``none``, as is ``short`` of an onnxruntime before 1.26.

    Raises:
        UserError: as :func:`check_file`, or a file that onnxruntime does not take; weights that lie outside the
            model's folder are refused by onnxruntime itself.
    """
    check_file(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    options.intra_op_num_threads = threads or cores()
    for entry in spin_entries(spin, onnxruntime.__version__).items():
        options.add_session_config_entry(*entry)
    options.enable_mem_pattern = False  # plans memory for one shape; here every image may be of another
    try:
        # without its fallback, which prints and tries again what has failed
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's own kinds share no base
        other = what_takes(path, "ONNX")
        if not other and (wrong := what_is_wrong(path)):
            raise UserError(wrong) from error
        why = other or onnx_reason(error)
        raise UserError(f"{printable(path)} cannot be loaded as an ONNX model ({why})") from error
    _open.add(session)
    return session


def spin_entries(spin: Spin, version: str) -> dict[str, str]:
    """onnxruntime's settings for it; an entry that a version does not know it passes over."""
    if spin == "short" and tuple(map(int, version.split(".")[:2])) >= _BOUNDED_SINCE:
        return {
            "session.intra_op.allow_spinning": "1",
            "session.intra_op.spin_duration_us": str(SPIN_MICROSECONDS),
            "session.force_spinning_stop": "1",
        }
    return {"session.intra_op.allow_spinning": str(int(spin == "long"))}


_open: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _keep_after_fork() -> None:
    """A forked child never ends its parent's sessions: it would wait for threads that it does not have."""
    for session in list(_open):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_after_fork)


def check_file(path: Path) -> None:
    """Before anything of it is read.

    Raises:
        UserError: no such file, an address, an empty one, or one that is too large.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # Path has made one slash of two
        raise UserError(f"models are read from files only, and {printable(path)} is an address: download it first")
    if not os.path.isfile(path):  # noqa: PTH113 - Path's raises where a name is too long
        what = "is not a file" if os.path.lexists(path) else "does not exist"
        raise UserError(
            f"{printable(shorten(str(path)))} {what}: expected a model that `python -m lightning_cifake export` wrote"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{printable(path)} is empty: expected a model that `python -m lightning_cifake export` wrote")
    if (size := path.stat().st_size) > MAX_MODEL_BYTES:
        raise UserError(f"{printable(path)} has {size:,} bytes: expected a model of at most {MAX_MODEL_BYTES:,}")


def onnx_reason(error: Exception) -> str:
    """What onnxruntime says, without its code and the name of the file, which it puts in front."""
    return reason_of(error).rpartition(" : ")[2] or type(error).__name__


def read_facts(path: Path, session: Any) -> ModelFacts:
    """What the model says of itself, checked.

    Raises:
        UserError: another model's file, or metadata that are missing or make no sense.
    """
    try:
        inputs = [(each.name, each.shape, each.type) for each in session.get_inputs()]
        outputs = {each.name for each in session.get_outputs()}
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        if (length := sum(map(len, (*metadata, *metadata.values())))) > MAX_METADATA:
            raise UserError(
                f"{printable(path)} is another model: its metadata have {length:,} characters, at most {MAX_METADATA:,}"
            )
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)} is damaged, or another model: its inputs or metadata cannot be read"
        ) from error
    names = [name for name, _, _ in inputs]
    if names != ["images"] or len(inputs[0][1]) != 4 or not {"prob_real", "logit"} <= outputs:
        raise UserError(
            f"{printable(path)} is another model: expected images (N, H, W, 3) -> prob_real, logit, as "
            f"`python -m lightning_cifake export` writes it, got {names} -> {sorted(outputs)}"
        )
    try:
        facts = ModelFacts(
            threshold=float(metadata["decision_threshold"]),
            temperature=float(metadata["temperature"]),
            image_size=int(metadata["image_size"]),
            input_type={"tensor(uint8)": "uint8", "tensor(float)": "float32"}[inputs[0][2]],
            precision=metadata["precision"],
            metadata=metadata,
        )
        sound = 0 <= facts.threshold <= 1 and 0 < facts.temperature < math.inf
        sound = sound and 1 <= facts.image_size <= LARGEST_IMAGE
        if json.loads(metadata["class_names"]) != list(DISPLAY_NAMES) or not sound:
            raise ValueError(f"class_names {metadata['class_names']}, threshold {facts.threshold}")
    except (KeyError, ValueError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else reason_of(error)
        raise UserError(
            f"{printable(path)} has not the metadata of a model of this project ({what}): export it again"
        ) from error
    return facts
