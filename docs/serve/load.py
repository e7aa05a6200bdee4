"""Loads `serve` on this machine beside `Detector` alone: images/s, waiting, memory, refusals, stops under load.

python docs/serve/load.py                                  some ten minutes; writes docs/serve/load.json
python docs/serve/load.py --seconds 5 --requests 2000 --output try.json     a try
python docs/serve/load.py -- --threads 1                   what stands behind -- goes to serve

The server and its clients are processes of this machine that share its cores; so the rate is what both reach together.
The processor's milliseconds an image are the server's alone; beside them Detector's, and the clients' for a request.
Clients ask over connections that stay open, each its next request when the last was answered. What ends without an
answer and without an error is counted as "no answer": there is to be none.
"""

import argparse
import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.deploy.manifest import environment_info
from lightning_cifake.files import sealed_json, write_whole

OUTPUT = Path(__file__).with_suffix(".json")
SIZES = (1, 8, 32)  # images in a request
FLOOD = 64  # images in a request of the clients that ask for more than there is room for
WANTED = 0.7  # of what Detector alone reaches
ANSWER_SECONDS = 60  # twice what serve gives itself for an answer
PAUSE_SECONDS = 0.1  # of a client that was refused, or lost its connection
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: close", re.IGNORECASE)


def pictures(count: int) -> list[bytes]:
    """JPEG files of 32x32, about as large as CIFAKE's: smooth noise."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        coarse.save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def request_of(files: list[bytes], port: int) -> bytes:
    """One POST of several files."""
    parts = b"".join(
        b'--a\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n\r\n%s\r\n' % each
        for each in enumerate(files)
    )
    body = parts + b"--a--\r\n"
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: multipart/form-data; boundary=a\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.Protocol):
    """Asks until it is over, and notes the status and the seconds of each request.

    A protocol, not a pair of streams: it shares its cores with the server, and what it costs is taken from that.
    """

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port, self.requests = port, requests
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.refused_seconds: list[float] = []
        self._asked, self._waits, self._answer, self._sent = 0, False, b"", 0.0

    async def run(self, until: float, most: int | None = None) -> None:
        """Over connections that stay open, one after the other where one is lost."""
        loop = asyncio.get_running_loop()
        self._until, self._most = until, most
        while self._goes_on():
            self._over = loop.create_future()
            try:
                transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError:
                self._asked += 1
                self.statuses["not connected"] += 1
            else:
                while not (await asyncio.wait([self._over], timeout=1))[0]:
                    if self._waits and time.perf_counter() - self._sent > ANSWER_SECONDS:
                        self._waits = False
                        self.statuses["no answer"] += 1
                        transport.abort()
            if self._goes_on():
                await asyncio.sleep(PAUSE_SECONDS)

    def _goes_on(self) -> bool:
        return time.perf_counter() < self._until and (self._most is None or self._asked < self._most)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if not self._goes_on() or self._transport.is_closing():
            self._transport.close()
            return
        request = self.requests[self._asked % len(self.requests)]
        self._asked += 1
        self._waits, self._answer, self._sent = True, b"", time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, ended, body = self._answer.partition(b"\r\n\r\n")
        if not ended or not self._waits or len(body) < int(LENGTH.search(head)[1]):
            return
        took, self._waits = time.perf_counter() - self._sent, False
        status = head[9:12].decode()
        self.statuses[status] += 1
        if status == "200":
            self.seconds.append(took)
        elif status == "429":
            self.refused_seconds.append(took)
        if CLOSE.search(head):
            self._transport.close()
        elif status == "200":
            self._ask()
        else:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._ask)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits:
            self._waits = False
            self.statuses["connection lost"] += 1
        self._over.set_result(None)


def load(
    port: int, files: list[bytes], each: int, clients: int, seconds: float, most: int | None = None, halfway: Any = None
) -> dict[str, Any]:
    """So many clients for so long, or until each has asked so often; ``halfway`` is called in a thread."""
    groups = [files[at : at + each] for at in range(0, len(files) - each + 1, each)]
    requests = [request_of(group, port) for group in groups]

    async def run() -> tuple[list[Client], float]:
        made = [Client(port, requests[at % len(requests) :] + requests[: at % len(requests)]) for at in range(clients)]
        start = time.perf_counter()
        running = [asyncio.create_task(client.run(start + seconds, most)) for client in made]
        if halfway is not None:
            await asyncio.sleep(seconds / 2)
            await asyncio.to_thread(halfway)
        await asyncio.gather(*running)
        return made, time.perf_counter() - start

    busy = time.process_time()
    made, took = asyncio.run(run())
    busy = time.process_time() - busy
    statuses = sum((client.statuses for client in made), Counter())
    waited = np.concatenate([np.array(client.seconds) for client in made])
    refused = np.concatenate([np.array(client.refused_seconds) for client in made])
    row: dict[str, Any] = {
        "images_a_request": each,
        "clients": clients,
        "seconds": round(took, 2),
        "statuses": dict(sorted(statuses.items())),
        "images_per_second": round(len(waited) * each / took, 1),
        "clients_processor_ms_a_request": round(1000 * busy / max(1, len(waited) + len(refused)), 3),
    }
    for name, found in (("p{}_ms", waited), ("refused_p{}_ms", refused)):
        if len(found):
            row |= {name.format(q): round(1000 * float(np.percentile(found, q)), 1) for q in (50, 95, 99)}
    return row


class Server:
    """``serve`` in a process of its own, which can be stopped and started again at its port."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments, self.port = arguments, 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def command(self) -> list[str]:
        settings = ["--port", str(self.port), "--log", "none", "--queue", "8192"]
        return ["-m", "lightning_cifake", "serve", *settings, *self.arguments]

    def start(self) -> float:
        """Returns when it listens; the seconds that it took."""
        start = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, *self.command], stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        if (found := re.search(r" answers at \S+:(\d+) ", line)) is None:
            raise SystemExit(f"serve did not start: {line}")
        self.port = int(found[1])
        return round(time.perf_counter() - start, 2)

    def stop(self, number: int) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(120)
        self.process.stderr.close()
        return code

    def restart(self, number: int) -> None:
        self.stop(number)
        self.start()

    def processor_seconds(self) -> float:
        """That it has taken so far, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


@contextmanager
def serving(arguments: list[str]) -> Iterator[Server]:
    """One that is not started yet; none is left behind."""
    server = Server(arguments)
    try:
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()


def memory(pid: int) -> float:
    """MiB that a process holds now."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def alone(files: list[bytes], seconds: float) -> tuple[float, float]:
    """Images/s of `Detector` in this process, as a Python program would ask it, and processor milliseconds an image."""
    detector, done = Detector(), 0
    detector.predict(files)
    start, busy = time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - start) < seconds:
        done += len(detector.predict(files))
    return round(done / took, 1), round(1000 * (time.process_time() - busy) / done, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default: %(default)g)")
    parser.add_argument("--clients", type=int, default=200, help="at once (default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=100_000, help="in which memory is watched (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json")
    parser.add_argument("serve", nargs="*", help="further arguments of serve, behind --")
    options = parser.parse_args()
    files, clients = pictures(1024), options.clients
    short = min(options.seconds, 20)
    before, cost = alone(files, short)
    with serving(options.serve) as server:
        record: dict[str, Any] = {
            "what": "serve under load on one machine, loopback: the clients' work included",
            "command": ["python", "docs/serve/load.py", *sys.argv[1:]],
            "serve": ["python", *server.command],
            "started_in_seconds": server.start(),
            "started_in_processor_seconds": server.processor_seconds(),
            "detector_alone_images_per_second": before,
            "detector_alone_processor_ms_an_image": cost,
            "loads": [],
        }
        for each in SIZES:
            busy = server.processor_seconds()
            row = load(server.port, files, each, clients, options.seconds)
            spent = 1000 * (server.processor_seconds() - busy) / max(1, row["statuses"].get("200", 0) * each)
            row |= {
                "share_of_detector": round(row["images_per_second"] / before, 3),
                "server_processor_ms_an_image": round(spent, 3),
            }
            record["loads"].append(shown(row))
        record["memory"] = shown(watched(server, files, clients, options.requests))
        record["past_the_limit"] = shown(load(server.port, files, FLOOD, 2 * clients, short))
        after = load(server.port, files, 1, 1, 1e9, 20)["statuses"]
        if after != {"200": 20}:
            raise SystemExit(f"it does not answer any more as it did: {after}")
        for name, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
            row = load(server.port, files, 1, clients, short, halfway=partial(server.restart, number))
            record[f"{name}_and_started_again_under_load"] = shown(row)
        record["exit_code_after_sigterm"] = server.stop(signal.SIGTERM)
    record["detector_alone_again_images_per_second"] = alone(files, short)[0]
    record |= environment_info()
    write_whole(options.output, sealed_json(record))
    shares = ", ".join(f"{row['share_of_detector']:.0%} with {row['images_a_request']}" for row in record["loads"])
    print(f"of Detector alone, by images a request: {shares} (wanted: {WANTED:.0%})\nwritten to {options.output}")


def watched(server: Server, files: list[bytes], clients: int, requests: int) -> dict[str, Any]:
    """Its memory, before and after each fifth of so many requests."""
    steps = [memory(server.process.pid)]
    statuses: Counter[str] = Counter()
    for _ in range(5):
        statuses.update(load(server.port, files, 1, clients, 1e9, -(-requests // 5 // clients))["statuses"])
        steps.append(memory(server.process.pid))
    return {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "mib_before_and_after_each_fifth": [round(step, 1) for step in steps],
        "mib_grown_since_the_first_fifth": round(steps[-1] - steps[1], 1),
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
