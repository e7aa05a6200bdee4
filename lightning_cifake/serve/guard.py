"""What stands before every route: who may ask, from where; and behind it: safe headers, a count, a line in the log.

A server on one's own machine is within reach of every page that one's browser shows. What is checked against that:

- ``Host`` must be a name that this server goes by. A page whose name was made to point at 127.0.0.1 (DNS rebinding)
  asks by its own name, and is refused. Where the server listens beyond this machine, addresses are taken too: a name
  can be turned round, an address cannot.
- ``Origin``, which browsers send with every POST, must be the page that this server gave; so must ``Sec-Fetch-Site``.
  A foreign page may make a browser send a form here, and is refused before its body is read. No header of CORS is
  ever sent, so no foreign page can read an answer either.
- ``Authorization``, where a token was asked for, for all but the page and the two probes.
"""

import hmac
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from lightning_cifake.serve.errors import Refused
from lightning_cifake.serve.refusal import refusal
from lightning_cifake.serve.settings import LOOPBACK, Settings, is_loopback
from lightning_cifake.text import printable, shorten

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lightning_cifake.serve.metrics import Metrics

log = logging.getLogger(__name__)

# the page is made of files of this origin: no script in it, none from elsewhere, and nobody frames it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("permissions-policy", "camera=(self), microphone=(), geolocation=()"),
)
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS]
_NO_STORE = (b"cache-control", b"no-store")
GUARDED = ("/v1/", "/metrics")  # need the token
LOGGED = "cifake_files"  # of a scope's state: what the line in the log adds


class Guard:
    """ASGI middleware.

    Args:
        app: what it stands before.
        settings: of the server.
        metrics: counts.
        routes: the app's own paths: others are counted together.
        stopping: whether it is: a client is then told to come again by another connection, as this one will be closed.
    """

    def __init__(
        self,
        app: "ASGIApp",
        settings: Settings,
        metrics: "Metrics",
        routes: Sequence[str],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app, self._metrics, self._routes, self._stopping = app, metrics, frozenset(routes), stopping
        self._hosts = Hosts(settings.host, settings.allowed_hosts)
        self._token = None if settings.token is None else _digest(settings.token)
        self._log = settings.log

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        path = scope["path"]

        async def safely(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                given = {name for name, _ in headers}
                headers += [each for each in _HEADERS if each[0] not in given]
                if path.startswith(("/v1/", "/metrics", "/healthz", "/readyz")):
                    headers.append(_NO_STORE)
                if self._stopping() and b"connection" not in given:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            try:
                self._check(scope)
            except Refused as refused:
                await refusal(refused)(scope, receive, safely)
                return
            await self._app(scope, receive, safely)
        finally:
            self._metrics.request(self._route(path), status, time.perf_counter() - start)
            self._say(scope, status, time.perf_counter() - start)

    def _check(self, scope: "Scope") -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = _only(headers, b"host")
        if host is None or not self._hosts.allow(host):
            shown = printable(shorten(host or "", 80))
            raise Refused(
                400,
                f"expected a Host that this server goes by, got {shown or 'none'} (serve --allowed_hosts names more)",
            )
        origin = _only(headers, b"origin")
        if b"origin" in headers and (origin is None or _authority(origin) != _without_port(host)):
            raise Refused(403, "expected a page of this server, got one of another origin")
        if _only(headers, b"sec-fetch-site") in ("cross-site", "same-site") and scope["path"].startswith(GUARDED):
            raise Refused(403, "expected a page of this server, got one of another site")
        if self._token is not None and scope["path"].startswith(GUARDED):
            scheme, _, given = (_only(headers, b"authorization") or "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._token):
                raise Refused(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return "/static" if path.startswith("/static/") else "other"

    def _say(self, scope: "Scope", status: int, seconds: float) -> None:
        path = scope["path"]
        if self._log == "none" or (status < 400 and not path.startswith("/v1/")):
            return  # probes, the page's files: not a line each
        names = scope.get("state", {}).get(LOGGED)
        what = "" if names is None else f" {len(names)} {'image' if len(names) == 1 else 'images'}"
        if names and self._log == "names":
            what += f" ({', '.join(printable(shorten(name, 80)) for name in names)})"
        method = scope["method"] if re.fullmatch("[A-Z]{1,10}", scope["method"]) else "?"
        log.info("%s %s %d%s %.0f ms", method, self._route(path), status, what, 1000 * seconds)


class Hosts:
    """The names that a server goes by.

    Args:
        host: that it listens at.
        more: names beside it; ``*`` for any.
    """

    def __init__(self, host: str, more: Sequence[str] = ()) -> None:
        self._names = {each.lower().rstrip(".") for each in (*LOOPBACK, host, *more)}
        self._any, self._addresses = "*" in more, not is_loopback(host)
        if self._addresses:
            self._names.add(socket.gethostname().lower())

    def allow(self, header: str) -> bool:
        """Whether a ``Host`` header is one of them, with any port."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:\[\]/@]+)(:\d{1,5})?", header)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        return self._any or name in self._names or (self._addresses and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _only(headers: "dict[bytes, list[bytes]]", name: bytes) -> str | None:
    """A header's value; None where it is not there, or there twice."""
    values = headers.get(name, [])
    return values[0].decode("latin-1") if len(values) == 1 else None


def _authority(origin: str) -> str | None:
    """``https://name:443`` -> ``name``; None of what is no page's (``null``)."""
    scheme, separator, rest = origin.partition("://")
    return _without_port(rest) if separator and scheme in ("http", "https") else None


def _without_port(authority: str) -> str:
    """Without a port that browsers leave out: behind a proxy that speaks TLS the server does not know which."""
    return re.sub(r":(80|443)$", "", authority.lower())


def _digest(token: Any) -> bytes:
    """Of one length, whatever was given: the comparison tells nothing of it."""
    return sha256(str(token).encode()).digest()
