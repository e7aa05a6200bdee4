"""Decoding a source in blocks, by several processes: what each could decode, what it could not, and why.

No process outlives the one that started it, and what the machine lacks is never taken for the fault of a file.
"""

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lightning_cifake.data.encodings import ENCODING, encodings_of
from lightning_cifake.data.image_file import DecodedImage, read_image
from lightning_cifake.data.sources import Problem, Source
from lightning_cifake.errors import UserError
from lightning_cifake.machine import MACHINE_ERRORS, cores, end_with_parent
from lightning_cifake.text import printable, reason_of

_BLOCK = 512  # images a worker decodes before it hands them over, fewer where they are large:
_BLOCK_BYTES = 4 << 20


class Block(NamedTuple):
    """What a worker hands over: of the entries of one block, those that were decoded and those that were not.

    Attributes:
        pixels: (n, S, S, 3) uint8.
        kept: the n entries' places in the source.
        problems: what was left out.
        unread: the paths among the problems that could not even be read: that may be otherwise another time.
        digests: n of the pixels of an image each.
        encodings: (n,) ENCODING.
        failed: why the machine, and not a file, is to blame; then the rest does not count.
    """

    pixels: np.ndarray
    kept: list[int]
    problems: list[Problem]
    unread: list[str]
    digests: list[bytes]
    encodings: np.ndarray
    failed: str = ""


class _Blocks:
    """The source in blocks, as a map-style dataset: a torch DataLoader runs its workers."""

    def __init__(self, source: Source, image_size: int) -> None:
        self.source, self.image_size = source, image_size
        self.each = max(1, min(_BLOCK, _BLOCK_BYTES // (3 * image_size**2)))

    def __len__(self) -> int:
        return -(-len(self.source.entries) // self.each)

    def __getitem__(self, block: int) -> Block:
        first = block * self.each
        entries = self.source.entries[first : first + self.each]
        pixels = np.empty((len(entries), self.image_size, self.image_size, 3), np.uint8)
        found = Block(pixels, [], [], [], [], np.empty(0, ENCODING))
        decoded: list[DecodedImage] = []
        for offset, entry in enumerate(entries):
            try:
                content = _read(self.source, entry.path, found)
                if content is None:
                    continue
                image = read_image(content, self.image_size)
            except (OSError, MemoryError) as error:  # returned: torch would raise it again with a traceback inside
                reason = "there is not enough memory" if isinstance(error, MemoryError) else reason_of(error)
                return found._replace(failed=f"{printable(entry.path)}: {reason}")
            except ValueError as error:
                found.problems.append(Problem(entry.path, str(error)))
                continue
            at = len(found.kept)
            pixels[at] = image.pixels
            decoded.append(image._replace(pixels=pixels[:0]))
            found.digests.append(hashlib.blake2b(pixels[at].tobytes(), digest_size=16).digest())
            found.kept.append(first + offset)
        return found._replace(pixels=pixels[: len(found.kept)], encodings=encodings_of(decoded))


def _read(source: Source, path: str, found: Block) -> bytes | None:
    """A file's bytes; None where it cannot be read, which is noted.

    Raises:
        OSError: the machine is to blame, not the file.
    """
    try:
        return source.read(path)
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise
        reason = f"cannot be read ({reason_of(error)})"
    except ValueError as error:
        reason = str(error)
    found.problems.append(Problem(path, reason))
    found.unread.append(path)
    return None


@contextmanager
def decoding(source: Source, image_size: int) -> Iterator[Iterator[Block]]:
    """The source's blocks in order, decoded by several processes where that pays; all of them end with the block.

    Raises:
        UserError: a process cannot be started, or was ended, or lacks what it needs.
    """
    try:
        with closing(_blocks_of(source, image_size)) as blocks:
            yield blocks
    except RuntimeError as error:  # torch tells of a worker's end from a signal's handler, wherever this process is
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that decodes {printable(source.root)} was ended from outside, as happens where memory is "
            f"short: {reason_of(error)}"
        ) from error


def _blocks_of(source: Source, image_size: int) -> Generator[Block]:
    import torch
    from rich.console import Console
    from rich.progress import track
    from torch.utils.data import DataLoader

    blocks = _Blocks(source, image_size)
    total = len(source.entries)
    workers = min(cores(), 16) if total > 4 * _BLOCK else 0
    # batch_size=None: the loader hands over each block as it is, in order. Its own generator: it would draw from
    # torch's, and a run that decodes would train otherwise than one that finds the images decoded.
    loader: Any = DataLoader(
        blocks,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_prepare_worker, os.getpid()),
        generator=torch.Generator(),
    )
    shown = track(
        loader,
        f"decoding {total:,} images (once)",
        total=len(blocks),
        console=Console(stderr=True),
        disable=total <= _BLOCK,
    )
    try:
        for block in shown:
            if block.failed:
                raise UserError(f"cannot decode {printable(source.root)} now: {block.failed}")
            yield block
    except OSError as error:
        raise UserError(f"cannot decode with {workers} processes: {reason_of(error)}") from error


def _prepare_worker(parent: int, worker: int) -> None:
    end_with_parent(parent)


def _as_it_is(block: Any) -> Any:
    return block
