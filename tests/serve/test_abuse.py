"""What hostile clients send is refused or answered, within limits, and the next client is answered as ever."""

import io
import os
import resource
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image
from served import LIMITS, Served, head, picture, said, serving, talk

from lightning_cifake.serve import refusal
from lightning_cifake.serve.settings import MIB, Settings

PICTURE = picture("JPEG")


@pytest.fixture(autouse=True)
def it_answers_the_next_client(served: Served) -> Iterator[None]:
    yield
    status, found = said(talk(served.port, head(len(PICTURE)), PICTURE))
    assert status == 200 and found["answers"][0]["error"] is None
    deadline = time.monotonic() + 5
    while served.state.memory.held or served.state.engine.held:
        assert time.monotonic() < deadline, "something is held for nobody"
        time.sleep(0.01)


def png_of(width: int, height: int) -> bytes:
    """Black, a thousand times smaller as a file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 4_000_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_known_by_its_header(width, height, client):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (answer,) = client.post("/v1/predict", files={"files": ("a.png", png_of(width, height))}).json()["answers"]
    assert answer["verdict"] is None and ("expected at most" in answer["error"] or "cannot be" in answer["error"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10  # KiB


def test_as_many_pixels_as_may_be_are_answered(client):
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, "PNG")
    (answer,) = client.post("/v1/predict", files={"files": ("a.png", buffer.getvalue())}).json()["answers"]
    assert answer["error"] is None


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(served: Served):
    status, found = said(talk(served.port, head(100 * MIB), end=True))
    assert status == 413 and found["error"] == f"expected a body of at most {MIB:,} bytes, got {100 * MIB:,}"
    status, _ = said(talk(served.port, head(10**18), end=True))
    assert status == 413


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=a"])
def test_a_body_of_100_mb_in_chunks_is_refused_where_it_passes_the_limit(kind, served: Served):
    part = b'--a\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    pieces = [head(None, kind=kind), f"{len(part):x}\r\n".encode() + part + b"\r\n", *([chunk] * 100)]
    status, found = said(talk(served.port, *pieces))
    assert status == 413 and found["error"].endswith("got more")
    assert served.state.memory.held <= LIMITS.body_bytes


def test_a_body_that_is_longer_than_it_says_is_cut_there(served: Served):
    behind = b"GET / HTTP/1.1\r\n\r\n" * 10
    for pieces in ((PICTURE + behind,), (PICTURE, behind)):  # in one packet, or while the answer is worked out
        response = talk(served.port, head(len(PICTURE)), *pieces)
        assert said(response)[0] == 200  # and what lies behind it is no request: the connection closes


def test_a_body_that_is_shorter_than_it_says_is_no_answer(served: Served):
    assert talk(served.port, head(100), b"abc", end=True) in (b"", talk(served.port, head(100), b"abc", end=True))


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """A server that does not wait long."""
    limits = replace(LIMITS, head_seconds=0.5, body_seconds=0.5)
    with pytest.MonkeyPatch.context() as patch, serving(Settings(log="none", limits=limits)) as made:
        patch.setattr(refusal, "LINGER_SECONDS", 0.2)
        yield made


def test_a_slow_body_is_told_so(hasty: Served):
    status, found = said(talk(hasty.port, head(1000), b"abc"))
    assert status == 408 and "0.5 s" in found["error"]


def test_a_head_that_dribbles_in_is_cut_off(hasty: Served):
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=10) as connection:
        start = time.monotonic()
        try:
            while time.monotonic() - start < 8:
                connection.sendall(b"X")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - start < 4


def test_a_connection_that_says_nothing_is_closed(hasty: Served):
    assert talk(hasty.port) == b""


@pytest.mark.parametrize("flood", [b"X-A: " + b"a" * 200_000, b"\r\n".join(b"X-%d: a" % n for n in range(20_000))])
def test_a_flood_of_headers_is_refused(flood, served: Served):
    response = talk(served.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + flood + b"\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 400 ") or response == b""


@pytest.mark.parametrize(
    "nonsense",
    [b"\x16\x03\x01" + bytes(100), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 1000,
     b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
     b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(nonsense, served: Served):
    response = talk(served.port, nonsense, end=True)
    assert response == b"" or response.split()[1] in (b"400", b"415", b"422")


def test_connections_past_the_limit_are_told_so(served: Served):
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(LIMITS.connections)]
    try:
        deadline = time.monotonic() + 5
        while len(served.server.server_state.connections) < LIMITS.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        response = talk(served.port)
        assert response.startswith(b"HTTP/1.1 503 ") and said(response)[1] == {"error": "too many connections"}
    finally:
        for each in held:
            each.close()
    deadline = time.monotonic() + 5
    while len(served.server.server_state.connections) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "C:\\Windows\\x.png", "<script>alert(1)</script>.png", "\u202egnp.exe",
     "http://127.0.0.1:9/a.png", "a" * 2_000, "x\x00y.png", "\x1b]0;title\x07.png", "=cmd|' /C calc'!A0"],
)  # fmt: skip
def test_a_name_is_echoed_and_never_opened(name, client):
    response = client.post("/v1/predict", files={"files": (name, PICTURE)})
    assert response.headers["content-type"] == "application/json" and response.text.isascii()
    (answer,) = response.json()["answers"]
    assert answer["prob_real"] is not None  # of what was sent
    if len(name) <= 255 and not {"\x00", "\x1b", "\\"} & set(name):  # those are escaped, or cut off, on their way
        assert answer["path"] == name
    assert len(answer["path"]) <= 255


def test_a_name_that_is_a_flood_is_refused_or_shortened(client):
    response = client.post("/v1/predict", files={"files": ("a" * 100_000, PICTURE)})
    assert response.status_code == 400 or len(response.json()["answers"][0]["path"]) <= 255  # by python-multipart's age


def test_the_bytes_that_were_sent_are_asked_about_and_not_the_file_of_their_name(client, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(PICTURE)
    (answer,) = client.post("/v1/predict", files={"files": (str(path), b"no picture")}).json()["answers"]
    assert answer["error"].startswith("not an image")


def broken(count: int) -> Iterator[bytes]:
    """Pictures with flipped bytes, cut off, or of noise."""
    whole = [picture(kind, (24, 40)) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")]
    for number in range(count):
        content = bytearray(whole[number % len(whole)])
        noise = os.urandom(8)
        for at in range(4):
            content[int.from_bytes(noise[at : at + 2]) % len(content)] ^= 1 + noise[at] % 255
        yield bytes(content[: 1 + int.from_bytes(noise[:4]) % len(content)] if number % 3 == 0 else content)


def answers_of_broken(client, count: int) -> int:
    files, failed = list(broken(count)), 0
    for at in range(0, count, 8):
        response = client.post("/v1/predict", files=[("files", ("a", each)) for each in files[at : at + 8]])
        assert response.status_code == 200, response.text
        answers = response.json()["answers"]
        assert len(answers) == len(files[at : at + 8])
        assert all((each["error"] is None) != (each["prob_real"] is None) for each in answers)
        failed += sum(each["error"] is not None for each in answers)
    return failed


def test_broken_files_are_answers_with_errors(client):
    assert answers_of_broken(client, 96) > 30


@pytest.mark.long
def test_ten_thousand_broken_files_are_answers_with_errors(client):
    assert answers_of_broken(client, 10_000) > 3_000
