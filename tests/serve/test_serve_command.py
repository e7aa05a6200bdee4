"""The command ``serve``: started soon and without torch, stopped in order, refused in one line."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served import head, picture, said, talk

from lightning_cifake.commands import serve
from lightning_cifake.commands.main import main
from lightning_cifake.commands.parsing import parse
from lightning_cifake.errors import UserError
from lightning_cifake.serve.settings import MIB

PICTURE = picture("JPEG")
START_SECONDS = 3.0  # of processor time until it answers: what a quiet machine takes, whatever else this one does


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process of its own, and its port once it listens."""
    command = [sys.executable, "-m", "lightning_cifake", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"answers at http://[\d.]+:(\d+)", process.stderr.readline())
        assert found is not None
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"error: cannot listen at 127.0.0.1 port {port}: Address already in use\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        (["--model", "nothing.onnx", "--port", "0"], "nothing.onnx does not exist"),
        (["--token_file", "nowhere"], "--token_file: cannot read nowhere: No such file"),
        (["--token_file", "short"], "16 to 512"),
        (["--host", "no.such.name.invalid"], "cannot listen at no.such.name.invalid"),
        (["--allowed_hosts", "http://a"], "--allowed_hosts: expected a name"),
        (["--answer_seconds", "0"], "--answer_seconds: expected"),
        (["--answer_seconds", "nan"], "--answer_seconds: expected"),
        (["--queue", "0"], "at least 1"),
        (["--uncertain", "0.9", "0.1"], "--uncertain: expected"),
        (["--log", "all"], "log"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("opensesame\n")
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and "opensesame" not in said


def test_the_token_is_of_a_file_or_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    monkeypatch.setenv("LIGHTNING_CIFAKE_TOKEN", "fedcba9876543210")

    def token(*arguments: str) -> str | None:
        return serve.settings_of(parse("serve", serve.add_arguments, arguments)).token

    assert token("--token_file", str(tmp_path / "token")) == "0123456789abcdef"
    assert token() == "fedcba9876543210"
    monkeypatch.setenv("LIGHTNING_CIFAKE_TOKEN", "with a space in it")
    with pytest.raises(UserError, match="LIGHTNING_CIFAKE_TOKEN: expected one line"):
        token()
    monkeypatch.delenv("LIGHTNING_CIFAKE_TOKEN")
    assert token() is None


def test_the_defaults_of_the_command_are_those_of_the_app(monkeypatch):
    from lightning_cifake.serve.settings import Settings

    monkeypatch.delenv("LIGHTNING_CIFAKE_TOKEN", raising=False)
    found = serve.settings_of(parse("serve", serve.add_arguments, []))
    assert found == Settings(allowed_hosts=[])
    assert found.limits.body_bytes == 64 * MIB


@pytest.mark.parametrize(("number", "log"), [(signal.SIGTERM, "names"), (signal.SIGINT, "requests")])
def test_it_starts_soon_and_without_torch_and_ends_with_0_when_it_is_told_to(number, log):
    with running("--log", log, "--drain_seconds", "0") as (process, port):
        if (times := Path(f"/proc/{process.pid}/stat")).exists():
            user, system = map(int, times.read_text().rpartition(")")[2].split()[11:13])
            assert (user + system) / os.sysconf("SC_CLK_TCK") < START_SECONDS
        status, found = said(talk(port, head(len(PICTURE)), PICTURE))
        assert status == 200 and found["answers"][0]["error"] is None
        loaded = Path(f"/proc/{process.pid}/maps")
        if loaded.exists():
            assert not re.search(r"libtorch|libtensorflow|opencv", loaded.read_text())
        process.send_signal(number)
        assert process.wait(20) == 0
        lines = process.stderr.read().splitlines()
    assert re.fullmatch(r"POST /v1/predict 200 1 image( \(image\))? \d+ ms", lines[0]), lines
    assert ("(image)" in lines[0]) == (log == "names")
    assert lines[1:] == ["stopped: all that had been accepted was answered"]


async def ask(port: int, seen: Counter[str], until: float) -> None:
    """Asks again and again, and counts how it ended each time: an answer, a status, or an error."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            seen["refused"] += 1
            await asyncio.sleep(0.05)
            continue
        try:
            writer.write(head(len(PICTURE)) + PICTURE)
            response = await asyncio.wait_for(reader.read(), 20)
            seen[said(response)[0] if response else "closed"] += 1
        except OSError:
            seen["closed"] += 1
        except (ValueError, IndexError):
            seen["cut off"] += 1
        except TimeoutError:
            seen["no answer"] += 1
        finally:
            writer.close()


@pytest.mark.long
def test_nothing_that_was_accepted_is_lost_without_an_answer_or_an_error_when_it_is_stopped_or_killed():
    async def load(process: subprocess.Popen[str], port: int, number: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        until = time.monotonic() + 6
        clients = [asyncio.create_task(ask(port, seen, until)) for _ in range(50)]
        await asyncio.sleep(3)
        process.send_signal(number)
        await asyncio.gather(*clients)
        return seen

    for number in (signal.SIGTERM, signal.SIGKILL):
        with running("--log", "none") as (process, port):
            seen = asyncio.run(load(process, port, number))
            code = process.wait(30)
        assert seen[200] > 10 and seen["no answer"] == 0, seen
        assert set(seen) <= {200, 429, 503, "refused", "closed", "cut off"}, seen
        if number == signal.SIGTERM:
            assert seen["cut off"] == 0, seen
            assert code == 0
            # in the moment in which it stops to listen a connection may be in the system's hands, and is closed unread
            assert seen["closed"] <= 50, seen


@pytest.mark.long
def test_a_second_signal_ends_it_at_once():
    with running("--log", "none", "--drain_seconds", "30") as (process, port):
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert said(talk(port, head(len(PICTURE)), PICTURE))[0] == 200  # it still drains
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.long
def test_ten_thousand_pictures_leave_its_memory_as_it_was():
    """By a request of eight at a time, so that the queue is at work too."""
    body = b"".join(
        b'--a\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + PICTURE + b"\r\n"
        for _ in range(8)
    ) + b"--a--\r\n"  # fmt: skip

    async def one(port: int, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = head(len(body), kind="multipart/form-data; boundary=a").replace(b"Connection: close\r\n", b"") + body
        for _ in range(count):
            writer.write(request)
            start = await reader.readuntil(b"\r\n\r\n")
            assert start.startswith(b"HTTP/1.1 200 "), start
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", start)[1]))
        writer.close()

    async def all_of(port: int, count: int) -> None:
        await asyncio.gather(*(one(port, count // 20) for _ in range(20)))

    def resident(pid: int) -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    with running("--log", "none") as (process, port):
        asyncio.run(all_of(port, 200))
        before = resident(process.pid)
        asyncio.run(all_of(port, 1_200))
        assert resident(process.pid) - before < 40  # MiB
