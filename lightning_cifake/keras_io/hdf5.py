"""HDF5 from strangers: nothing beside the file is opened, and nothing is read that is larger than what it is stored in.

Keras writes plain groups and datasets. A link by name can lead to another file, also from the middle of a path, and a
dataset can lie in others or unpack to a thousand times its size; all of that is refused before a value is read.
"""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from lightning_cifake.errors import UserError

LARGEST = 4 << 30  # bytes of all weights in a file; ResNet50 with Adam in float64 has 0.6 GB
MOST_ENTRIES = 20_000  # groups and datasets; ResNet50 with Adam has 2,000
MOST_NAMES = 100_000  # in a list of names, or characters where a text is one
MOST_TEXT = 16 << 20  # bytes of a configuration; ResNet50's has 0.2 MB
UNPACKED = 64  # times its stored size that a compressed dataset may have, beyond the first megabyte
FREE = 1 << 20


def follow(group: Any, path: str, source: str) -> Any:
    """What lies at a path, each of whose steps is an entry of this very file.

    Raises:
        UserError: a link to another file, or one by name, which may lead to one.
        KeyError: nothing lies there.
    """
    for step in path.split("/"):
        if step in ("", "."):
            continue
        link = group.get(step, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{source}: {path} points to another file, which is not opened")
        if isinstance(link, h5py.SoftLink):
            raise UserError(f"{source}: {path} is a link by name, which Keras does not write: refused")
        group = group[step]
    return group


def dataset(group: Any, path: str, source: str) -> Any:
    """The dataset at a path, checked.

    Raises:
        UserError: as :func:`follow` and :func:`check_storage`; a group in its place.
    """
    entry = follow(group, path, source)
    if not isinstance(entry, h5py.Dataset):
        raise UserError(f"{source}: expected numbers at {path}, got a group")
    check_storage(entry, path, source)
    return entry


def check_storage(entry: Any, path: str, source: str) -> None:
    """Refuses numbers that lie elsewhere, that are none, or that are far larger than what is stored of them."""
    if entry.is_virtual or entry.external:
        raise UserError(f"{source}: {path} lies in another file, which is not opened")
    if entry.shape is None or entry.dtype.kind not in "fiub":
        raise UserError(f"{source}: expected numbers at {path}, got {entry.dtype}")
    size = entry.size * entry.dtype.itemsize
    if size > FREE and size > UNPACKED * entry.id.get_storage_size():
        raise UserError(
            f"{source}: {path} would unpack {entry.id.get_storage_size():,} bytes to {size:,}, which no weights do: "
            "refused"
        )


def walk(group: Any, source: str) -> Iterator[tuple[str, Any]]:
    """Every group and dataset with its path, once each; what is linked by name is refused.

    Raises:
        UserError: links, too many entries, or more bytes than any ResNet50 has.
    """
    found = total = 0
    pending = [("", group)]
    seen = set()
    while pending:
        path, parent = pending.pop()
        for name in parent:
            place = f"{path}{name}"
            entry = follow(parent, name, source)
            key = h5py.h5o.get_info(entry.id).addr
            if key in seen:  # groups can contain each other
                continue
            seen.add(key)
            found += 1
            if found > MOST_ENTRIES:
                raise UserError(f"{source}: expected at most {MOST_ENTRIES:,} groups and arrays in it, got more")
            if isinstance(entry, h5py.Dataset):
                total += entry.size * entry.dtype.itemsize if entry.shape is not None else 0
                if total > LARGEST:
                    raise UserError(f"{source}: expected at most {LARGEST >> 30} GiB of weights, got more")
                yield place, entry
            elif isinstance(entry, h5py.Group):
                yield place, entry
                pending.append((f"{place}/", entry))


def text_attribute(group: Any, name: str, source: str) -> str:
    """A text that stands beside a group, of bounded size."""
    _check_attribute(group, name, source)
    value = group.attrs[name]
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise UserError(f"{source}: expected text of at most {MOST_TEXT >> 20} MiB in its {name}")
    return value


def names_attribute(group: Any, name: str, source: str) -> list[str]:
    """A list of names; Keras cuts one that is too long for HDF5 into name0, name1, ..."""
    if name in group.attrs:
        return _names(group, name, source)
    values: list[str] = []
    part = 0
    while f"{name}{part}" in group.attrs:
        values += _names(group, f"{name}{part}", source)
        part += 1
    return values


def _names(group: Any, name: str, source: str) -> list[str]:
    _check_attribute(group, name, source)
    values = np.asarray(group.attrs[name])
    if values.ndim != 1 or (values.size and values.dtype.kind not in "OSU"):
        raise UserError(f"{source}: expected a list of names in its {name}, got {values.dtype} of shape {values.shape}")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _check_attribute(group: Any, name: str, source: str) -> None:
    kept = group.attrs.get_id(name)
    count = int(np.prod(kept.shape, dtype=np.float64)) if kept.shape else 1
    if count > MOST_NAMES or count * kept.dtype.itemsize > MOST_TEXT:
        raise UserError(f"{source}: its {name} is larger than any that Keras writes")
