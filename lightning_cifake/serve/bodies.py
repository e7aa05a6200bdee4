"""A request's body -> images, counted while it is read: nothing is kept that passes a limit, and nothing on a disk."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from lightning_cifake.deploy.load import Encoded
from lightning_cifake.serve.errors import Refused, busy
from lightning_cifake.serve.settings import Limits
from lightning_cifake.text import printable, shorten

FIELD = "files"
LONGEST_NAME = 255  # letters of a client's name for a file that are echoed
PART_HEADER_BYTES = 8 * 2**10
_PAIR = rb"""; ?([a-z]+)=([\w.'+-]+|"[^"\\;]*")"""
_USUAL, _OPTION = re.compile(rb"[a-z/-]+(?:%b)*" % _PAIR), re.compile(_PAIR)
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


async def images_of(request: Request, limits: Limits, share: Share) -> list[Encoded]:
    """The pictures of a request, in its order.

    Raises:
        Refused: 408, 413, 415, 422, 429; 400 of a body that is no multipart.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    taken: Form | Whole
    if kind == "multipart/form-data":
        taken = Form(given, limits.files)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        taken = Whole()
    else:
        raise Refused(415, f"{EXPECTED}, got {printable(shorten(kind, 80)) or 'no Content-Type'}")
    try:
        async with asyncio.timeout(limits.body_seconds):
            await _read(request, limits.body_bytes, share, taken.write)
    except TimeoutError as error:
        raise Refused(408, f"the request's body did not arrive within {limits.body_seconds:g} s") from error
    return taken.images()


async def _read(request: Request, most: int, share: Share, write: Callable[[bytes], object]) -> None:
    """The body's bytes as they come: what it says of its length first, and then what it is."""
    too_large = f"expected a body of at most {most:,} bytes"
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > most:
        raise Refused(413, f"{too_large}, got {int(said[:20]):,}")
    seen, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client left before its request was whole")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        seen += len(chunk)
        if seen > most:
            raise Refused(413, f"{too_large}, got more")
        if chunk:
            share.grow(len(chunk))
            write(chunk)


class Whole:
    """A body that is one picture."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.write = self._pieces.append

    def images(self) -> list[Encoded]:
        """Raises: Refused: 422, it is empty."""
        if not self._pieces:
            raise Refused(422, f"{EXPECTED}, got an empty body")
        return [Encoded("image", b"".join(self._pieces))]


class Form:
    """A form's files, cut out of its bytes as they come; the first thing that is wrong with it refuses it.

    Args:
        kind: the whole Content-Type.
        most: files.

    Raises:
        Refused: 400, it has no boundary, or none that can be.
    """

    def __init__(self, kind: str, most: int) -> None:
        boundary = _options(kind.encode("latin-1")).get(b"boundary")
        if not boundary:
            raise _broken("it has no boundary")
        self._parts = _Parts(most)
        try:
            self._parser = MultipartParser(boundary, self._parts.callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise _broken(str(error)) from error

    def write(self, chunk: bytes) -> None:
        """Raises: Refused: 400, 413, 422."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _broken(str(error)) from error

    def images(self) -> list[Encoded]:
        """Raises: Refused: 400, a file is cut off; 422, there is none."""
        if not self._parts.ended:
            raise _broken("it ends before its last boundary")
        if not self._parts.images:
            raise Refused(422, f"expected files in the field `{FIELD}`, got none")
        return self._parts.images


class _Parts:
    """What the parser of a form calls. It does not know the parser: in a cycle of both the pictures would stay on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.images: list[Encoded] = []
        self.ended = False
        self._pieces: list[bytes] = []
        self._name = self._value = self._disposition = b""
        self._file = ""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._name = self._value = self._disposition = b""
        self._pieces = []

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._require_small(self._name)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._require_small(self._value)

    def _require_small(self, read: bytes) -> None:
        if len(read) > PART_HEADER_BYTES:  # python-multipart bounds it from 0.0.27 on
            raise _broken(f"a header of a part is longer than {PART_HEADER_BYTES:,} bytes")

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        options = _options(self._disposition)
        name, filename = options.get(b"name"), options.get(b"filename")
        if name is None:
            raise _broken("a part has no name")
        if filename is None or name != FIELD.encode():
            what = "text" if filename is None else "a file"
            raise Refused(
                422, f"expected files in the field `{FIELD}`, got {what} in `{printable(shorten(_text(name), 80))}`"
            )
        if len(self.images) == self._most:
            raise Refused(413, f"expected at most {self._most} pictures in a request, got more")
        self._file = shorten(_text(filename) or "image", LONGEST_NAME)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _on_part_end(self) -> None:
        self.images.append(Encoded(self._file, b"".join(self._pieces)))
        self._pieces = []

    def _on_end(self) -> None:
        self.ended = True  # the last boundary has come: no file is cut off


def _broken(reason: str) -> Refused:
    return Refused(400, f"the body is no multipart/form-data: {printable(shorten(reason, 200))}")


def _options(header: bytes) -> dict[bytes, bytes]:
    """A header's parameters, as the general parser reads them: of the usual form in a third of its time."""
    if _USUAL.fullmatch(header):
        return {name: value.strip(b'"') for name, value in _OPTION.findall(header)}
    return parse_options_header(header)[1]


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
