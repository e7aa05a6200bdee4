"""tests/slow.txt names tests that exist: one that was renamed would come back into `make test-fast` unseen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_slow_test_is_there() -> None:
    listed = Path(__file__).with_name("slow.txt").read_text().split()
    assert listed == sorted(set(listed))
    functions: dict[str, set[str]] = {}
    for name in listed:
        path, _, function = name.partition("::")
        if path not in functions:
            tree = ast.parse((ROOT / path).read_text())
            functions[path] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in functions[path], name


def test_a_worker_knows_the_group_of_a_test(request: pytest.FixtureRequest) -> None:
    """Else what the tests of a file share is made once a worker: the suite takes minutes more."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("runs beside no other worker, or in no groups")
    assert request.node.nodeid.endswith("@test_slow_list")
