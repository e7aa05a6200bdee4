"""HTTP/1.1 of a connection, byte by byte: what h11 refuses is refused, and no request is taken for another."""

import asyncio
import gc
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import h11
import pytest
import uvicorn
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from served import LIMITS
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from lightning_cifake.serve.protocol import HEAD_BYTES, bounded

POST = b"POST /a?b=c HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Wire(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = self.paused = False

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: Any) -> None:
        if not self.closed:
            self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class App:
    """Answers each whole request by its number; what it was told of them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.left = self.at_once = self.most_at_once = 0
        self.reads, self.waits = True, False
        self.headers: Sequence[tuple[bytes, bytes]] = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        body, more = b"", self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                self.at_once -= 1
                return
            body, more = body + message["body"], message["more_body"] or self.waits
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.requests.append((scope["method"], target, scope["headers"], body))
        await asyncio.sleep(0)
        text = b"%d" % len(self.requests)
        headers = [(b"content-length", b"%d" % len(text)), *self.headers]
        self.at_once -= 1
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def spoken(pieces: Iterable[bytes], app: App | None = None, turns: int = 30) -> tuple[App, Wire]:
    """A client that sends these, each when the server has done what it can, and while it reads."""
    app = app or App()

    async def run() -> Wire:
        config = uvicorn.Config(app, http=bounded(LIMITS), ws="none", lifespan="off", log_config=None)
        config.load()
        wire, connection = Wire(), config.http_protocol_class(config=config, server_state=ServerState(), app_state={})  # type: ignore
        connection.connection_made(wire)
        for piece in pieces:
            if not wire.paused and not wire.closed:
                connection.data_received(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
        connection.connection_lost(ConnectionResetError())  # None would close the wire too
        for _ in range(turns):
            await asyncio.sleep(0)
        return wire

    return app, asyncio.run(run())


def answers(wire: Wire) -> list[bytes]:
    """The bodies of what was answered by 200, in order; ``400`` for a refusal."""
    found, rest = [], wire.written
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(lines[b"content-length"])
        status = head.split()[1]
        found.append(rest[:length] if status == b"200" else status)
        rest = rest[length:]
    return found


SMUGGLED = {
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 6\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length below nothing": POST + b"Content-Length: -1\r\n\r\n",
    "a length in hex": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a gap": POST + b"Content-Length: 1 5\r\n\r\nhello",
    "an empty length": POST + b"Content-Length:\r\n\r\nhello",
    "a length past all numbers": POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "a tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": POST + b"X: a\r\n Content-Length: 5\r\n\r\n",
    "a first line that is folded": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "bare LF": (POST + b"Content-Length: 5\r\n\r\nhello").replace(b"\r\n", b"\n"),
    "one bare LF": POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare CR": POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a head that ends by LF": POST + b"X: a\n\n",
    "a NUL": POST + b"X: a\0b\r\n\r\n",
    "a line without a colon": POST + b"nothing\r\n\r\n",
    "a header without a name": POST + b": a\r\n\r\n",
    "a name with a sign": POST + b"X\x01: a\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: identity\r\n\r\nhello",
    "a coding of a like name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and another coding": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").replace(b"/1.1", b"/1.0"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "another protocol": b"DESCRIBE / RTSP/1.0\r\nHost: localhost\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target of a proxy": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method that there is not": b"GETS / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "empty lines": b"\r\n\r\n" + GET,
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": POST + b"Host: evil.example\r\n\r\n",
    "two hosts in HTTP/1.0": (POST + b"Host: evil.example\r\n\r\n").replace(b"/1.1", b"/1.0"),
    "TLS": b"\x16\x03\x01" + bytes(100),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "by the byte"])
@pytest.mark.parametrize("request_", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_head_that_could_be_read_two_ways_is_refused_and_nothing_behind_it_is_answered(request_, bytewise):
    sent = request_ + GET
    app, wire = spoken(
        (sent[at : at + 1] for at in range(len(sent))) if bytewise else [sent], turns=3 if bytewise else 30
    )
    assert app.requests == [] and answers(wire) == [b"400"] and wire.closed
    assert b"\r\nconnection: close\r\n" in wire.written


BROKEN_CHUNKS = {
    "LF behind a size": b"5\nhello\r\n0\r\n\r\n",
    "LF behind a chunk": b"5\r\nhello\n0\r\n\r\n",
    "a chunk longer than its size": b"5\r\nhello!!0\r\n\r\n",
    "a size in 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size below nothing": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size past all numbers": b"fffffffffffffffff\r\nhello",
    "a size that is none": b"\r\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a length behind the last chunk": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a flood of extensions": b"5;" + b"a" * 2 * HEAD_BYTES,
    "a flood behind the last chunk": b"0\r\n" + b"X: a\r\n" * HEAD_BYTES,
    "a header behind the last chunk that is a flood": b"0\r\nX: " + b"a" * 2 * HEAD_BYTES,
}


@pytest.mark.parametrize("rest", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
def test_a_body_whose_chunks_are_broken_is_refused_and_its_reader_told(rest):
    app, wire = spoken([CHUNKED, *(rest[at : at + 4096] for at in range(0, len(rest), 4096)), GET])
    assert app.requests == [] and app.left == 1 and answers(wire) == [b"400"] and wire.closed


def test_a_body_that_is_broken_when_its_answer_has_gone_closes_the_connection():
    app = App()
    app.reads = False
    _, wire = spoken([CHUNKED, b"nonsense", GET], app)
    assert answers(wire) == [b"1"] and wire.closed


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_a_request_is_the_same_in_whatever_pieces_it_comes(size):
    whole = (
        CHUNKED + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nHost: evil.example\r\n\r\n",
        POST + b"Content-Length: 5 \r\n\r\nhello",
    )
    for sent, body in zip(whole, (b"hello world", b"hello"), strict=True):
        app, wire = spoken((sent[at : at + size] for at in range(0, len(sent), size)), turns=3)
        ((method, target, headers, found),) = app.requests
        assert (method, target, found) == ("POST", b"/a?b=c", body) and answers(wire) == [b"1"] and not wire.closed
        assert [value for name, value in headers if name == b"host"] == [b"localhost"]  # none from behind the body


def test_requests_that_come_together_are_answered_one_after_the_other_and_meanwhile_none_is_read():
    app, wire = spoken([GET + POST + b"Content-Length: 5\r\n\r\nhello" + GET + LAST + GET], turns=100)
    assert [each[1] for each in app.requests] == [b"/next", b"/a?b=c", b"/next", b"/last"]
    assert answers(wire) == [b"1", b"2", b"3", b"4"] and app.most_at_once == 1 and wire.closed
    app, wire = spoken([GET * 1000], turns=1)
    assert wire.paused and len(app.requests) <= 1


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["kept alive", "the last request"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [5, 2 * HIGH_WATER_LIMIT])
def test_a_client_that_leaves_is_noticed_while_its_request_waits_however_large_its_body_is(size, chunked, last):
    body = b"x" * size
    length = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % size
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
    app = App()
    app.waits = True
    app, wire = spoken([POST + last + length + b"\r\n" + framed], app)
    assert not wire.paused
    assert app.left == 1


def test_what_is_no_request_is_refused_behind_the_answers_to_what_was_in_front_of_it():
    app, wire = spoken([GET + GET + b"nonsense\r\n\r\n" + GET], turns=100)
    assert answers(wire) == [b"1", b"2", b"400"] and wire.closed and len(app.requests) == 2


def test_a_body_that_nobody_reads_is_let_by_and_the_next_request_behind_it_answered():
    app = App()
    app.reads = False
    start = POST + b"Content-Length: 100000\r\n\r\n"
    _, wire = spoken([start, bytes(50_000), bytes(50_000) + GET, GET], app)
    assert answers(wire) == [b"1", b"2", b"3"] and [each[1] for each in app.requests][1:] == [b"/next"] * 2


@pytest.mark.parametrize("last", [LAST, b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"])
def test_nothing_is_answered_behind_a_clients_last_request(last):
    for pieces in ([last + GET], [last, GET], [last + b"nonsense"], [last[:-3], last[-3:] + GET]):
        app, wire = spoken(pieces)
        assert answers(wire) == [b"1"] and wire.closed and len(app.requests) == 1


def test_what_comes_in_one_read_behind_the_last_chunk_is_left_and_the_connection_closed():
    _, wire = spoken([CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + GET])
    assert answers(wire) == [b"1"] and wire.closed and b"connection: close" in wire.written
    _, wire = spoken([CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", GET])
    assert answers(wire) == [b"1", b"2"] and not wire.closed


def test_a_head_is_taken_up_to_its_limit_and_no_byte_further():
    def of(size: int) -> bytes:
        start = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
        return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"

    for size, expected in ((HEAD_BYTES, b"1"), (HEAD_BYTES + 1, b"400"), (100 * HEAD_BYTES, b"400")):
        for step in (1000, 10 * HEAD_BYTES):
            sent = of(size)
            _, wire = spoken((sent[at : at + step] for at in range(0, len(sent), step)), turns=5)
            assert answers(wire) == [expected], (size, step)


def test_a_body_is_asked_for_where_it_is_read_and_only_there():
    waits = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    app, wire = spoken([waits, b"hello"])
    assert wire.writes[0] == b"HTTP/1.1 100 Continue\r\n\r\n" and app.requests[0][3] == b"hello"
    app = App()
    app.reads = False
    _, wire = spoken([waits, GET], app)
    assert answers(wire) == [b"1"] and wire.closed  # whether that is the body nobody could tell


def test_who_would_also_speak_another_protocol_is_answered_in_this_one():
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for body in (
        b"\r\n",
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ):
        for pieces in (
            [POST + offer + body, GET],
            [POST + offer, body, GET],
            [POST + offer + body[:-4], body[-4:], GET],
        ):
            app, wire = spoken(pieces)
            assert answers(wire) == [b"1", b"2"] and app.requests[0][3] == (b"hello" if b"hello" in body else b"")


def test_an_answer_is_one_write_and_a_header_of_two_lines_is_none():
    app, wire = spoken([GET])
    assert len(wire.writes) == 1 and wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    app = App()
    app.headers = [(b"x", b"a\r\nset-cookie: b")]
    _, wire = spoken([GET], app)
    assert wire.written.startswith(b"HTTP/1.1 500 ") and b"set-cookie" not in wire.written


def test_an_answer_without_a_length_ends_as_its_client_can_tell():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204 if scope["path"] == "/none" else 200})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    for request, expected in (
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", b"connection: close\r\n\r\nabc"),
    ):
        _, wire = spoken([request], app)  # type: ignore[arg-type]
        assert wire.written.endswith(expected) and (b"chunked" in wire.written) == (b"chunked" in expected)


@pytest.mark.parametrize("lengths", [(2, b"abc"), (4, b"abc")])
def test_an_answer_of_another_length_than_it_says_is_cut_off(lengths):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % lengths[0])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": lengths[1]})

    _, wire = spoken([GET, GET], app)  # type: ignore[arg-type]
    assert wire.written == b"" and wire.closed


@pytest.mark.parametrize("slow", [b"G", GET[:-1], b""])
def test_a_head_has_its_time_from_its_first_byte_also_on_a_connection_that_was_answered(slow):
    async def run() -> tuple[Wire, App]:
        app = App()
        config = uvicorn.Config(app, http=bounded(replace(LIMITS, head_seconds=0.2)), ws="none", lifespan="off")
        config.load()
        wire, connection = Wire(), config.http_protocol_class(config=config, server_state=ServerState(), app_state={})  # type: ignore
        connection.connection_made(wire)
        if slow:
            connection.data_received(GET)
            await asyncio.sleep(0.05)
            connection.data_received(slow)
        await asyncio.sleep(0.5)
        connection.connection_lost(None)
        return wire, app

    wire, app = asyncio.run(run())
    assert wire.closed and len(app.requests) == (1 if slow else 0)


def test_a_request_that_was_answered_leaves_nothing_for_the_garbage_collector():
    app = App()
    gc.collect()
    gc.disable()
    try:
        spoken([GET, POST + b"Content-Length: 5\r\n\r\nhello"] * 2, app)
        before = gc.collect()
        spoken([GET, POST + b"Content-Length: 5\r\n\r\nhello"] * 20, app)
        assert gc.collect() < before + 18  # a single object a request would be 36
    finally:
        gc.enable()


def by_h11(sent: bytes) -> list[tuple[str, bytes, list[tuple[bytes, bytes]], bytes]]:
    """The whole requests that h11 finds, up to what it refuses or a client's last."""
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(sent)
    found: list[Any] = []
    body, request = b"", None
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError:
            return found
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return found
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            found.append(
                (request.method.decode(), request.target.removesuffix(b"?"), [(n, v) for n, v in request.headers], body)
            )
            if conn.their_state not in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL):
                return found
            conn.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            conn.send(h11.EndOfMessage())
            if conn.our_state is not h11.DONE:
                return found
            conn.start_next_cycle()


LINES = [b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"PUT /%41?x HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n"]
HEADERS = [
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n",
    b"X: \xe4 \t\r\n", b"X:\r\n", b"Host: a\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b" folded\r\n",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;a=b\r\nhello\r\n5\r\nworld\r\n0\r\nX: y\r\n\r\n",
]  # fmt: skip
SIGNS = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b"0", b"5", b"a", b"\xff", b"\x0b", b""]


def mutated(draw: Callable[[Any], Any]) -> bytes:
    """One to three requests, a few of their bytes changed."""
    sent = bytearray()
    for _ in range(draw(st.integers(1, 3))):
        host = draw(st.sampled_from([b"Host: localhost\r\n"] * 5 + [b""]))
        headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
        sent += draw(st.sampled_from(LINES)) + host + b"".join(headers) + b"\r\n" + draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(SIGNS))
    return bytes(sent)


@seed(0)
@settings(max_examples=400, deadline=None, database=None)
@given(sent=st.composite(mutated)(), split=st.integers(0, 2**16))
def test_every_request_that_is_taken_is_one_that_h11_takes_and_the_same(sent: bytes, split: int):
    rng = random.Random(split)
    cuts = sorted({0, len(sent), *(rng.randrange(len(sent) + 1) for _ in range(rng.randrange(4)))})
    app, wire = spoken([sent[a:b] for a, b in pairwise(cuts)])
    expected = by_h11(sent)
    assert app.requests == expected[: len(app.requests)], (sent, cuts)
    if len(app.requests) < len(expected) and not wire.paused:
        assert wire.closed, (sent, cuts)  # what is stricter here says so
