"""Which images are CIFAKE's own, whatever their files are called: short digests of the pixels of its two parts.

`python -m lightning_cifake.data.cifake_pixels CIFAKE.zip` makes cifake_pixels.npz again. An image that was saved again
with a loss has other pixels, and is not known.
"""

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_cifake.errors import UserError
from lightning_cifake.files import replacing
from lightning_cifake.text import printable, reason_of

DIGESTS = Path(__file__).with_name("cifake_pixels.npz")
SIZE = 32
BITS = 40  # of a digest: of ten million other images one is taken for one of CIFAKE's 120,000


class CifakePixels(NamedTuple):
    """What the package knows of CIFAKE as published.

    Attributes:
        train, test: sorted int64 digests of each part's images, twins once; 378 are in both.
        data_digest: of all of its paths and pixels, as :class:`~lightning_cifake.data.decode.ImageSet` has it.
    """

    train: np.ndarray
    test: np.ndarray
    data_digest: str

    def in_train(self, pixels: Iterable[np.ndarray]) -> np.ndarray:
        """(32, 32, 3) uint8 images -> (N,) bool: whether each is one of CIFAKE's train part."""
        return np.isin(short(pixels), self.train)

    def in_test(self, pixels: Iterable[np.ndarray]) -> np.ndarray:
        """The same of its test part."""
        return np.isin(short(pixels), self.test)


def pixel_digests(images: Iterable[np.ndarray]) -> np.ndarray:
    """(S, S, 3) uint8 images -> (N,) int64."""
    joined = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(joined, "<i8").astype(np.int64)


def short(images: Iterable[np.ndarray]) -> np.ndarray:
    """(N,) int64: of each digest as many bits as are kept."""
    return pixel_digests(images) & (2**BITS - 1)


@cache
def cifake_pixels() -> CifakePixels:
    """From the file beside this module.

    Raises:
        UserError: it is damaged.
    """
    try:
        # opened here: numpy leaves what it opened, and cannot read, open
        with DIGESTS.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            train, test = (np.cumsum(arrays[part].astype(np.int64)) for part in ("train", "test"))
            data_digest = str(arrays["data_digest"])
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{printable(DIGESTS)}, which is part of lightning_cifake, is damaged ({reason_of(error)}): install it "
            "again"
        ) from error
    return CifakePixels(train, test, data_digest)


def write(images: np.ndarray, parts: np.ndarray, data_digest: str, path: Path = DIGESTS) -> None:
    """Writes the file: of the sorted digests the steps from each to the next, which take a third less.

    Args:
        images: (N, 32, 32, 3) uint8.
        parts: (N,) text, train or test.
        data_digest: of the source.
        path: the file.
    """
    kept = (np.unique(short(images[parts == part])) for part in ("train", "test"))
    steps = (np.diff(digests, prepend=0) for digests in kept)
    train, test = (each.astype(np.min_scalar_type(each.max())) for each in steps)  # of CIFAKE itself uint32
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, train=train, test=test, data_digest=np.array(data_digest))


def main(arguments: list[str]) -> None:
    """Of a complete CIFAKE archive, after it is verified."""
    from lightning_cifake.data.decode import load_images
    from lightning_cifake.data.manifest import verify_archive

    if len(arguments) != 1:
        raise UserError("expected one argument, CIFAKE's archive")
    verify_archive(Path(arguments[0]))
    source = load_images(arguments[0])
    write(source.images, source.parts, source.digest)
    print(f"{DIGESTS.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
