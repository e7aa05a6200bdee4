"""HTTP/1.1 of one connection: httptools parses it, and what it may hold and how long it may take is bounded here.

A connection has one request at a time. What comes behind it waits as bytes, and its reading is paused, until the answer
has gone; so no client can make more of this server than one request and one read.
"""

import asyncio
import contextlib
import re
from enum import Enum
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from lightning_cifake.serve.settings import Limits

HEAD_BYTES = 16 * 2**10
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 34\r\n"
    b'retry-after: 1\r\nconnection: close\r\n\r\n{"error": "too many connections"} '
)
# stricter than the parser, which also knows RTSP, HTTP/0.9, several spaces, a proxy's targets (http://..., a:80, *)
_REQUEST_LINE = re.compile(rb"([A-Z-]+) (/[!-~]*) HTTP/1\.([01])\r\n")
_CHUNKS = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_INVALID = "Invalid HTTP request received."


class _Refused(Exception):
    """What has come is no request that is answered."""


class _Awaits(Enum):
    HEAD = "a request's head, or the rest of it"
    BODY = "the rest of a request's body"
    ANSWER = "the answer to a request that is here as a whole"
    NOTHING = "no further request: what comes is dropped"


class Connection(HttpToolsProtocol):
    """One client's.

    Of uvicorn's own protocol the life of a connection is left: made, lost, kept alive, shut down. Its parsing is not:
    it takes a head of any size, parses as many requests as come in one read, and answers a broken one by 400 before
    the whole ones in front of it.
    """

    limits = Limits()
    _awaits = _Awaits.HEAD
    _arrived = b""  # and not parsed yet
    _searched = 0  # bytes of it in which no head ends
    _left: int | None = 0  # bytes of the body to come; None where it comes in chunks
    _keeps_alive = False  # the client says
    _in_head = False  # the parser is
    _whole = False  # it has seen the last chunk
    _beside = 0  # bytes of a body in chunks since the last one of its content
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._awaits = _Awaits.NOTHING
            transport.write(_FULL)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._awaits, self._arrived = _Awaits.NOTHING, b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._stay()
        if self._awaits is _Awaits.NOTHING:
            return
        self._arrived = self._arrived + data if self._arrived else data
        self._go_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._awaits is _Awaits.ANSWER and not self.transport.is_closing():
            self._awaits = _Awaits.HEAD
            if self._arrived:
                self._stay()
                self._go_on()

    def _go_on(self) -> None:
        """Parses what has arrived, as far as it is that one request's."""
        try:
            while self._arrived:
                if self._awaits is _Awaits.BODY:
                    self._take_body()
                elif self._awaits is not _Awaits.HEAD or not self._take_head():
                    break
        except (_Refused, httptools.HttpParserError):
            self._refuse()
        if self._awaits is _Awaits.ANSWER and self._arrived:
            self.flow.pause_reading()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif not self.transport.is_closing():
            self._await_head()

    def _take_head(self) -> bool:
        """Whether all of it was there."""
        arrived = self._arrived
        end = arrived.find(b"\r\n\r\n", self._searched) + 4
        if end < 4:
            # known at once to be no head: TLS, for one
            if len(arrived) > HEAD_BYTES or arrived[0] <= 0x20 or _BARE_LF.search(arrived, self._searched):
                raise _Refused
            self._searched = max(0, len(arrived) - 3)
            return False
        line = _REQUEST_LINE.match(arrived)
        if end > HEAD_BYTES or line is None:
            raise _Refused
        self._searched, self._arrived = 0, arrived[end:]
        self.headers, self.expect_100_continue, self._in_head = [], False, True
        self.parser = httptools.HttpRequestParser(self)  # of one head: nothing of the last one is left in it
        # who would also speak another protocol is answered in this one
        with contextlib.suppress(httptools.HttpParserUpgrade):
            self.parser.feed_data(arrived[:end])
        if self._in_head:
            raise _Refused
        self._begin(*line.groups())
        return True

    def _begin(self, method: bytes, target: bytes, minor: bytes) -> None:
        """A request whose head is here: its answer is begun."""
        self._left, hosts = 0, 0
        for name, value in self.headers:
            if name == b"content-length":  # the parser has seen that it is one number, and the only one
                self._left = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or minor == b"0":
                    raise _Refused
                self._left = None
            elif name == b"host":
                hosts += 1
        if hosts > 1 or (not hosts and minor == b"1"):
            raise _Refused
        path, _, query = target.partition(b"?")
        text = path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.0" if minor == b"0" else "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "method": method.decode("ascii"),
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and minor == b"1",
            keep_alive=minor == b"1" and self._keeps_alive,
            on_response=self.on_response_complete,
        )
        self._awaits = _Awaits.BODY
        if self._left is None:
            # a parser of its own, as the head's knows of no body where another protocol was offered
            self._whole, self._beside, self.parser = False, 0, httptools.HttpRequestParser(self)
            self.parser.feed_data(_CHUNKS)
        elif not self._left:
            self._end()
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _take_body(self) -> None:
        if self._left is None:
            self._take_chunks()
            return
        piece, self._arrived = self._arrived[: self._left], self._arrived[self._left :]
        self._left -= len(piece)
        self.on_body(piece)
        if not self._left:
            self._end()

    def _take_chunks(self) -> None:
        piece, self._arrived = self._arrived, b""
        self._beside += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError:
            if not self._whole:
                raise
            self.cycle.keep_alive = False  # more came with the last chunk: the parser does not tell where it begins
        if self._whole:
            self._end()
        elif self._beside > HEAD_BYTES:  # a flood of what stands beside the chunks
            raise _Refused

    def _end(self) -> None:
        """The request is here as a whole."""
        cycle = self.cycle
        cycle.more_body = False
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._awaits, self._arrived = _Awaits.NOTHING, b""
        else:
            self._awaits = _Awaits.HEAD if cycle.response_complete else _Awaits.ANSWER
        if not self._arrived:
            self.flow.resume_reading()  # a large body has paused it, and that its client leaves is told by a read

    def _refuse(self) -> None:
        """By 400, if it is the next thing that the client waits for."""
        in_body, cycle = self._awaits is _Awaits.BODY, self.cycle
        self._awaits, self._arrived = _Awaits.NOTHING, b""
        if in_body:
            answered = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
            if answered:
                self.transport.close()
                return
        self.send_400_response(_INVALID)

    # the parser's calls
    def on_message_begin(self) -> None:
        if self._whole and not self._in_head:
            raise _Refused

    def on_url(self, url: bytes) -> None:
        pass

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # behind the last chunk: nobody has asked for it
        name, value = name.lower(), value.strip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._in_head:  # asked here: at a request's end the parser forgets it
            self._in_head, self._keeps_alive = False, self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._whole = True

    def _stay(self) -> None:
        """Its client speaks: it is not closed for having been still."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    # a head's time
    def _await_head(self) -> None:
        """From its first byte: another byte now and then does not put it off."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class Cycle(RequestResponseCycle):
    """A request and its answer, whose head goes with the first piece of its body: one write, one packet."""

    _head = b""
    _bodyless = False

    async def receive(self) -> Any:
        """As uvicorn's, but that nothing is read for it behind the request's end."""
        if not self.more_body and not self.disconnected and not self.response_complete:
            await self.message_event.wait()
            self.message_event.clear()
            if not self.disconnected and not self.response_complete:
                body, self.body = bytes(self.body), bytearray()
                return {"type": "http.request", "body": body, "more_body": False}
        return await super().receive()

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if self.response_complete or message["type"] != expected:
            raise RuntimeError(f"expected no {message['type']} here")
        if not self.response_started:
            if self.waiting_for_100_continue:
                self.keep_alive = False  # whether its body comes nobody knows
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._head_of(message["status"], message.get("headers", ()))
            return
        more = message.get("more_body", False)
        self._write(message.get("body", b""), more)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _head_of(self, status: int, headers: Any) -> bytes:
        lines = [STATUS_LINE[status]]
        closes = False
        for name, value in (*self.default_headers, *headers):
            if name == b"content-length":
                self.chunked_encoding, self.expected_content_length = False, int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive, closes = False, True
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        self._bodyless = self.scope["method"] == "HEAD" or status in (204, 304)
        if self.chunked_encoding is None and not self._bodyless and self.scope["http_version"] != "1.0":
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            self.response_started = False
            raise RuntimeError("a header of an answer has more than one line")
        return head + b"\r\n"

    def _write(self, body: bytes, more: bool) -> None:
        if self._bodyless:
            body = b""
        elif self.chunked_encoding:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        elif self.chunked_encoding is not None:  # else it ends with the connection: HTTP/1.0
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (not more and self.expected_content_length):
                raise RuntimeError("the body of an answer is not as long as its head says")
        head, self._head = self._head, b""
        if head or body:
            self.transport.write(head + body)


def bounded(limits: Limits) -> type[Connection]:
    """The class of a server's connections."""
    return type("Bounded", (Connection,), {"limits": limits})
