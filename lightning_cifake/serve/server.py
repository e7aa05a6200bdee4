"""uvicorn, started, bounded and stopped as this project does it."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from lightning_cifake.errors import UserError
from lightning_cifake.serve.protocol import bounded
from lightning_cifake.serve.settings import Settings
from lightning_cifake.signals import Repeated
from lightning_cifake.text import printable, reason_of

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 2048
STOP_SPARE_SECONDS = 5.0  # beside what a request may take from its head to its answers


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # elsewhere it would share the port with whoever has it
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(BACKLOG)
        except BaseException:
            opened.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {printable(host)} port {port}: {reason_of(error)}") from error
    return opened


def address_of(opened: socket.socket) -> str:
    """What a browser is told."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Stops in order: /readyz says 503, then nothing new is taken, then what was accepted is answered.

    Args:
        config: uvicorn's.
        on_start: told when it answers, and signals stop it in order.
        on_stop: told of the first signal.
        drain_seconds: from SIGTERM on, in which it answers as before; Ctrl-C does not wait.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self._on_start, self._on_stop, self._drain_seconds = on_start, on_stop, drain_seconds
        self._repeated = Repeated()
        self.killed_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._repeated(sig):  # asked twice: what it holds is dropped
            self.killed_by = sig
            self.should_exit = self.force_exit = True
            return
        self._on_stop()
        if sig == signal.SIGINT or not self._drain_seconds:
            self.should_exit = True
        else:
            timer = threading.Timer(self._drain_seconds, self._exit)
            timer.daemon = True
            timer.start()

    def _exit(self) -> None:
        self.should_exit = True


def make_server(app: "FastAPI", settings: Settings, on_start: Callable[[], None] = lambda: None) -> Server:
    """uvicorn around an app; ``run(sockets=[...])`` of it returns when it has been stopped."""
    limits = settings.limits
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what a foreign request does wrong is no news
    config = uvicorn.Config(
        app,
        http=bounded(limits),
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here depends on who asks
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=round(limits.body_seconds + limits.answer_seconds + STOP_SPARE_SECONDS),
    )
    state = app.state.serve

    def stop() -> None:
        state.draining = True

    return Server(config, on_start, stop, limits.drain_seconds)
