"""What tests/ and parity_tests/ share: threads, folders common to the workers of a run, and what runs where and when.

Under pytest-xdist (``make test``) a file's tests stay together on one worker, those that need TensorFlow too, and what
takes longest begins first. Run plainly, ``pytest tests/test_x.py`` knows nothing of all this.
"""

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.machine import cores

HERE = Path(__file__).parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
MEMORY_OF_A_WORKER = 6 << 30  # bytes: TensorFlow and torch in one process, with float64 twins of the network

# before torch: beside other processes spinning threads crawl; and as many threads throughout, for sums in one order
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if WORKER:  # what stands there is the controller's
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"]
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))

SLOW_FIXTURES = {"tf", "warm", "pair"}
"""A test that asks for one of these imports TensorFlow, or starts a process that imports Lightning."""
SLOW_TESTS = HERE / "tests" / "slow.txt"
"""The other slow ones, a function a line, as ``pytest --write-slow`` has measured them."""
SLOW = 0.5  # seconds, set-up included, on a machine that does nothing else


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores, and as memory has room for."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    return max(1, min(cores(), memory // MEMORY_OF_A_WORKER))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = f"writes {SLOW_TESTS.relative_to(HERE)} anew: those of the tests run that took more than {SLOW:g} seconds"
    parser.addoption("--write-slow", action="store_true", help=text)


def pytest_collection_finish() -> None:
    """What was imported stays: collecting garbage passes over it, which takes a tenth of a second each time else.

    What tests leave behind is looked for a tenth as often: passes over all of it are few then.
    """
    gc.freeze()
    gc.set_threshold(10 * gc.get_threshold()[0], *gc.get_threshold()[1:])


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    listed = set(SLOW_TESTS.read_text().split())
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())) or _function(item.nodeid) in listed:
            item.add_marker(pytest.mark.slow)
    if WORKER:
        _group(items)
    done = yield
    if WORKER and getattr(config.option, "loadgroup", False):
        _name_groups(items)
    return done


def _name_groups(items: list[pytest.Item]) -> None:
    """Puts a test's group behind its name, where xdist's controller looks for it, if xdist itself could not.

    xdist 3.8 writes it to ``_nodeid``, which pytest 9.2 does not read: each test would be a group of its own, unseen.
    """
    for item in items:
        group = str(item.get_closest_marker("xdist_group").args[0])  # type: ignore[union-attr]
        if not item.nodeid.endswith(f"@{group}"):
            item._id = type(item.id).parse(f"{item.nodeid}@{group}")  # type: ignore[attr-defined]


def _function(nodeid: str) -> str:
    """``tests/test_x.py::test_y`` of a test's name, without its parameters and its group."""
    return nodeid.partition("[")[0].partition("@")[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says which tests of `make test-fast` are slow, or writes down which ones are."""
    taken: dict[str, float] = {}
    for report in [report for outcome in ("", "passed") for report in terminalreporter.stats.get(outcome, [])]:
        marked = {"long", *(() if config.option.write_slow else ("slow",))}
        if report.when != "teardown" and not marked & set(report.keywords):
            taken[report.nodeid] = taken.get(report.nodeid, 0.0) + report.duration
    longest: dict[str, float] = {}
    for nodeid, seconds in taken.items():
        longest[_function(nodeid)] = max(seconds, longest.get(_function(nodeid), 0.0))
    if config.option.write_slow:
        others = {name for name in SLOW_TESTS.read_text().split() if name not in longest}
        slow = others | {name for name, seconds in longest.items() if seconds > SLOW}
        SLOW_TESTS.write_text("".join(f"{name}\n" for name in sorted(slow)))
    elif slow := sorted((name for name in longest if longest[name] > 20 * SLOW), key=lambda name: -longest[name]):
        terminalreporter.section(f"not in {SLOW_TESTS.relative_to(HERE)}")
        for name in slow[:10]:
            terminalreporter.write_line(f"{longest[name]:6.1f} s  {name}")


def _group(items: list[pytest.Item]) -> None:
    """Names each test's group for ``--dist loadgroup``, and puts the groups with the most slow tests first."""
    groups, slow = {}, Counter[str]()
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group_of(item)))
        groups[item] = str(item.get_closest_marker("xdist_group").args[0])  # type: ignore[union-attr]
        slow[groups[item]] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -slow[groups[item]])


def _group_of(item: pytest.Item) -> str:
    """A file's tests, or all that import TensorFlow: one worker does, and trains one model with it."""
    return "tensorflow" if "tf" in getattr(item, "fixturenames", ()) else item.path.stem


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for all of its workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if WORKER else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes a folder of a file's tests, which is gone when they are done: some hold a model in six forms.

    What ``tmp_path_factory`` makes stays to the end of the run; of all files it came to more than a disk had left.
    """
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp(), ignore_cleanup_errors=True) as own:
        yield lambda name: Path(mkdtemp(prefix=f"{name}-", dir=own))


@pytest.fixture(scope="session")
def demo_cache(shared_folder: Path) -> Path:
    """Where a run keeps what it decodes, the built-in demo and made images: once, since a decoding holds a lock."""
    return shared_folder / "cache"


@pytest.fixture
def cifake_cache(demo_cache: Path) -> Path:
    """Where CIFAKE's 120,000 images are kept decoded: the user's own cache, a minute less but in the first run."""
    return default_cache_dir() if os.environ.get("CIFAKE_ROOT") else demo_cache


@pytest.fixture(scope="session")
def cifake_root() -> Path:
    """CIFAKE, a folder or the author's zip."""
    if not os.environ.get("CIFAKE_ROOT"):
        pytest.skip("needs CIFAKE: set CIFAKE_ROOT to its folder or zip")
    return Path(os.environ["CIFAKE_ROOT"])


@pytest.fixture(scope="session", autouse=True)
def _shortcuts() -> Iterator[None]:
    """A fit's report has blank pictures, but in tests that ask for ``drawn_pictures``; a network is exported once."""
    if "torch" not in sys.modules:  # where no test can fit or export
        yield
        return
    from shortcuts import blank_pictures, quick_exports

    with blank_pictures(), quick_exports():
        yield


@pytest.fixture
def drawn_pictures() -> Iterator[None]:
    """The report's pictures are drawn as the package draws them."""
    from shortcuts import drawn_pictures

    with drawn_pictures():
        yield
