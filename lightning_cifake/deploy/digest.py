"""An exported model carries the digest of all its bytes at its own end, where no parser is needed to find it.

The last 84 bytes of the file are one more entry of the model's metadata, ``content_sha256``: the SHA-256 of every byte
before it, graph, weights and metadata, as ``head -c -84 MODEL.onnx | sha256sum`` prints it. To ONNX it is metadata like
any other.
"""

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

KEY = "content_sha256"
MAX_MODEL_BYTES = 2**30  # ResNet50 in float32 takes 94 MB; a serialized model cannot pass 2 GiB
# ModelProto.metadata_props (field 14) with a key and a value of 64 hex digits, as protobuf writes them
_HEAD = b"\x72\x52\x0a\x0e" + KEY.encode() + b"\x12\x40"
_LENGTH = len(_HEAD) + 64
_BLOCK = 2**20


@dataclass(frozen=True)
class ModelDigest:
    """What a model's bytes say.

    Attributes:
        checked: the file carries its digest, and it fits.
        sha256: hex digest of the whole file, as its manifest has it.
    """

    checked: bool
    sha256: str


def sealed(serialized: bytes) -> bytes:
    """A serialized ONNX model with its digest at the end; one that it carried there already is replaced."""
    content = serialized[:-_LENGTH] if serialized[-_LENGTH:].startswith(_HEAD) else serialized
    return content + _HEAD + hashlib.sha256(content).hexdigest().encode()


def read_digest(path: Path) -> ModelDigest:
    """Reads a model's file whole, and holds it against the digest at its end.

    Raises:
        OSError: it cannot be read.
        UserError: it is not what was written.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        body = hashlib.sha256()
        _update(body, file, max(length - _LENGTH, 0))
        tail = file.read(_LENGTH + 1)
    whole = body.copy()
    whole.update(tail)
    # a flipped byte can hit the entry itself: either half of it gives it away
    carries = KEY.encode() in tail or (len(tail) == _LENGTH and re.fullmatch(rb"[0-9a-f]{64}", tail[-64:]) is not None)
    if carries and tail != _HEAD + body.hexdigest().encode():
        raise damaged(path)
    return ModelDigest(carries, whole.hexdigest())


def damaged(path: Path) -> UserError:
    """What is said of a file whose digest does not fit."""
    return UserError(
        f"{printable(path)} is damaged, or was changed after its export: it is not what was written (its SHA-256 does "
        f"not fit); copy it again, export it again, or drop {KEY} from its metadata if the change is meant"
    )


def _update(digest: "hashlib._Hash", file: IO[bytes], length: int) -> None:
    buffer = memoryview(bytearray(min(_BLOCK, length)))
    while length > 0:
        count = file.readinto(buffer[: min(_BLOCK, length)])  # type: ignore[attr-defined]
        if not count:
            return
        digest.update(buffer[:count])
        length -= count


class DigestCheck:
    """Reads and hashes a model's file beside its loading, which takes longer: neither waits for the other.

        with DigestCheck(path) as check:
            session = ...                      # an error of the loader gives way to that of the digest
        check.found.checked

    Raises:
        UserError: at the end, the file cannot be read or is not what was written.
    """

    found: ModelDigest

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed: Exception | None = None
        self._reader = Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        try:
            self.found = read_digest(self.path)
        except (OSError, UserError) as error:
            self._failed = error

    def __enter__(self) -> "DigestCheck":
        self._reader.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._reader.join()
        if isinstance(self._failed, OSError):
            raise UserError(f"{printable(self.path)} cannot be read: {reason_of(self._failed)}") from self._failed
        if self._failed is not None:
            raise self._failed


def check_origin(model: Path, found: ModelDigest) -> bool:
    """Whether damage to a model would have been seen: by its own digest, or by the manifest beside it.

    Where neither says anything, that is said; a manifest of another file is, too.

    Raises:
        UserError: it carries no digest, and is not the file that the manifest beside it was written for.
    """
    expected = said_by_manifest(model)
    shown, manifest = printable(model), printable(manifest_path(model).name)
    if expected == found.sha256:
        return True
    if found.checked:
        if expected is not None:
            log.warning(
                "%s lies beside %s and was written for another file: it says nothing of this one", manifest, shown
            )
        return True
    if expected is not None:
        raise UserError(
            f"{shown} is not the file that {manifest} was written for: expected SHA-256 {expected[:64]}, got "
            f"{found.sha256}"
        )
    log.warning("%s carries no digest, and no manifest lies beside it: damage to it would not be seen", shown)
    return False


def said_by_manifest(model: Path) -> str | None:
    """The SHA-256 that the manifest beside a model gives for it; None where there is none that says one."""
    return _sha256_in(_manifest_beside(model))


def manifest_of(model: Path, sha256: str) -> dict[str, Any]:
    """The manifest beside a model; empty where there is none that can be read, or it is of another file.

    Args:
        model: the file.
        sha256: of it.
    """
    manifest = _manifest_beside(model)
    return manifest if _sha256_in(manifest) == sha256 else {}


def _manifest_beside(model: Path) -> dict[str, Any]:
    path = manifest_path(model)
    if not path.is_file():
        return {}
    try:
        return read_json(path)[0]
    except UserError:
        return {}  # `verify` says what is wrong with it


def _sha256_in(manifest: dict[str, Any]) -> str | None:
    described = manifest.get("model")
    sha256 = described.get("sha256") if isinstance(described, dict) else None
    return sha256 if isinstance(sha256, str) else None


def manifest_path(model: Path) -> Path:
    """model.onnx -> model.json"""
    return model.with_suffix(".json")
