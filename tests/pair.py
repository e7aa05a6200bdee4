"""Two processes that have Lightning imported and run commands together, as torchrun would start them.

``python tests/pair.py 0`` is one of them: it reads a JSON line a command, and answers with one.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 300  # seconds, on a busy machine too; a pair that waits for each other is killed


class Ran(NamedTuple):
    """What a command left in one of the processes."""

    code: int
    out: str
    err: str


class Pair:
    """Starts the two; :meth:`run` gives both a command, with the tiny network, and waits for both."""

    def __init__(self) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for number in range(2)
        ]

    def run(self, folder: Path, *arguments: str, call: str = "command", **environment: str) -> list[Ran]:
        """``call`` names a function of :mod:`pair_calls` instead of the command line."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            environment["MASTER_PORT"] = str(free.getsockname()[1])
        message = {"folder": str(folder), "arguments": arguments, "call": call, "environment": environment}
        watchdog = threading.Timer(TIMEOUT, self.close)
        watchdog.start()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self.processes]  # type: ignore[union-attr]
        watchdog.cancel()
        assert all(answers), "a process of the pair ended, or they waited for each other"
        return [Ran(*json.loads(answer)) for answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]


def serve(number: int) -> None:
    # as torchrun tells it
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GROUP_RANK": "0", "MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "pair", "OMP_NUM_THREADS": "1"}
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        message = json.loads(line)
        os.environ |= message["environment"]
        os.chdir(message["folder"])
        code = into_files(number, message["call"], message["arguments"])
        for name in message["environment"]:
            del os.environ[name]
        written = [Path(f"{name}{number}").read_text() for name in ("out", "err")]
        answers.write(json.dumps([code, *written]) + "\n")
        answers.flush()


def into_files(number: int, call: str, arguments: list[str]) -> int:
    """Runs a command with what it writes in out0, err0, out1 and err1."""
    import pair_calls

    for descriptor, name in ((1, "out"), (2, "err")):
        with Path(f"{name}{number}").open("w") as file:
            os.dup2(file.fileno(), descriptor)
    try:
        return getattr(pair_calls, call)(arguments)
    except SystemExit as exit:
        return int(exit.code or 0)
    except Exception:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
