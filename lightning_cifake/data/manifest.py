"""What the complete CIFAKE holds, file by file, and whether an archive is exactly that.

`python -m lightning_cifake.data.manifest ARCHIVE` makes cifake_manifest.npz again and prints the digest.
"""

import argparse
import re
import sys
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_cifake.data.image_names import KERAS_SUFFIXES
from lightning_cifake.errors import UserError
from lightning_cifake.files import replacing
from lightning_cifake.text import printable, reason_of

# sha256 over b"<relative path>\0" + sha256(file) of all 120,000 images in canonical order: says nothing about the zip's
# own bytes, which change whenever the archive is packed again, nor about the folder that the images lie in.
CIFAKE_DIGEST = "72615668b2e0ebdb01767190245284854d2c25697759c54201c00682c0f46cb1"
MANIFEST = Path(__file__).with_name("cifake_manifest.npz")
HEAD_BYTES = 2  # of each file's sha256: names an altered file (one in 65,536 escapes); CIFAKE_DIGEST is the proof
MAX_IMAGE_BYTES = 1 << 20  # CIFAKE's have up to 1,187
NAMED = 10  # how many files a message names before it only counts


class Folder(NamedTuple):
    """One folder's file names: the numbers from `first` to `last`, `digits` wide, once for each object class."""

    path: str
    first: int
    last: int
    digits: int


FOLDERS = (
    Folder("test/FAKE", first=0, last=999, digits=1),
    Folder("test/REAL", first=0, last=999, digits=4),
    Folder("train/FAKE", first=1_000, last=5_999, digits=4),
    Folder("train/REAL", first=0, last=4_999, digits=4),
)
OBJECT_SUFFIXES = ("", *(f" ({number})" for number in range(2, 11)))  # "" airplane, " (2)" automobile ... " (10)" truck

_IMAGE_PATH = re.compile(r"(?P<prefix>(?:.*/)?)(?P<name>(?:train|test)/(?:REAL|FAKE)/[^/]+)")
_IMAGE_SUFFIXES = (*KERAS_SUFFIXES, ".webp")  # the same wherever it is verified, whatever Pillow decodes there


@dataclass(frozen=True)
class Expected:
    """The images of an archive. Row i of `heads`, (N, HEAD_BYTES) uint8, begins the sha256 of `names[i]`'s bytes.

    `names` are relative paths like "test/FAKE/0 (10).jpg" in canonical order (sorted by code point); `digest` is
    computed as CIFAKE_DIGEST is.
    """

    names: tuple[str, ...]
    heads: np.ndarray
    digest: str


def cifake_names() -> tuple[str, ...]:
    """The relative paths of CIFAKE's 120,000 images in canonical order."""
    return tuple(
        sorted(
            f"{folder.path}/{number:0{folder.digits}d}{suffix}.jpg"
            for folder in FOLDERS
            for number in range(folder.first, folder.last + 1)
            for suffix in OBJECT_SUFFIXES
        )
    )


@cache
def cifake_expected() -> Expected:
    """CIFAKE as published, from the manifest beside this module."""
    try:
        # opened here: numpy leaves what it opened, and cannot read, open
        with MANIFEST.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            heads = arrays["sha256_heads"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{printable(MANIFEST)}, which is part of lightning_cifake, is damaged ({reason_of(error)}): install it "
            "again"
        ) from error
    return Expected(cifake_names(), heads, CIFAKE_DIGEST)


def verify_archive(path: Path, expected: Expected | None = None) -> None:
    """Checks that the zip at `path` holds exactly the `expected` images (default: the 120,000 of CIFAKE).

    The images lie under `{train,test}/{REAL,FAKE}/`, all below one folder of any name, or none; files that are no
    images and lie elsewhere (README.md) do not count. Checked in this order: names and counts, the zip's CRCs, the
    contents.

    Raises:
        UserError: not a readable zip; names that are missing, unexpected or there twice; damaged or altered files. One
            line with the first ten names of each kind and how many there are.
    """
    expected = expected or cifake_expected()
    path = Path(path)
    with _open_zip(path) as archive:
        members, strays = _image_members(archive)
        faults = _name_faults(members, strays, expected)
        if not faults:
            digests, damaged = _read_digests(archive, members, expected.names)
            faults = _content_faults(digests, damaged, expected)
    if faults:
        raise UserError(f"{printable(path)}: not the complete, unaltered CIFAKE: {'; '.join(faults)}")


def describe_archive(path: Path) -> Expected:
    """What the zip at `path` holds, as `verify_archive` would expect it. Raises UserError when a file is damaged."""
    with _open_zip(Path(path)) as archive:
        members, strays = _image_members(archive)
        if strays or not members:
            raise UserError(
                f"{printable(path)}: expected images under {{train,test}}/{{REAL,FAKE}}: {_listed('elsewhere', strays)}"
            )
        names = tuple(sorted(members))
        digests, damaged = _read_digests(archive, members, names)
    if damaged:
        raise UserError(f"{printable(path)}: {_listed('files damaged', damaged)}")
    return Expected(names, _heads(digests), _digest(names, digests))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"{printable(path)}: expected a zip archive: {reason_of(error)}") from error
    except (
        Exception
    ) as error:  # a damaged directory raises BadZipFile, but also struct.error, ValueError, NotImplementedError...
        raise UserError(
            f"{printable(path)}: expected a zip archive, complete and undamaged: {reason_of(error)}"
        ) from error


def _image_members(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """Relative path -> member below the folder that holds most images, and the images elsewhere or there twice."""
    files = [(info, _IMAGE_PATH.fullmatch(info.filename)) for info in archive.infolist() if not info.is_dir()]
    prefixes = Counter(match["prefix"] for _, match in files if match)
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    members: dict[str, zipfile.ZipInfo] = {}
    strays = []
    for info, match in files:
        if match and match["prefix"] == prefix and match["name"] not in members:
            members[match["name"]] = info
        elif match or info.filename.lower().endswith(_IMAGE_SUFFIXES):
            strays.append(info.filename)
    return members, strays


def _name_faults(members: dict[str, zipfile.ZipInfo], strays: list[str], expected: Expected) -> list[str]:
    wanted = set(expected.names)
    missing = [name for name in expected.names if name not in members]
    unexpected = sorted(members.keys() - wanted) + strays
    if not missing and not unexpected:
        return []
    found, needed = (Counter(name.rpartition("/")[0] for name in names) for names in (members, expected.names))
    counts = ", ".join(f"{folder} {found[folder]:,} of {count:,}" for folder, count in sorted(needed.items()))
    faults = [_listed("missing", missing)] if missing else []
    if unexpected:
        faults.append(_listed("unexpected or twice", unexpected))
    return [*faults, f"counts: {counts}"]


def _read_digests(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], names: tuple[str, ...]
) -> tuple[list[bytes], list[str]]:
    """The sha256 of each file in the order of `names`, and the names of those that cannot be read."""
    digests, damaged = [], []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in progress.track(names, description="verifying"):
            try:
                if members[name].file_size > MAX_IMAGE_BYTES:  # a bomb would fill the memory first
                    raise ValueError("too large")
                content = archive.read(members[name])
            except Exception:  # BadZipFile for a CRC; zlib.error, EOFError, RuntimeError and more for other damage
                damaged.append(name)
                content = b""
            digests.append(sha256(content).digest())
    return digests, damaged


def _content_faults(digests: list[bytes], damaged: list[str], expected: Expected) -> list[str]:
    unequal = (_heads(digests) != expected.heads).any(axis=1)
    unreadable = set(damaged)
    altered = [
        name for name, differs in zip(expected.names, unequal, strict=True) if differs and name not in unreadable
    ]
    faults = [_listed("damaged in the zip", damaged)] if damaged else []
    if altered:
        faults.append(_listed("altered", altered))
    if not faults and _digest(expected.names, digests) != expected.digest:
        faults.append(
            f"an altered file that cannot be named: content digest {_digest(expected.names, digests)}, "
            f"expected {expected.digest}"
        )
    return faults


def _heads(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, sha256().digest_size)[:, :HEAD_BYTES]


def _digest(names: tuple[str, ...], digests: list[bytes]) -> str:
    return sha256(b"".join(b"%s\0%s" % (n.encode(), d) for n, d in zip(names, digests, strict=True))).hexdigest()


def _listed(what: str, names: list[str]) -> str:
    return f"{len(names):,} {what} ({', '.join(map(printable, names[:NAMED]))}{', ...' if len(names) > NAMED else ''})"


def main(arguments: list[str] | None = None) -> None:
    """Writes cifake_manifest.npz from a CIFAKE archive and prints its digest, which belongs into CIFAKE_DIGEST."""
    parser = argparse.ArgumentParser(prog="python -m lightning_cifake.data.manifest", description=main.__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--output", type=Path, default=MANIFEST)
    options = parser.parse_args(arguments)
    found = describe_archive(options.archive)
    if found.names != cifake_names():
        raise UserError(f"{printable(options.archive)}: file names are not CIFAKE's (see FOLDERS)")
    with replacing(options.output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, sha256_heads=found.heads)
    print(found.digest)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
