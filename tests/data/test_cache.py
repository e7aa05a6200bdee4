"""What is kept of the decoded images: checked before it is used, made by one process, nothing left by the dead."""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_cifake import files
from lightning_cifake.data import cache, decode, sources, workers
from lightning_cifake.data.decode import ImageSet, load_images
from lightning_cifake.errors import UserError


@pytest.fixture
def source(madedata: Any, tmp_path: Path) -> Path:
    return madedata.folder(tmp_path / "a", madedata.files("flat", 12))


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small sources are decoded by two processes."""
    monkeypatch.setattr(workers, "_BLOCK", 2)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    # how long torch waits for each of them where an error has left a loader behind
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    yield
    gc.collect()  # here, not in some later test


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("decoded again")


def one_line(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only_folder(parent: Path) -> Path:
    (folder,) = parent.iterdir()
    return folder


def same(one: ImageSet, other: ImageSet) -> bool:
    fields = ("images", "labels", "parts", "object_classes", "groups", "encodings")
    return (one.paths, one.digest, one.problems) == (other.paths, other.digest, other.problems) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in fields
    )


@pytest.mark.parametrize("name", ["images.npy", "index.npz", "seal.json"])
def test_every_flipped_byte_is_found_before_it_is_used_and_decoded_anew_with_one_line(
    source: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = load_images(source, cache_dir=tmp_path / "cache")
    right = ImageSet(**{**right.__dict__, "images": np.array(right.images)})
    folder = only_folder(tmp_path / "cache")
    whole = (folder / name).read_bytes()
    draw = random.Random(name)
    places = [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(65))]
    for at in places:
        caplog.clear()
        (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        assert same(load_images(source, cache_dir=tmp_path / "cache"), right), at
        assert len(caplog.messages) == 1 and "are damaged" in caplog.messages[0], at
        assert "\n" not in caplog.messages[0]
        assert only_folder(tmp_path / "cache") == folder
        assert (folder / name).read_bytes() == whole


def test_the_demo_s_pixels_are_checked_too(
    demo_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = load_images(cache_dir=demo_cache)
    shutil.copytree(Path(right.images.filename).parent, tmp_path / Path(right.images.filename).parent.name)  # type: ignore[attr-defined]
    pixels = only_folder(tmp_path) / "images.npy"
    monkeypatch.setattr(decode, "make_demo", never)
    assert load_images(cache_dir=tmp_path).digest == right.digest
    raw = bytearray(pixels.read_bytes())
    raw[3_000_000] ^= 1
    pixels.write_bytes(raw)
    with pytest.raises(AssertionError, match="decoded again"):
        load_images(cache_dir=tmp_path)
    assert "are damaged (block 1 of 1 of the pixels" in caplog.text


def test_pixels_that_are_kept_without_checksums_are_decoded_again_and_that_is_said(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = load_images(source, cache_dir=tmp_path / "cache")
    (only_folder(tmp_path / "cache") / "seal.json").unlink()
    assert same(load_images(source, cache_dir=tmp_path / "cache"), right)
    assert len(caplog.messages) == 1 and "carry no checksums: decoding them again" in caplog.messages[0]


def test_a_disk_that_gives_back_other_bytes_at_once_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crc32 = cache.zlib.crc32
    monkeypatch.setattr(cache.zlib, "crc32", lambda raw, start=1: crc32(raw, start))  # not the same writing as reading
    assert "cannot be relied on" in one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))


def test_opening_what_is_kept_writes_nothing_and_waits_for_nobody(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_images(source, cache_dir=tmp_path / "cache")
    for name in ("locked", "building", "remove"):
        monkeypatch.setattr(cache, name, never)
    load_images(source, cache_dir=tmp_path / "cache")


def test_large_images_make_small_blocks() -> None:
    made = sources.Source(Path("x"), [sources.Entry(f"FAKE/{i}.jpg", 0, "", 0) for i in range(1000)], {})
    for size, each in ((32, 512), (224, 27), (1024, 1), (4000, 1)):
        blocks = workers._Blocks(made, size)
        assert (blocks.each, len(blocks)) == (each, -(-1000 // each))


@pytest.mark.long
def test_120_000_images_are_checked_and_opened_within_a_second_of_computing(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32)
    draw = np.random.default_rng(0)
    with cache.building(folder) as made, cache.Writer(made, 32, 120_000) as writer:
        for _ in range(240):
            writer.append(draw.integers(0, 256, (500, 32, 32, 3), np.uint8))
        writer.finish({"labels": np.zeros(120_000, np.uint8)})
    begun = time.process_time()
    kept = cache.open_cached(folder)
    assert kept is not None and kept.images.shape == (120_000, 32, 32, 3)
    assert time.process_time() - begun < 1


# --- files that come back ---------------------------------------------------------------------------------------------


def test_a_repaired_zip_is_decoded_again_though_size_and_time_are_those_of_the_damaged_one(
    madedata: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat"))
    whole, stat = path.read_bytes(), path.stat()
    at = whole.index(b"REAL/1.jpg") + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(load_images(path, cache_dir=tmp_path / "cache")) == 5
    assert len(load_images(path, cache_dir=tmp_path / "cache")) == 5 and not caplog.messages
    path.write_bytes(whole)  # as cp -p does: into the same file, and the same times
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    repaired = load_images(path, cache_dir=tmp_path / "cache")
    assert len(repaired) == 6 and repaired.problems == []
    assert "lack REAL/1.jpg, which could not be read then and can be now" in caplog.text


def test_a_file_that_could_not_be_read_is_tried_again_at_the_next_start(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = sources.read_bounded

    def refuse(path: Path, limit: int) -> bytes:
        if path.name == "3.jpg":
            raise OSError(errno.EIO, "Input/output error")
        return read(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "read_bounded", refuse)
        first = load_images(source, cache_dir=tmp_path / "cache")
        assert [problem.reason for problem in first.problems] == ["cannot be read (Input/output error)"] * 2
        assert same(load_images(source, cache_dir=tmp_path / "cache"), first)
    assert len(load_images(source, cache_dir=tmp_path / "cache")) == 24


def test_a_source_that_changes_while_it_is_decoded_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, madedata: Any
) -> None:
    read = workers.read_image

    def add(*arguments: Any) -> Any:
        (source / "REAL" / "late.jpg").write_bytes(madedata.encoded(99))
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "read_image", add)
        message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert "has changed while its images were decoded" in message
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(load_images(source, cache_dir=tmp_path / "cache")) == 25


def test_a_zip_that_is_cut_off_while_it_is_decoded_is_one_line_and_nothing_is_kept(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    path = madedata.zip(tmp_path / "a.zip", madedata.files("flat", 12))
    read = workers.read_image

    def cut(*arguments: Any) -> Any:
        os.truncate(path, 3000)
        return read(*arguments)

    monkeypatch.setattr(workers, "read_image", cut)
    message = one_line(lambda: load_images(path, cache_dir=tmp_path / "cache"))
    assert str(path) in message
    assert list((tmp_path / "cache").iterdir()) == []


# --- what the machine lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_workers", [False, True])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_what_the_machine_lacks_is_said_and_no_file_is_blamed_for_it(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    in_workers: bool,
    error: OSError,
    said: str,
) -> None:
    def fail(path: Path, limit: int) -> bytes:
        raise error

    if in_workers:
        request.getfixturevalue("several")
    monkeypatch.setattr(sources, "read_bounded", fail)
    message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert said in message and "cannot decode" in message
    assert "cache_dir" not in message and "space" not in message
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("where", "name"), [(np, "memmap"), (cache, "read_bounded"), (files, "read_bounded"), (cache, "_check")]
)
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_a_sound_cache_that_cannot_be_opened_now_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, number: int
) -> None:
    right = load_images(source, cache_dir=tmp_path / "cache")
    right = ImageSet(**{**right.__dict__, "images": np.array(right.images)})

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert "cannot open the decoded images" in message and os.strerror(number) in message
    monkeypatch.setattr(workers, "read_image", never)
    assert same(load_images(source, cache_dir=tmp_path / "cache"), right)


def test_a_process_that_may_have_no_more_threads_checks_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = load_images(source, cache_dir=tmp_path / "cache")

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    monkeypatch.setattr(workers, "read_image", never)
    assert same(load_images(source, cache_dir=tmp_path / "cache"), right)


def test_an_image_that_does_not_fit_into_memory_is_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(workers, "read_image", fail)
    assert "FAKE/0.jpg: there is not enough memory" in one_line(
        lambda: load_images(source, cache_dir=tmp_path / "cache")
    )


def test_a_process_that_cannot_be_started_is_not_blamed_on_the_disk(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    def fail() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert "cannot decode with 2 processes: Resource temporarily unavailable" in message


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EMFILE, False), (errno.ENOSPC, True), (errno.EROFS, True), (errno.EACCES, True)]
)
def test_another_folder_is_advised_where_that_would_help(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: bool
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "_header", fail)
    message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert os.strerror(number) in message and ("--data.cache_dir" in message) == advice
    assert ("free some space" in message) == (number == errno.ENOSPC)


def test_a_worker_that_is_killed_is_one_line_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: None
) -> None:
    me = os.getpid()

    def killed(*_: Any) -> None:
        if os.getpid() != me:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(workers, "read_image", killed)
    message = one_line(lambda: load_images(source, cache_dir=tmp_path / "cache"))
    assert "was ended from outside, as happens where memory is short" in message
    assert list((tmp_path / "cache").iterdir()) == []


# --- several processes, and dead ones ---------------------------------------------------------------------------------

SLOW = """
import logging, os, sys, time
from pathlib import Path
from lightning_cifake.data import decode, workers
logging.basicConfig(level=logging.INFO, format="%(message)s")
read = workers.read_image
def slow(*arguments):
    os.write(1, b"decoding %d\\n" % os.getpid())  # in one piece, whoever else writes
    time.sleep(float(sys.argv[3]))
    return read(*arguments)
workers.read_image, workers._BLOCK, workers.cores = slow, int(sys.argv[4]), lambda: 2
images = decode.load_images(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]))
print("done", images.digest, flush=True)
"""


def start(source: Path, kept: Path, seconds: float, block: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOW, *map(str, (source, kept, seconds, block))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_of_two_that_start_on_a_cold_cache_one_decodes_and_the_other_waits_and_says_so(
    source: Path, tmp_path: Path
) -> None:
    first = start(source, tmp_path / "cache", 0.1, 512)
    assert first.stdout is not None and first.stdout.readline().startswith("decoding")
    second = start(source, tmp_path / "cache", 0.1, 512)
    said = [process.communicate(timeout=100) for process in (first, second)]
    assert said[0][0].splitlines()[-1] == said[1][0].strip(), said  # the second one only says that it is done
    assert "another process decodes the same images: waiting for it" in said[1][1]
    only_folder(tmp_path / "cache")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_killed_parent_and_the_next_start_removes_what_it_left(
    source: Path, tmp_path: Path, how: signal.Signals
) -> None:
    kept = tmp_path / "cache"
    parent = start(source, kept, 0.5, 2)
    assert parent.stdout is not None
    said = [parent.stdout.readline() for _ in range(4)]
    assert all(said), parent.communicate(timeout=30)[1]
    children = {int(line.split()[1]) for line in said} - {parent.pid}
    try:
        assert len(children) == 2
        parent.send_signal(how)
        parent.wait(30)
        (kept / ".0123456789abcdef0123456789abcdef.abc.tmp").mkdir()  # of another source, without its lock
        os.utime(kept / ".0123456789abcdef0123456789abcdef.abc.tmp", (0, 0))
        assert len([path for path in kept.iterdir() if path.suffix == ".tmp"]) == 2
        end = time.monotonic() + 10
        while any(map(alive, children)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(alive, children))
    finally:
        for worker in filter(alive, children):
            os.kill(worker, signal.SIGKILL)
        for stream in (parent.stdout, parent.stderr):
            assert stream is not None
            stream.close()
    assert len(load_images(source, cache_dir=kept)) == 24
    only_folder(kept)


def test_what_version_0_1_0_left_goes_when_nothing_was_written_to_it_for_an_hour(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    key = "0123456789abcdef0123456789abcdef"
    old, young, foreign, long_running = (kept / f".{name}" for name in (f"{key}-a_b", f"{key}-c", "mine-d", f"{key}-e"))
    for folder in (old, young, foreign, long_running):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"half")
        if folder != young:
            os.utime(folder / "images.npy", (0, 0))
            os.utime(folder, (0, 0))
    os.utime(long_running / "images.npy")  # its process still writes pixels
    (kept / f".{key}.lock").touch()
    load_images(source, cache_dir=kept)
    left = {path.name for path in kept.iterdir() if path.name.startswith(".")}
    assert left == {young.name, foreign.name, long_running.name}
