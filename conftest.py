"""What tests/ and parity_tests/ share: threads, folders common to the workers of a run, and what runs where and when.

Under pytest-xdist (``make test``) a file's tests stay together on one worker, all that needs TensorFlow on another,
and what takes longest begins first. Run plainly, ``pytest tests/test_x.py`` knows nothing of all this.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from lightning_cifake.machine import cores

HERE = Path(__file__).parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
MEMORY_OF_A_WORKER = 4 << 30  # bytes: TensorFlow and torch in one process, with float64 twins of the network

# before torch: beside other processes spinning threads crawl; and as many threads throughout, for sums in one order
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if WORKER:  # what stands there is the controller's
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))

SLOW_FIXTURES = {"tf", "tiny_command", "pair"}
"""A test that asks for one of these imports TensorFlow, or starts processes that import Lightning."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores, and as memory has room for."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    return max(1, min(cores(), memory // MEMORY_OF_A_WORKER))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    if WORKER:
        _group(items)


def _group(items: list[pytest.Item]) -> None:
    """Names each test's group for ``--dist loadgroup``, and puts the groups with the most slow tests first."""
    groups, slow = {}, Counter[str]()
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            name = "tensorflow" if "tf" in getattr(item, "fixturenames", ()) else item.path.stem
            item.add_marker(pytest.mark.xdist_group(name))
        groups[item] = str(item.get_closest_marker("xdist_group").args[0])  # type: ignore[union-attr]
        slow[groups[item]] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -slow[groups[item]])


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for all of its workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if WORKER else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def demo_cache(shared_folder: Path) -> Path:
    """Where a run keeps what it decodes, the built-in demo and CIFAKE: once, since a decoding holds a lock."""
    return shared_folder / "cache"


@pytest.fixture(scope="session")
def cifake_root() -> Path:
    """CIFAKE, a folder or the author's zip."""
    if not os.environ.get("CIFAKE_ROOT"):
        pytest.skip("needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
    return Path(os.environ["CIFAKE_ROOT"])
