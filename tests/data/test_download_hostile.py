"""The download from servers that stall, lie, redirect and never end, and two at once: one line, or it resumes."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.data import download, http_opener, manifest
from lightning_cifake.data.download import download_cifake
from lightning_cifake.errors import UserError

Prediction = Callable[[socket.socket, str, int], None]  # the connection, what was asked, how many answers came before


@pytest.fixture
def archive(madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive, which `download_cifake` takes for the expected one."""
    path = madedata.zip(tmp_path / "made.zip", madedata.files("kaggle"))
    expected = manifest.describe_archive(path)
    monkeypatch.setattr(download, "verify_archive", partial(download.verify_archive, expected=expected))
    return path


class Server:
    """Answers each connection by a function of the test, on a socket, without any manners."""

    def __init__(self, answer: Prediction) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/cifake.zip"
        self.ended = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            if self.ended:
                connection.close()
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65_536)
                self.asked.append(request.decode("latin-1"))
                self.answer(connection, self.asked[-1], len(self.asked) - 1)

    def close(self) -> None:
        self.ended = True
        with socket.create_connection(self.socket.getsockname()):
            pass
        self.thread.join(30)
        self.socket.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Prediction], Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    servers = []

    def make(answer: Prediction) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def headers(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode("latin-1")


def refused(root: Path, source: str) -> str:
    with pytest.raises(UserError) as caught:
        download_cifake(root, source)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def endless(connection: socket.socket, piece: bytes = bytes(1 << 16)) -> None:
    for _ in range(100_000):
        connection.sendall(piece)


# --- too much ---------------------------------------------------------------------------------------------------------


def test_a_body_without_an_end_is_given_up_and_removed(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(connection: socket.socket, asked: str, before: int) -> None:
        connection.sendall(headers() + b"PK")
        endless(connection)

    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)
    server = serve(answer)
    message = refused(tmp_path / "root", server.url)
    assert "expected CIFAKE's archive of about 130 MB, got one of" in message and "nothing was kept" in message
    assert len(server.asked) == 1 and not (tmp_path / "root").exists()


def test_a_file_that_says_it_is_too_large_is_not_begun(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    server = serve(lambda connection, *_: connection.sendall(headers("Content-Length: 99999999999") + bytes(1000)))
    assert "got one of 99,999,999,999 bytes" in refused(tmp_path / "root", server.url)
    assert not (tmp_path / "root").exists()


def test_a_chunked_body_longer_than_it_was_told_is_fetched_anew(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    body = archive.read_bytes()
    half = len(body) // 2

    def answer(connection: socket.socket, asked: str, before: int) -> None:
        if before == 0:
            connection.sendall(headers(f"Content-Length: {len(body)}") + body[:half])
        elif before == 1:  # goes on, and on
            told = f"Content-Range: bytes {half}-{len(body) - 1}/{len(body)}"
            connection.sendall(headers(told, status="206 Partial Content") + body[half:] + b"more")
        else:
            connection.sendall(headers(f"Content-Length: {len(body)}") + body)

    server = serve(answer)
    path = download_cifake(tmp_path / "root", server.url)
    assert path.read_bytes() == body and left_in(path.parent) == ["CIFAKE.zip"]
    assert ["Range:" in asked for asked in server.asked] == [False, True, False]


def test_a_part_beyond_the_end_of_the_file_begins_anew_whatever_the_server_does_with_ranges(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    body = archive.read_bytes()
    part = tmp_path / "root" / "CIFAKE.zip.part"
    part.parent.mkdir()

    def answer(connection: socket.socket, asked: str, before: int) -> None:
        if "Range:" in asked:  # as if there were something behind the end
            told = f"Content-Range: bytes {len(body) + 4}-{len(body) + 9}/{len(body)}"
            connection.sendall(headers(told, "Content-Length: 6", status="206 Partial Content") + b"behind")
        else:
            connection.sendall(headers(f"Content-Length: {len(body)}") + body)

    server = serve(answer)
    part.write_bytes(body + b"more")
    download._note_source(part, server.url, None)
    assert download_cifake(part.parent, server.url).read_bytes() == body


def test_a_local_source_without_an_end_and_one_that_is_no_file_are_refused(archive: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.zip"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    assert "got one of 1,099,511,627,776 bytes" in refused(tmp_path / "root", str(sparse))
    os.mkfifo(tmp_path / "pipe")
    assert "something that is no file" in refused(tmp_path / "root", str(tmp_path / "pipe"))
    assert "something that is no file" in refused(tmp_path / "root", "/dev/zero")
    assert not (tmp_path / "root").exists()


def test_a_member_that_unpacks_to_gigabytes_is_not_unpacked(archive: Path, tmp_path: Path) -> None:
    raw = archive.read_bytes()
    at = raw.index(b"train/REAL/0000.jpg", raw.index(b"PK\1\2")) - 46 + 24
    archive.write_bytes(raw[:at] + struct.pack("<L", 1 << 31) + raw[at + 4 :])
    reading = zipfile.ZipFile.read
    names = []

    def read(self: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        names.append(member.filename)
        return reading(self, member)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", read)
        assert "1 damaged in the zip (train/REAL/0000.jpg)" in refused(tmp_path / "root", str(archive))
    assert len(names) == 11


# --- too slow ---------------------------------------------------------------------------------------------------------


def test_a_byte_now_and_then_is_given_up_and_what_came_is_kept(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = archive.read_bytes()

    def answer(connection: socket.socket, asked: str, before: int) -> None:
        begin = int(asked.partition("Range: bytes=")[2].partition("-")[0] or 0)
        told = f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}"
        connection.sendall(headers(told, status="206 Partial Content") if begin else headers())
        for i in range(begin, len(body)):
            connection.sendall(body[i : i + 1])
            time.sleep(0.02)

    monkeypatch.setattr(download, "PACE_SECONDS", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    message = refused(tmp_path / "root", serve(answer).url)
    assert "3 of 3 attempts" in message and "are too few to continue" in message
    assert "bytes are kept and the same command resumes there" in message
    assert body.startswith((tmp_path / "root" / "CIFAKE.zip.part").read_bytes())


@pytest.mark.parametrize("what", ["headers", "continue", "status"])
def test_an_answer_whose_headers_never_end_is_given_up(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def answer(connection: socket.socket, asked: str, before: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" if what == "headers" else b"")
        piece = {"headers": b"X: a\r\n", "continue": b"HTTP/1.1 100 Continue\r\n\r\n", "status": b"H"}[what]
        for _ in range(1000):
            time.sleep(0.02)
            connection.sendall(piece)

    monkeypatch.setattr(http_opener, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    begun = time.monotonic()
    assert "2 of 2 attempts" in refused(tmp_path / "root", serve(answer).url)
    assert time.monotonic() - begun < 15
    assert not (tmp_path / "root").exists()


def test_a_server_that_falls_silent_is_given_up(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(connection: socket.socket, asked: str, before: int) -> None:
        connection.sendall(headers("Content-Length: 1000") + b"PK")
        with contextlib.suppress(OSError):
            connection.recv(1)

    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    assert "timed out; 2 bytes are kept" in refused(tmp_path / "root", serve(answer).url)


# --- lies and redirects -----------------------------------------------------------------------------------------------


def test_a_redirect_is_followed_to_another_server_and_never_to_a_file(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    body = archive.read_bytes()
    there = serve(lambda connection, *_: connection.sendall(headers(f"Content-Length: {len(body)}") + body))

    def to(address: str) -> str:
        return serve(lambda connection, *_: connection.sendall(headers(f"Location: {address}", status="302 Found"))).url

    assert download_cifake(tmp_path / "one", to(there.url)).read_bytes() == body
    for address in (archive.as_uri(), "ftp://127.0.0.1/x.zip", "data:,PK"):
        refused(tmp_path / "two", to(address))
    assert not (tmp_path / "two").exists()


def test_a_redirect_in_circles_ends_in_one_line(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    server = serve(lambda connection, *_: connection.sendall(headers("Location: /cifake.zip", status="302 Found")))
    assert "redirect error that would lead to an infinite loop" in refused(tmp_path / "root", server.url)


@pytest.mark.parametrize(
    "answer",
    [
        headers(status="404 \x1b[31mNot\x07 Found"),
        headers("Content-Length: " + "9" * 5000),
        headers("Content-Length: -5"),
        headers("Content-Length: \xb2"),
        headers("Content-Range: bytes 0-1/" + "9" * 5000, status="206 Partial Content"),
        headers("Content-Range: bytes 7-9/10", status="206 Partial Content"),
        headers("Transfer-Encoding: chunked") + b"zz\r\nPK\r\n",
        headers("Transfer-Encoding: chunked") + b"-1\r\nPK\r\n",
        headers(status="304 Not Modified"),
        headers(status="416 Range Not Satisfiable"),
        headers("X: " + "a" * 70_000),
        b"\x16\x03\x01\x02",
        b"",
    ],
    ids=lambda answer: answer[:40].decode("latin-1").encode("ascii", "backslashreplace").decode(),
)
def test_an_answer_that_makes_no_sense_is_one_line_and_leaves_nothing(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], answer: bytes
) -> None:
    refused(tmp_path / "root", serve(lambda connection, *_: connection.sendall(answer)).url)
    assert left_in(tmp_path / "root") in ([], ["CIFAKE.zip.part", "CIFAKE.zip.part.json"])


@pytest.mark.parametrize(
    "note", [b"", b"\xff", b"[]", b'{"source": 3}', b'{"source": "URL", "etag": 3}', b"[" * 100_000]
)
def test_a_damaged_note_beside_a_part_begins_anew(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server], note: bytes
) -> None:
    body = archive.read_bytes()
    server = serve(lambda connection, *_: connection.sendall(headers(f"Content-Length: {len(body)}") + body))
    part = tmp_path / "root" / "CIFAKE.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"some other file's beginning")
    download._note(part).write_bytes(note.replace(b"URL", server.url.encode()))
    assert download_cifake(part.parent, server.url).read_bytes() == body
    assert "Range:" not in server.asked[0]


# --- two at once, and dead ones ---------------------------------------------------------------------------------------

FETCH = """
import sys
from functools import partial
from pathlib import Path
from lightning_cifake.data import download, manifest
expected = manifest.describe_archive(Path(sys.argv[1]))
download.verify_archive = partial(download.verify_archive, expected=expected)
download.download_cifake(Path(sys.argv[2]), sys.argv[3])
"""


def fetch(*arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", FETCH, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_of_two_downloads_at_once_the_second_waits_says_so_and_fetches_nothing(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    body = archive.read_bytes()
    begun, go_on = threading.Event(), threading.Event()

    def answer(connection: socket.socket, asked: str, before: int) -> None:
        connection.sendall(headers(f"Content-Length: {len(body)}") + body[:1000])
        begun.set()
        go_on.wait(60)
        connection.sendall(body[1000:])

    server = serve(answer)
    first = fetch(archive, tmp_path / "root", server.url)
    assert begun.wait(60)
    second = fetch(archive, tmp_path / "root", server.url)
    assert second.stderr is not None
    said = next(line for line in second.stderr if "waiting" in line)
    assert "another process fetches it" in said
    go_on.set()
    first_said, second_said = first.communicate(timeout=60)[1], second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (0, 0), (first_said, second_said)
    assert "fetched and verified" in first_said and "already there, verified" in second_said
    assert len(server.asked) == 1 and left_in(tmp_path / "root") == ["CIFAKE.zip"]


def test_what_a_killed_download_left_is_gone_on_with_and_its_lock_holds_nobody_up(
    archive: Path, tmp_path: Path, serve: Callable[[Prediction], Server]
) -> None:
    body = archive.read_bytes()
    begun = threading.Event()

    def answer(connection: socket.socket, asked: str, before: int) -> None:
        if before == 0:
            connection.sendall(headers(f"Content-Length: {len(body)}") + body[:5000])
            begun.set()
            with contextlib.suppress(OSError):
                connection.recv(1)
        else:
            begin = int(asked.partition("Range: bytes=")[2].partition("-")[0])
            told = f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}"
            connection.sendall(headers(told, status="206 Partial Content") + body[begin:])

    server = serve(answer)
    killed = fetch(archive, tmp_path / "root", server.url)
    assert begun.wait(60)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert ".CIFAKE.zip.lock" in left_in(tmp_path / "root")
    download_cifake(tmp_path / "root", server.url)
    assert left_in(tmp_path / "root") == ["CIFAKE.zip"]
    assert (tmp_path / "root" / "CIFAKE.zip").read_bytes() == body


def test_half_a_copy_that_a_killed_process_left_is_no_beginning_of_anything(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "CIFAKE.zip.part").write_bytes(b"half of another zip")
    assert download_cifake(root, str(archive)).read_bytes() == archive.read_bytes()
    assert left_in(root) == ["CIFAKE.zip"]
