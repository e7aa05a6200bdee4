"""keras.applications' own ImageNet weights of ResNet50: from Keras's cache, or fetched into it and verified.

Source: keras/src/applications/resnet.py and keras/src/utils/file_utils.py, Keras 3.15.
"""

import hashlib
import os
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, write_whole
from lightning_cifake.text import printable, reason_of

FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
ADDRESS = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{FILE}"
MD5 = "4d473c1dd8becc155b73f8504c6f6626"
TIMEOUT_SECONDS = 30.0  # without a single byte
LONGEST_SECONDS = 3600.0  # for all of it: 27 kB/s
LARGEST = 128 << 20  # bytes; the file has 94.8 million


def fetch_imagenet(address: str = ADDRESS, md5: str = MD5) -> Path:
    """The file's path: ``models/`` under ``KERAS_HOME``, or under ``~/.keras``, where Keras itself looks for it.

    Raises:
        UserError: it cannot be fetched or written, or what was received is another file.
    """
    path = expand_user(os.environ.get("KERAS_HOME") or "~/.keras") / "models" / FILE
    if str(path).startswith("~"):
        raise UserError(
            f"there is no home folder to keep Keras's ImageNet weights in: put {FILE} somewhere and give it with "
            "--model.weights FILE, or name a folder in $KERAS_HOME"
        )
    if path.is_file() and path.stat().st_size <= LARGEST and md5_of(path.read_bytes()) == md5:
        return path
    try:
        with urlopen(Request(address, headers={"User-Agent": "lightning_cifake"}), timeout=TIMEOUT_SECONDS) as response:
            content = _read(response)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"could not fetch Keras's ImageNet weights ({_reason(error)}): put {FILE} into {printable(path.parent)}, "
            "give a file instead (--model.weights FILE) or train from random weights (--model.weights none)"
        ) from error
    if md5_of(content) != md5:
        raise UserError(
            f"{address}: expected a file with the MD5 {md5}, got one with {md5_of(content)}; nothing was kept"
        )
    write_whole(path, content)
    return path


def _read(response: Any) -> bytes:
    """A body of bounded size, in bounded time."""
    begun, content = time.monotonic(), bytearray()
    while part := response.read(1 << 20):
        content += part
        if len(content) > LARGEST:
            raise OSError(f"more than {LARGEST:,} bytes received")
        if time.monotonic() - begun > LONGEST_SECONDS:
            raise OSError(f"it was not there after {LONGEST_SECONDS:.0f} s")
    return bytes(content)


def _reason(error: BaseException) -> str:
    """Of an URLError the error inside it, which says why."""
    inner = getattr(error, "reason", None)
    return reason_of(inner if isinstance(inner, BaseException) else error)


def md5_of(content: bytes) -> str:
    """Hex digest, the one that Keras publishes of its files."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
