"""A process that has torch and Lightning imported: each command runs in a child forked from it, which begins at once.

``python tests/warm.py`` is that process: it reads a JSON line a command, and answers with one. A command has a process
of its own, with its own environment, folder and streams, as if a shell had started ``tests/tiny.py``; what it does not
have is seconds of imports before it.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

TIMEOUT = 300.0  # seconds; a command that hangs is killed


class Warm:
    """Starts the process; :meth:`run` gives it a command and waits for the end."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        *arguments: str,
        folder: Path,
        environment: dict[str, str] | None = None,
        out: str = "",
        send: tuple[int, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> "subprocess.CompletedProcess[str]":
        """``environment``: all of it, this process's where there is none; ``out``: a file for standard output;
        ``send``: a signal that the process sends itself where it comes to a function, (15, "module:Class.method").
        """
        asked = {"folder": str(folder), "environment": environment, "out": out, "send": send, "timeout": timeout}
        return self.together({"arguments": arguments, **asked})[0]

    def together(self, *messages: dict[str, Any]) -> "list[subprocess.CompletedProcess[str]]":
        """Commands that run at the same time: of each its ``arguments``, its ``folder`` and what :meth:`run` takes,
        or a ``call``, a function of :mod:`pair_calls`; waits for all of them.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as streams:
            whole = []
            for number, message in enumerate(messages):
                files = [message.get("out") or f"{streams}/out{number}", f"{streams}/err{number}"]
                environment = message.get("environment") or dict(os.environ)
                usual = {"call": None, "send": None, "timeout": TIMEOUT}
                whole.append({**usual, **message, "environment": environment, "streams": files})
            self.process.stdin.write(json.dumps(whole) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, "the process that forks the commands has ended"
            ran = []
            for message, code in zip(whole, json.loads(answer), strict=True):
                said, err = (path.read_text() if path.is_file() else "" for path in map(Path, message["streams"]))
                ran.append(subprocess.CompletedProcess(["lightning-cifake", *message["arguments"]], code, said, err))
        return ran

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve() -> None:
    import warnings

    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
    # the first ones: what a fit's parser and its report import late
    import attrs  # noqa: F401
    import jinja2  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import tiny  # noqa: F401
    from shortcuts import blank_pictures

    import lightning_cifake.commands.lightning_cli  # noqa: F401

    # what was imported is left alone by the collections of the children, whose pages they would copy
    gc.collect()
    gc.freeze()
    with blank_pictures():
        answer()


def answer() -> None:
    """Forks the commands of each line that comes, and says how they ended."""
    for line in sys.stdin:
        children = []
        for message in json.loads(line):  # all are forked before there is a thread
            children.append((os.fork(), message["timeout"]))
            if not children[-1][0]:
                work(message)
        watchdogs = [threading.Timer(seconds, os.kill, (child, signal.SIGKILL)) for child, seconds in children]
        for watchdog in watchdogs:
            watchdog.start()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
        for watchdog in watchdogs:
            watchdog.cancel()
            watchdog.join()
        print(json.dumps(codes), flush=True)


def work(message: dict) -> NoReturn:
    """The child runs the command and ends."""
    import tiny

    code = 1
    try:
        become(message)
        with sends(*message["send"]) if message["send"] else nullcontext():
            if message["call"]:
                import pair_calls

                code = getattr(pair_calls, message["call"])(message["arguments"])
            else:
                code = tiny.run(message["arguments"])
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def sends(number: int, place: str) -> Any:
    """A patch of the function at that place, which sends this process the signal first."""
    target, _, name = place.rpartition(".")
    module, _, owner = target.partition(":")
    found = getattr(sys.modules[module], owner) if owner else sys.modules[module]
    original = getattr(found, name)

    def function(*given: Any, **named: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*given, **named)

    return patch.object(found, name, function)


def become(message: dict) -> None:
    """The child takes the command's environment, folder and streams; it is told of Ctrl-C as in a terminal."""
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    sys.argv = [str(Path(__file__).with_name("tiny.py")), *message["arguments"]]  # what Lightning starts once more
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = int(os.environ.get("RANK", 0))  # as its import would have found it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(message["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout.reconfigure(encoding=encoding)  # type: ignore[union-attr]
        sys.stderr.reconfigure(encoding=encoding)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


if __name__ == "__main__":
    serve()
