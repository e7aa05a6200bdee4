"""Loads `serve` on this machine and measures it beside `Detector` alone: images/s, waiting, memory, and refusals.

python docs/serve/load.py                                  a few minutes; writes docs/serve/load.json
python docs/serve/load.py --seconds 5 --requests 2000      a try
python docs/serve/load.py -- --threads 1                   what stands behind -- goes to serve

The server and its clients are processes of this machine that share its cores; so the rate is what both reach together.
Clients ask over connections that stay open, each its next request when the last was answered.
"""

import argparse
import asyncio
import io
import re
import subprocess
import sys
import time
from collections import Counter
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


class Client:
    """Asks until it is over, and notes the status and the seconds of each request."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port, self.requests = port, requests
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []

    async def run(self, until: float, most: int | None = None) -> None:
        reader = writer = None
        asked = 0
        while time.perf_counter() < until and (most is None or asked < most):
            request = self.requests[asked % len(self.requests)]
            asked += 1
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                start = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
                status = head.split()[1].decode()
                self.statuses[status] += 1
                if status == "200":
                    self.seconds.append(time.perf_counter() - start)
                if b"connection: close" in head:
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError):
                self.statuses["connection lost"] += 1
                if writer is not None:
                    writer.close()
                writer = None
            if status != "200":
                await asyncio.sleep(0.1)
        if writer is not None:
            writer.close()


def load(port: int, files: list[bytes], each: int, clients: int, seconds: float, most: int | None = None) -> Any:
    """So many clients for so long, or until each has asked so often."""
    groups = [files[at : at + each] for at in range(0, len(files) - each + 1, each)]
    requests = [request_of(group, port) for group in groups]

    async def run() -> tuple[list[Client], float]:
        made = [Client(port, requests[at % len(requests) :] + requests[: at % len(requests)]) for at in range(clients)]
        start = time.perf_counter()
        await asyncio.gather(*(client.run(start + seconds, most) for client in made))
        return made, time.perf_counter() - start

    made, took = asyncio.run(run())
    statuses = sum((client.statuses for client in made), Counter())
    waited = np.sort(np.concatenate([np.array(client.seconds) for client in made]))
    row: dict[str, Any] = {
        "images_a_request": each,
        "clients": clients,
        "seconds": round(took, 2),
        "statuses": dict(sorted(statuses.items())),
        "images_per_second": round(len(waited) * each / took, 1),
    }
    if len(waited):
        row |= {f"p{q}_ms": round(1000 * float(np.percentile(waited, q)), 1) for q in (50, 95, 99)}
    return row


def memory(pid: int) -> float:
    """MiB that a process holds now."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def alone(files: list[bytes], seconds: float) -> float:
    """Images/s of `Detector` in this process, as a Python program would ask it."""
    detector, done, start = Detector(), 0, time.perf_counter()
    detector.predict(files)
    start = time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        done += len(detector.predict(files))
    return round(done / took, 1)


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
    files = pictures(1024)
    before = alone(files, min(options.seconds, 20))
    command = ["-m", "lightning_cifake", "serve", "--port", "0", "--log", "none", "--queue", "8192", *options.serve]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as server:
        port = int(re.search(r":(\d+) ", server.stderr.readline())[1])
        record: dict[str, Any] = {
            "what": "serve under load on one machine, loopback: the clients' work included",
            "command": ["python", *command],
            "started_in_seconds": round(time.perf_counter() - start, 2),
            "detector_alone_images_per_second": before,
            "loads": [],
        }
        for each in SIZES:
            row = load(port, files, each, options.clients, options.seconds)
            row["share_of_detector"] = round(row["images_per_second"] / before, 3)
            record["loads"].append(row)
            print(row, flush=True)
        first = memory(server.pid)
        steps = [round(first, 1)]
        for _ in range(5):
            load(port, files, 1, options.clients, 1e9, options.requests // 5 // options.clients)
            steps.append(round(memory(server.pid), 1))
        record["memory_mib_while_requests_pass"] = {"requests": options.requests, "after_each_fifth": steps}
        print(record["memory_mib_while_requests_pass"], flush=True)
        record["past_the_limit"] = load(port, files, FLOOD, 2 * options.clients, min(options.seconds, 20))
        print(record["past_the_limit"], flush=True)
        after = load(port, files, 1, 1, 1e9, 20)["statuses"]
        assert after == {"200": 20}, f"it does not answer any more as it did: {after}"
        server.terminate()
        server.stderr.read()
    record["exit_code_after_sigterm"] = server.returncode
    record["detector_alone_again_images_per_second"] = alone(files, min(options.seconds, 20))
    record |= environment_info()
    write_whole(options.output, sealed_json(record))
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
