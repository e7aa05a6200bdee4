"""Files: written whole or not at all, and known by their SHA-256."""

import hashlib
import os
from pathlib import Path

from lightning_cifake.errors import UserError


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, in a folder that is made where missing, whole or not at all; text as UTF-8.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    # surrogateescape: names of files that are not UTF-8 come back as the bytes they were
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary.is_file():
            temporary.unlink()
