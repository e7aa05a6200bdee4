"""Opening http and https addresses, with an end to the wait for an answer's headers.

By hand: the timeouts of urllib and requests restart with every byte.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

ANSWER_SECONDS = 60.0  # for a proxy's and the server's headers: a socket's timeout restarts with every byte


def opener() -> OpenerDirector:
    """As urllib's own, through the environment's proxies, but for http and https alone: a redirect leads to no file."""
    made = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPDefaultErrorHandler(),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
        _Plain(),
        _Secure(),
    ):
        made.add_handler(handler)
    return made


class _Bounded:
    """Of a connection: connecting and the wait for headers end after :data:`ANSWER_SECONDS` however bytes trickle."""

    sock: Any

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        late = threading.Event()

        def hang_up() -> None:
            late.set()
            with suppress(OSError, AttributeError):  # closed, or not yet connected: the socket's own timeout ends that
                self.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(ANSWER_SECONDS, hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, HTTPException) as error:
            if late.is_set():
                raise self._late() from error
            raise
        finally:
            timer.cancel()
        if late.is_set():  # http.client takes the end of the connection for the end of the headers
            raise self._late()

    @staticmethod
    def _late() -> TimeoutError:
        return TimeoutError(f"no whole answer within {ANSWER_SECONDS:.0f} s")

    def connect(self) -> None:
        with self._bounded():
            super().connect()  # type: ignore[misc]

    def getresponse(self) -> HTTPResponse:
        with self._bounded():
            return super().getresponse()  # type: ignore[misc]


class _HTTPConnection(_Bounded, HTTPConnection):
    pass


class _HTTPSConnection(_Bounded, HTTPSConnection):
    pass


class _Plain(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_HTTPConnection, req)


class _Secure(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_HTTPSConnection, req)
