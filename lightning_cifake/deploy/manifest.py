"""The manifest beside an exported model: what it is, how it was checked, what it measured, and answers to repeat."""

from datetime import date
from pathlib import Path
from typing import Any

from lightning_cifake.deploy.digest import manifest_path
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import versions
from lightning_cifake.files import read_json, sha256_of
from lightning_cifake.machine import cores, processor
from lightning_cifake.text import printable, shorten

PACKAGES = ("lightning_cifake", "torch", "lightning", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


def read_manifest(model: Path) -> tuple[dict[str, Any], bool]:
    """What lies beside a model, checked to be of this very file, and whether it carries a digest of itself.

    Raises:
        UserError: there is none, it is damaged, or it is of another file.
    """
    path = manifest_path(model)
    try:
        content, sealed = read_json(path)
    except UserError as error:
        raise UserError(
            f"the manifest {error}; expected it beside the model, as export wrote it; or give --ckpt_path to compare "
            "with the checkpoint"
        ) from error
    try:
        expected = content["model"]["sha256"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{printable(path)} is not the manifest of an exported model: export the model again"
        ) from error
    found = sha256_of(model)
    if found != expected:
        raise UserError(
            f"{printable(model)} is not the file that {printable(path.name)} was written for: expected SHA-256 "
            f"{shorten(printable(expected), 64)}, got {found}"
        )
    return content, sealed


def environment_info() -> dict[str, Any]:
    """Date, machine and versions of this run."""
    return {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": versions(PACKAGES),
    }
