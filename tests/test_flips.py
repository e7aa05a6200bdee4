"""One flipped byte, file by file: tests/flips.py, a few tries of each kind here, two hundred behind ``long``."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SEED = 20261125
# others' files carry no checksum of their own: what can be done is to say so
UNSEALED = {"Keras .weights.h5"}


@pytest.fixture(scope="module")
def flips() -> Any:
    spec = importlib.util.spec_from_file_location("flips", Path(__file__).with_name("flips.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flips"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kinds(flips: Any, module_folder: Callable[[str], Path]) -> Iterator[list[Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_CIFAKE_CACHE", "")  # put back at the end
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        yield flips.make_kinds(module_folder("flips"), keras=False)


def bad(flips: Any, table: dict[str, Any]) -> dict[str, Any]:
    """What must not be, with the first cases."""
    return {
        name: {end: row.examples[end] for end in flips.BAD if row.ends[end]}
        for name, row in table.items()
        if any(row.ends[end] for end in flips.BAD)
    }


def test_a_flipped_byte_changes_no_answer_silently_and_is_one_line(flips: Any, kinds: list[Any]) -> None:
    table = flips.measure(kinds, 4, SEED)
    assert len(table) >= 12 and all(sum(row.ends.values()) == 4 for row in table.values())
    assert not bad(flips, table)
    for name in ("exported ONNX", "manifest", "split.json, by export", "split.json, by fit", "metrics.json"):
        assert table[name].ends == {"refused": 4}, name


def test_a_reader_that_checks_nothing_is_seen(flips: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)))

    def fails() -> Any:
        return int(path.read_bytes() == bytes(range(256))) / int(path.read_bytes() == bytes(range(256)))

    table = flips.measure([flips.whole("silent", path, path.read_bytes), flips.whole("fails", path, fails)], 5, 0)
    assert table["silent"].ends == {"silent": 5} and table["fails"].ends == {"traceback": 5}
    assert path.read_bytes() == bytes(range(256))


@pytest.mark.long
def test_two_hundred_flipped_bytes_of_each_kind(
    flips: Any, kinds: list[Any], module_folder: Callable[[str], Path]
) -> None:
    kinds = [*kinds, *flips._keras_kinds(module_folder("keras"))]
    print(flips.header())
    table = flips.measure(kinds, 200, SEED, print)
    assert not {name: found for name, found in bad(flips, table).items() if name not in UNSEALED}
