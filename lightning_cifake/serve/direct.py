"""The way of a plain request for answers past FastAPI's layers, which would take a third of the event loop's time."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request

from lightning_cifake.serve.errors import Refused
from lightning_cifake.serve.refusal import refusal

if TYPE_CHECKING:
    from fastapi.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """ASGI middleware: a POST to one path without a query goes straight to the function that answers it.

    Where there is no query there is no parameter to check, and nothing else of the route is FastAPI's. All other
    requests go on to the app, whose route of that path is the same function.

    Args:
        app: what it stands before.
        path: of the route.
        answer: the route's function; raises ``Refused`` alone of what a client is to read.
    """

    def __init__(self, app: "ASGIApp", path: str, answer: "Callable[[Request], Awaitable[Response]]") -> None:
        self._app, self._path, self._answer = app, path, answer

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        plain = scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]
        if not plain or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive))
        except Refused as refused:
            response = refusal(refused)
        await response(scope, receive, send)
