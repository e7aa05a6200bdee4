"""YAML from anywhere: bounded, plain values only, refused in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lightning_cifake.errors import UserError
from lightning_cifake.files import read_bounded
from lightning_cifake.text import printable, reason_of

MAX_BYTES = 2**20  # a run's whole configuration takes 2 KB
MAX_VALUES = 100_000  # with every alias written out
MAX_DEPTH = 50


def read_yaml(path: Path) -> dict[str, Any]:
    """A file's mapping, of plain values: no code, no class, no alias that unfolds to gigabytes, no key twice.

    Raises:
        UserError: it cannot be read, is too large, no UTF-8, no YAML, or no mapping. One line, which
            begins with the path.
    """
    shown = printable(path)
    try:
        content = read_bounded(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read: {reason_of(error)}") from error
    return parse_yaml(content, shown)


def parse_yaml(content: bytes, shown: str) -> dict[str, Any]:
    """As :func:`read_yaml`, of bytes that have been read from what is ``shown``."""
    try:
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None:
            _refuse_unbounded(node)
        found = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is no UTF-8 text: expected YAML ({reason_of(error)})") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{shown} is no YAML that can be read: {reason_of(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        got = (
            "nothing" if found is None else "keys that are no text" if isinstance(found, dict) else type(found).__name__
        )
        raise UserError(f"{shown}: expected YAML with names and values (data: ..., model: ...), got {got}")
    return found


def _refuse_unbounded(root: yaml.Node) -> None:
    """Counts what the tree comes to with its aliases written out, without writing them out."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise ValueError("an alias stands within what it names")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        open_nodes.add(id(node))
        total = 1 + sum(size(child, depth + 1) for child in _children(node))
        open_nodes.discard(id(node))
        if total > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        sizes[id(node)] = total
        return total

    size(root, 0)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{printable(twice[1])} stands in it twice")
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
