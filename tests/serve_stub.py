"""A server that speaks as ``serve`` does, and fails when told to. It answers by brightness: ``made.brightness_model``.

Its page is the real one; what stands behind it knows nothing of the package, so that a test can say what comes.
"""

import base64
import email
import io
import json
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

STATIC = Path(__file__).parents[1] / "lightning_cifake" / "serve" / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MODEL = {
    "name": "brightness",
    "file": "brightness.onnx",
    "sha256": "0" * 64,
    "image_size": 32,
    "threshold": 0.5,
    "temperature": 0.8,
    "calibration": {"method": "temperature", "images": None, "data": None, "rule": None, "error": None},
    "unsure": [0.3, 0.7],
    "larger": ["resize", "crop", "tiles"],
    "limits": {"files": 64, "file_bytes": 2**20, "body_bytes": 2**24},
    "figures": {"accuracy": 0.985, "auroc": 0.9987, "images": 20000, "data": "made"},
    "trained_on": None,
    "card": "<h1>Its card</h1><p onclick='alert(1)'>Words <script>document.title = 'taken'</script></p>"
    f"<pre>{'wide ' * 100}</pre>",
}


def answer_of(name: str, content: bytes, larger: str = "resize") -> dict[str, Any]:
    """As ``predict --json``: P(REAL) is how bright the picture is."""
    answer: dict[str, Any] = {"path": name, "verdict": None, "prob_real": None, "error": None, "warning": None}
    try:
        image = Image.open(io.BytesIO(content)).convert("L")
    except OSError:
        return {**answer, "error": "not an image, or of a format that is not read here"}
    prob = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) / 255  # type: ignore[operator]
    verdict = "UNCERTAIN" if 0.3 <= prob <= 0.7 else "REAL" if prob > 0.5 else "AI"
    what = {"resize": "scaled down", "crop": "its middle alone is looked at", "tiles": "16 tiles of that size vote"}
    warning = None
    if image.size != (32, 32):
        warning = f"{image.width}x{image.height}, trained on 32x32: {what[larger]}"
    return {**answer, "verdict": verdict, "prob_real": prob, "warning": warning}


class Stub:
    """What a test tells it, and what it was asked.

    Attributes:
        fails: (status, headers) of the next requests about pictures, in order; when it is empty, they are answered.
        token: what must come as the bearer token, if anything.
        asked: the file names of each request about pictures.
        delay: answers about pictures wait while it is not set.
        most_at_once: requests about pictures that ran beside each other.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.fails: list[tuple[int, dict[str, str]]] = []
        self.token: str | None = None
        self.asked: list[list[str]] = []
        self.delay = threading.Event()
        self.delay.set()
        self.at_once = self.most_at_once = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        extra = {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Security-Policy": CSP}
        for name, value in {**extra, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def json(self, status: int, found: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(found).encode(), "application/json", headers)

    def refused(self) -> bool:
        wanted = self.stub.token
        if wanted is None or self.headers.get("Authorization") == f"Bearer {wanted}":
            return False
        self.json(401, {"error": "expected a bearer token"})
        return True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/v1/model":
            if not self.refused():
                self.json(200, MODEL)
            return
        file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
        if not file.is_file():
            self.json(404, {"error": "no such page"})
            return
        kind = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0] or ""
        self.reply(200, file.read_bytes(), kind)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        files = [
            (part.get_filename() or "", part.get_payload(decode=True))
            for part in email.message_from_bytes(head + body).walk()
            if part.get_content_disposition() == "form-data"
        ]
        with self.stub.lock:
            self.stub.asked.append([name for name, _ in files])
            fails = self.stub.fails.pop(0) if self.stub.fails else None
            self.stub.at_once += 1
            self.stub.most_at_once = max(self.stub.most_at_once, self.stub.at_once)
        self.stub.delay.wait(20)
        with self.stub.lock:
            self.stub.at_once -= 1
        if fails is not None:
            self.json(fails[0], {"error": "as the test said"}, fails[1])
        elif self.path.startswith("/v1/explain"):
            picture = "data:image/png;base64," + base64.b64encode(files[0][1]).decode()
            self.json(200, {"answer": answer_of(*files[0]), "view": picture, "overlay": picture})
        else:
            larger = self.path.partition("larger=")[2] or "resize"
            self.json(200, {"model": "brightness", "answers": [answer_of(*each, larger) for each in files]})


@contextmanager
def serving(stub: Stub, port: int = 0) -> Iterator[str]:
    """Its address, while it answers; the port is free again afterwards."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
