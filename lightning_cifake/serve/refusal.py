"""A refusal as a response: sent whole, and the rest of the body let by for a moment before the connection is closed."""

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

from lightning_cifake.serve.errors import Refused

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 2**20


class Refusal(JSONResponse):
    """Closes a connection that still has a body to come.

    A client that sends and does not listen would see its connection reset, and never why. So its body is let by, and
    dropped, for a short while.
    """

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            await super().__call__(scope, receive, send)
            return
        done = False

        async def listening() -> "Message":
            nonlocal done
            message = await receive()
            done = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        self.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        seen, end = 0, time.monotonic() + LINGER_SECONDS
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not done and seen < LINGER_BYTES and time.monotonic() < end:
                    seen += len((await listening()).get("body", b""))
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def refusal(refused: Refused) -> Refusal:
    """Its reason as ``{"error": ...}``, under its status."""
    return Refusal({"error": refused.reason}, refused.status, refused.headers)
