"""What a server may be told: the model, who may ask, and how much of anything it takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

Log = Literal["none", "requests", "names"]
LOGS: tuple[Log, ...] = get_args(Log)
TOKEN_VARIABLE = "LIGHTNING_CIFAKE_TOKEN"
MIB = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """How much is taken, of one request and of all together.

    Attributes:
        body_bytes: of one request, whatever it holds; more is 413.
        files: in one request; more is 413.
        pixels: of one picture, known by its header before it is decoded; one with more is an answer with an error.
        queue: images that wait or are being answered; a request that would pass it is 429.
        memory_bytes: of all bodies that are being read, or whose images wait; more is 429.
        connections: at once; further ones are told 503 and closed.
        head_seconds: for a request's head to arrive; then the connection is closed.
        body_seconds: for its body; then 408.
        answer_seconds: for its answers, from then on; then 503.
        drain_seconds: that it goes on answering after SIGTERM, while /readyz says 503 already.
        batch: images that the model is given at once.
    """

    body_bytes: int = 64 * MIB
    files: int = 64
    pixels: int = 64_000_000
    queue: int = 512
    memory_bytes: int = 512 * MIB
    connections: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 30.0
    drain_seconds: float = 1.0
    batch: int = 32


@dataclass(frozen=True)
class Settings:
    """Of one server.

    Attributes:
        model: a name or a file, as ``predict --model`` takes it.
        host: the address that it listens at.
        port: 0 for any that is free.
        token: that a request must carry; None: none.
        allowed_hosts: names that it is asked by, beside the usual ones; ``*`` for any.
        uncertain: (low, high): the verdict is UNCERTAIN from low to high of P(REAL).
        workers: threads that decode and compute; as many as there are cores by default.
        log: a line a request, the names of files in it, or none.
        limits: how much it takes.
    """

    model: Path | str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: Sequence[str] = ()
    uncertain: tuple[float, float] | None = None
    workers: int | None = None
    log: Log = "requests"
    limits: Limits = Limits()


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    return host.lower() in LOOPBACK or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def read_token(path: Path) -> str:
    """The first line of a file that holds nothing else.

    Raises:
        UserError: it cannot be read, or is no token.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--token_file: cannot read {printable(path)}: {reason_of(error)}") from error
    return check_token(content.decode("latin-1").strip(), f"--token_file {printable(path)}")


def check_token(token: str, where: str) -> str:
    """The token itself, which goes into a header: visible ASCII, without spaces.

    Raises:
        UserError: it is none. It says nothing of what it is.
    """
    if not re.fullmatch(r"[!-~]{16,512}", token):
        raise UserError(
            f"{where}: expected one line of 16 to 512 letters, digits or signs, without spaces "
            "(python -c 'import secrets; print(secrets.token_urlsafe())' makes one)"
        )
    return token
