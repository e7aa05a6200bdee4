"""A request's body -> images, counted while it is read: nothing is kept that passes a limit, and nothing on a disk."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from lightning_cifake.deploy.load import Encoded
from lightning_cifake.serve.errors import Refused, busy
from lightning_cifake.serve.settings import Limits
from lightning_cifake.text import printable, shorten

FIELD = "files"
LONGEST_NAME = 255  # letters of a client's name for a file that are echoed
EXPECTED = f"expected multipart/form-data with pictures in `{FIELD}`, or one picture with its type (image/jpeg)"


class Memory:
    """Bytes of all bodies together: those that are being read, and those whose images wait."""

    def __init__(self, limit: int) -> None:
        self._limit, self.held = limit, 0

    @contextmanager
    def of_one_request(self) -> Iterator["Share"]:
        """A share that grows while the body comes, and is given back when the request has been answered."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.held

    def take(self, count: int) -> None:
        if self.held + count > self._limit:
            raise busy("too much is being uploaded at once")
        self.held += count


class Share:
    """What one request holds of the :class:`Memory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self.held = memory, 0

    def grow(self, count: int) -> None:
        """Raises: Refused: 429, all requests together hold too much."""
        self._memory.take(count)
        self.held += count


class _InMemory(MultiPartParser):
    spool_max_size = 0  # of a file in memory: never on a disk, where it would be kept for a moment
    ended = False

    def on_end(self) -> None:
        self.ended = True  # the last boundary has come: no file is cut off


async def images_of(request: Request, limits: Limits, share: Share) -> list[Encoded]:
    """The pictures of a request, in its order.

    Raises:
        Refused: 408, 413, 415, 422, 429; 400 of a body that is no multipart.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data" and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise Refused(415, f"{EXPECTED}, got {printable(shorten(kind, 80)) or 'no Content-Type'}")
    stream = _within(request, limits, share)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == "multipart/form-data":
                return await _of_parts(request, stream, limits)
            content = b"".join([chunk async for chunk in stream])
    except TimeoutError as error:
        raise Refused(408, f"the request's body did not arrive within {limits.body_seconds:g} s") from error
    except ClientDisconnect as error:
        raise Refused(400, "the client left before its request was whole") from error
    if not content:
        raise Refused(422, f"{EXPECTED}, got an empty body")
    return [Encoded("image", content)]


async def _within(request: Request, limits: Limits, share: Share) -> AsyncGenerator[bytes, None]:
    """The body's bytes as they come: what it says of its length first, and then what it is."""
    most = limits.body_bytes
    too_large = f"expected a body of at most {most:,} bytes"
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > most:
        raise Refused(413, f"{too_large}, got {int(said[:20]):,}")
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > most:
            raise Refused(413, f"{too_large}, got more")
        share.grow(len(chunk))
        yield chunk


async def _of_parts(request: Request, stream: AsyncGenerator[bytes, None], limits: Limits) -> list[Encoded]:
    async def to_its_end() -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not parser.ended:  # raised here, where the parser closes what it has begun
            raise Refused(400, "the body is no multipart/form-data: it ends before its last boundary")

    parser = _InMemory(request.headers, to_its_end(), max_files=limits.files, max_fields=limits.files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise Refused(413, f"expected at most {limits.files} pictures in a request, got more") from error
        raise Refused(400, f"the body is no multipart/form-data: {printable(shorten(error.message, 200))}") from error
    try:
        images = [await _image_of(name, value) for name, value in form.multi_items()]
    finally:
        await form.close()
    if not images:
        raise Refused(422, f"expected files in the field `{FIELD}`, got none")
    return images


async def _image_of(name: str, value: UploadFile | str) -> Encoded:
    if name != FIELD or not isinstance(value, UploadFile):
        what = "a file" if isinstance(value, UploadFile) else "text"
        raise Refused(422, f"expected files in the field `{FIELD}`, got {what} in `{printable(shorten(name, 80))}`")
    return Encoded(shorten(value.filename or "image", LONGEST_NAME), await value.read())
