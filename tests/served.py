"""The server of ``serve``, in a thread of a test's process, on a port of its own; and what talks to it byte by byte."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from lightning_cifake.serve.app import State, create_app
from lightning_cifake.serve.server import Server, listen, make_server
from lightning_cifake.serve.settings import MIB, Limits, Settings

LIMITS = Limits(
    body_bytes=MIB,
    files=8,
    pixels=1_000_000,
    queue=64,
    memory_bytes=8 * MIB,
    connections=16,
    head_seconds=5.0,
    body_seconds=10.0,
    drain_seconds=0.0,
)
"""Small, so that a test is past them soon."""


class Served(NamedTuple):
    """A server that runs."""

    port: int
    state: State
    server: Server
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, **options)


@contextmanager
def serving(settings: Settings | None = None) -> Iterator[Served]:
    """Runs, and has stopped behind it."""
    settings = settings or Settings(log="none", limits=LIMITS)
    with listen("127.0.0.1", 0) as opened:
        app = create_app(settings)
        server = make_server(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(opened.getsockname()[1], app.state.serve, server, thread)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
    assert not thread.is_alive()


def picture(kind: str = "PNG", size: tuple[int, int] = (32, 32), seed: int = 0) -> bytes:
    """A file's bytes, of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def talk(port: int, *pieces: bytes, end: bool = False, seconds: float = 10) -> bytes:
    """Sends these, as far as they are taken, and returns all that comes back until the other side closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            if end:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    return received


def head(length: int | None = None, *more: str, path: str = "/v1/predict", kind: str = "image/png") -> bytes:
    """Of a POST that closes."""
    size = ["Transfer-Encoding: chunked"] if length is None else [f"Content-Length: {length}"]
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Type: {kind}", *size, *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def said(response: bytes) -> tuple[int, Any]:
    """The status and the JSON of one response."""
    start, _, body = response.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body)
