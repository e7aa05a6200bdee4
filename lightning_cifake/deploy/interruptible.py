"""onnxruntime's run, which signals can stop: in the main thread Python obeys none until native code returns."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

STOP_SECONDS = 10.0  # for a run to end once it has been told to: it looks between two operators

_Task = tuple[Any, list[str], dict[str, Any], Any, "SimpleQueue[tuple[Any, BaseException | None]]"]
_workers: dict[int, "SimpleQueue[_Task]"] = {}  # by process: a forked child has no threads of its parent's


class Stoppable:
    """Runs of models in other threads, which the one that waits for them can stop."""

    def __init__(self) -> None:
        self._options: dict[int, Any] = {}  # of the runs that go on, by thread
        self._stopped = False

    @contextmanager
    def here(self) -> Iterator[None]:
        """Inside, what this thread runs can be stopped."""
        _stoppable.by = self
        try:
            yield
        finally:
            _stoppable.by = None

    def run(self, session: Any, outputs: list[str], inputs: dict[str, Any]) -> Any:
        options = self._options[threading.get_ident()] = _quiet_options()
        try:
            if self._stopped:  # asked once the options are where stop looks for them: no run begins behind it
                raise RuntimeError("stopped")
            return session.run(outputs, inputs, options)
        finally:
            del self._options[threading.get_ident()]

    def stop(self) -> None:
        """Ends all runs, and waits for that: no thread may be in native code where the process ends."""
        self._stopped = True
        for options in list(self._options.values()):
            options.terminate = True
        end = time.monotonic() + STOP_SECONDS
        while self._options and time.monotonic() < end:
            time.sleep(0.001)


_stoppable = threading.local()


def _quiet_options() -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    options.log_severity_level = 4  # a run that is stopped is no error to print
    return options


def run(session: Any, outputs: list[str], inputs: dict[str, Any]) -> Any:
    """``session.run``; Ctrl-C or SIGTERM end it, even where the model would never end, and what they raise comes out.

    In the main thread, where signals arrive, a thread of its own runs the model: some 20 microseconds a call. In any
    other thread this is a plain call, or one that a :class:`Stoppable` can stop.
    """
    if (by := getattr(_stoppable, "by", None)) is not None:
        return by.run(session, outputs, inputs)
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():  # when no thread runs any more
        return session.run(outputs, inputs)
    options = _quiet_options()
    reply: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    _worker().put((session, outputs, inputs, options, reply))
    try:
        found, error = reply.get()
    except BaseException:
        options.terminate = True
        with suppress(Empty):
            reply.get(timeout=STOP_SECONDS)
        raise
    if error is not None:
        raise error
    return found


def _worker() -> "SimpleQueue[_Task]":
    process = os.getpid()
    if process not in _workers:
        tasks: SimpleQueue[_Task] = SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), name="onnxruntime", daemon=True).start()
        _workers[process] = tasks
    return _workers[process]


def _serve(tasks: "SimpleQueue[_Task]") -> None:
    while True:
        session, outputs, inputs, options, reply = tasks.get()
        try:
            reply.put((session.run(outputs, inputs, options), None))
        except BaseException as error:
            reply.put((None, error))
        del session, inputs, reply  # nothing is held until the next call
