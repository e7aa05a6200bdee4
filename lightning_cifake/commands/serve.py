"""The command ``serve``: a page and an HTTP API that answer from an exported model, without torch."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_cifake import shipped
from lightning_cifake.commands.arguments import positive
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.console import say
from lightning_cifake.deploy.stream import check_options
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import expand_user
from lightning_cifake.text import printable

if TYPE_CHECKING:
    from lightning_cifake.serve.settings import Settings

MIB = 2**20
MODULES = ("fastapi", "uvicorn", "httptools", "starlette", "python_multipart", "prometheus_client")
EXAMPLES = """examples:
  python -m lightning_cifake serve                                  a page at http://127.0.0.1:8000
  python -m lightning_cifake serve --model best --port 8080
  python -m lightning_cifake serve --host 0.0.0.0 --token_file token.txt
  curl -F files=@photo.jpg -F files=@other.png http://127.0.0.1:8000/v1/predict
  curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/predict?larger=tiles'

Pictures are answered from memory: none is kept, none is sent on, and no address or path is opened for a client.
http://127.0.0.1:8000/docs lists the routes. SIGTERM and Ctrl-C stop it when what it has accepted is answered; a second
one at once.
"""


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Answers over HTTP whether pictures are AI-generated: a page for people, an API for programs.",
        f"{EXAMPLES}\n{shipped.models_help()}",
    )
    parser.add_config()
    parser.add_argument(
        "--model",
        type=str,
        metavar="NAME|FILE",
        help="a model that comes with the package, a file that export wrote (one of such a name is ./NAME), or "
        "hf://owner/name of the Hugging Face Hub "
        f"(default: {shipped.DEFAULT})",
    )
    group = parser.add_argument_group("who may ask")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listens there; 0.0.0.0 is every network this machine is in (default: %(default)s, this machine alone)",
    )
    group.add_argument("--port", type=int, default=8000, metavar="N", help="0: any free one (default: %(default)s)")
    group.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help="holds the token that requests must carry, as Authorization: Bearer TOKEN; or the environment variable "
        "LIGHTNING_CIFAKE_TOKEN does (default: none is asked for)",
    )
    group.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names that it is asked by, behind a proxy or in a network, beside its own; '*' for any",
    )
    group = parser.add_argument_group("the answers")
    group.add_argument(
        "--uncertain",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="says UNCERTAIN from LOW to HIGH of P(REAL) "
        "(default: the API never; the page says so near the threshold, from 0.2 to 0.8 around 0.5)",
    )
    group = parser.add_argument_group("how much it takes")
    for name, default, metavar, text in (
        ("max_body", 64, "MIB", "of one request's body"),
        ("max_files", 64, "N", "pictures in one request"),
        ("max_megapixels", 64, "N", "of one picture, known before it is decoded"),
        ("max_memory", 512, "MIB", "of all requests that wait together; one more is told to come again (429)"),
        ("queue", 512, "N", "pictures that wait; where there is no room a request is told to come again (429)"),
        ("max_connections", 512, "N", "connections at once"),
        ("batch_size", 32, "N", "pictures that the model is given at once"),
    ):
        group.add_argument(
            f"--{name}", type=positive, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )
    group.add_argument("--threads", type=positive, metavar="N", help="that decode and compute (default: cores and one)")
    group = parser.add_argument_group("how long it waits, in seconds")
    for name, seconds, text in (
        ("body_seconds", 60.0, "for a request's body"),
        ("answer_seconds", 30.0, "for its answers, from then on"),
        ("drain_seconds", 1.0, "after SIGTERM, answering while /readyz says 503 already"),
    ):
        group.add_argument(f"--{name}", type=float, default=seconds, metavar="S", help=f"{text} (default: %(default)g)")
    parser.add_argument(
        "--log",
        type=Literal["none", "requests", "names"],
        default="requests",
        help="on standard error: nothing, a line a request without what it was about, or with the names of its files "
        "(default: %(default)s)",
    )


def run(options: Any) -> int:
    """Serves until it is stopped; returns the exit code, 0 where all that was accepted has been answered.

    Raises:
        UserError: the arguments, the model, the token's file, or an address that cannot be had.
    """
    require("web", *MODULES, what="serve")
    settings = settings_of(options)
    from lightning_cifake.serve.app import create_app
    from lightning_cifake.serve.server import address_of, listen, make_server
    from lightning_cifake.serve.settings import is_loopback

    for name in ("asyncio", "PIL"):  # of connections that were dropped, and of what foreign files hold: no news
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with listen(settings.host, settings.port) as opened:
        app = create_app(settings)
        if settings.token is None and not is_loopback(settings.host):
            say("whoever reaches this address may ask: --token_file FILE asks for a token")
        words = f"{app.state.serve.name} answers at {address_of(opened)} (Ctrl-C stops it)"
        server = make_server(app, settings, lambda: say(words))
        server.run(sockets=[opened])
    if server.killed_by is not None:
        say("stopped at once: what had been accepted was dropped")
        return 128 + server.killed_by
    say("stopped: all that had been accepted was answered")
    return 0


def settings_of(options: Any) -> "Settings":
    """The command line's, checked.

    Raises:
        UserError: a value that makes no sense.
    """
    from lightning_cifake.serve.settings import TOKEN_VARIABLE, Limits, Settings, check_token, read_token

    if not 0 <= options.port <= 65535:
        raise UserError(f"--port: expected 0 to 65535, got {options.port}")
    for name in ("body_seconds", "answer_seconds", "drain_seconds"):
        least = 0 if name == "drain_seconds" else 0.001
        if not least <= options[name] <= 86400:
            raise UserError(f"--{name}: expected {least:g} to 86400 seconds, got {options[name]:g}")
    for name in options.allowed_hosts:
        if not name or (any(sign in name for sign in "/:@ ") and not name.startswith("[")):
            raise UserError(
                f"--allowed_hosts: expected a name without a port, as photos.example.org, got {printable(name)}"
            )
    token = None
    if options.token_file is not None:
        token = read_token(expand_user(options.token_file))
    elif TOKEN_VARIABLE in os.environ:
        token = check_token(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
    limits = Limits(
        body_bytes=options.max_body * MIB,
        files=options.max_files,
        pixels=options.max_megapixels * 1_000_000,
        queue=options.queue,
        memory_bytes=max(options.max_memory, options.max_body) * MIB,
        connections=options.max_connections,
        body_seconds=options.body_seconds,
        answer_seconds=options.answer_seconds,
        drain_seconds=options.drain_seconds,
        batch=options.batch_size,
    )
    return Settings(
        options.model,
        options.host,
        options.port,
        token,
        options.allowed_hosts,
        check_options(options.uncertain, flag="--"),
        options.threads,
        options.log,
        limits,
    )
