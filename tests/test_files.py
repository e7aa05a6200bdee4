"""A file is written whole or not at all; what a dead process left goes; what carries a digest is checked."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.errors import UserError
from lightning_cifake.files import (
    FileLock,
    expand_user,
    json_digest,
    made_folder,
    public_name,
    public_words,
    read_bounded,
    read_json,
    remove_abandoned,
    replacing,
    replacing_folder,
    sealed_json,
    temporary_folder,
    write_whole,
)


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_bytes(b"old")

    def fail(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.json: No space left on device$"):
        write_whole(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("metrics.json", b"old")]


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "run" / "roc.png", b"")


def test_text_and_bytes_replace_what_was_there_and_make_the_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, b"old")
    write_whole(path, "na\u00efve \udcff")
    assert path.read_bytes() == "na\u00efve ".encode() + b"\xff"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * 255)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_block_that_raises_leaves_what_was_there(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("best.ckpt", b"old")]


WRITER = """
import sys, time
from pathlib import Path
from lightning_cifake.files import temporary_folder
with temporary_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(600)
"""


def start_writer(parent: Path, name: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(parent), name], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_what_a_killed_process_left_is_removed_and_never_a_living_one_s(tmp_path):
    name = "last[1].ckpt"
    dead, left = start_writer(tmp_path, name)
    alive, held = start_writer(tmp_path, name)
    other, others = start_writer(tmp_path, "best.ckpt")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait(30)
        other.send_signal(signal.SIGKILL)
        other.wait(30)
        write_whole(tmp_path / name, b"content")
        assert not left.exists()
        assert (held / "half").is_file(), "a living process's"
        assert others.exists(), "of another name: its own writer removes it"
        assert remove_abandoned(tmp_path, name) == []
    finally:
        alive.kill()
        alive.wait(30)
        for process in (dead, alive, other):
            assert process.stdout is not None
            process.stdout.close()
    assert remove_abandoned(tmp_path, name) == [held]


def test_without_a_name_every_abandoned_temporary_goes_and_nothing_else(tmp_path):
    for name in (".best.ckpt.a.tmp", ".last.ckpt.b.tmp", ".kept", "kept.tmp", ".kept.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    (tmp_path / ".file.c.tmp").touch()
    assert sorted(path.name for path in remove_abandoned(tmp_path)) == [".best.ckpt.a.tmp", ".last.ckpt.b.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.c.tmp", ".kept", ".kept.tmp", "kept.tmp"]


def test_a_temporary_without_its_lock_is_left_alone_while_it_is_young(tmp_path):
    folder = tmp_path / ".a.xyz.tmp"
    folder.mkdir()
    assert remove_abandoned(tmp_path, "a") == []
    os.utime(folder, (0, 0))
    assert remove_abandoned(tmp_path, "a") == [folder]


def test_a_temporary_folder_goes_with_its_block(tmp_path):
    with temporary_folder(tmp_path, "cache") as folder:
        assert folder.parent == tmp_path
        (folder / "deep").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_a_made_folder_goes_again_with_those_above_it_where_it_ends_up_empty(tmp_path):
    (tmp_path / "there").mkdir()
    with suppress(KeyboardInterrupt), made_folder(tmp_path / "there/a/b"):
        assert (tmp_path / "there/a/b").is_dir()
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with made_folder(tmp_path / "there"):
        pass
    with made_folder(tmp_path / "kept/a"):
        (tmp_path / "kept/a/file").touch()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "kept", tmp_path / "there"]
    assert (tmp_path / "kept/a/file").is_file()


def test_a_lock_is_one_process_s_at_a_time(tmp_path):
    first, second = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(content=st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON_VALUES, max_size=6))
def test_sealed_json_says_the_same_when_it_is_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    path.write_text(sealed_json(content), encoding="utf-8")
    assert read_json(path) == (content, True)


@given(data=st.data())
def test_every_flipped_bit_of_sealed_json_is_refused_or_says_the_same(tmp_path_factory, data):
    content = {"accuracy": 0.9294, "paths": ["train/FAKE/0.jpg", "na\u00efve"], "n": 3, "none": None, "yes": True}
    raw = bytearray(sealed_json(content).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    path.write_bytes(raw)
    try:
        found, sealed = read_json(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    if sealed:
        assert found == content, "white space alone"
    else:  # the digest's own key was hit: what is left says so, and is not what was written
        assert set(found) - set(content)


def test_json_without_a_digest_is_said_to_be_unchecked(tmp_path):
    path = tmp_path / "old.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == ({"a": 1}, False)
    assert json_digest({"a": 1}) == json_digest({"sha256": "anything", "a": 1})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "damaged, or no JSON"),
        (b"\xff\xfe{}", "damaged, or no JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b'{"a": 1, "a": 2}', "a key stands in it twice"),
        (b"[" * 100_000, "damaged, or no JSON"),
        (b'{"a": ' * 100_000, "damaged, or no JSON"),
    ],
)
def test_what_is_no_json_object_is_one_line(tmp_path, raw, said):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_that_json_cannot_say_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed_json({"loss": float("nan")})


def test_a_sparse_file_and_a_pipe_are_refused_before_they_are_read(tmp_path):
    sparse = tmp_path / "huge.json"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes: expected at most"):
        read_json(sparse)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a file"):
        read_bounded(pipe, 10)
    assert json.loads(sealed_json({"a": 1}))["a"] == 1


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expand_user("~/a/b.jpg") == tmp_path / "a" / "b.jpg" and expand_user("~") == tmp_path
    assert expand_user(Path("~/a")) == tmp_path / "a"
    for plain in ("a/~", "./~/a", "~nobody-of-that-name/a", "~$lock.jpg", "/~", ""):
        assert expand_user(plain) == Path(plain)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.jpg").touch()
    assert expand_user("~/a.jpg") == Path("~/a.jpg")


def test_without_a_home_a_tilde_stays_and_nothing_is_raised(monkeypatch):
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    assert expand_user("~/a") == Path("~/a")


def test_what_is_published_of_a_path_is_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [public_name(path) for path in ("demo", "/a/b/CIFAKE.zip", "~/data/", ".", "~")] == [
        "demo", "CIFAKE.zip", "data", tmp_path.name, tmp_path.name
    ]  # fmt: skip


def test_a_command_line_to_be_published_names_no_folder_of_its_machine() -> None:
    words = [
        "evaluate",
        "/home/me/best.ckpt",
        "--data.root=/data/CIFAKE.zip",
        "--output",
        "~/mine",
        "runs/1",
        "--a=b/c",
    ]
    assert public_words(words) == [
        "evaluate", "best.ckpt", "--data.root=CIFAKE.zip", "--output", "mine", "runs/1", "--a=b/c",
    ]  # fmt: skip


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_takes_its_place_whole_or_what_was_there_stays(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "made" / "folder"
    if before:
        path.mkdir(parents=True)
        (path / "old").touch()
    with pytest.raises(ZeroDivisionError), replacing_folder(path) as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert [each.name for each in path.iterdir()] == ["old"] if before else not path.exists()
    with replacing_folder(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "new").touch()
    assert [str(each.relative_to(path)) for each in sorted(path.rglob("*"))] == ["deep", "deep/new"]
    assert [each.name for each in path.parent.iterdir()] == ["folder"]
