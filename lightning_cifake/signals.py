"""SIGTERM and Ctrl-C end a command through every ``finally``, with a message and an exit code that says so."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_SIGNAL_SECONDS = 0.5  # `timeout` and some supervisors send the same signal twice in a row


class EndedBySignal(SystemExit):
    """Raised where a signal met the command. Its exit code is 128 + the signal's number, as shells count.

    No KeyboardInterrupt: Lightning swallows that one, and exits with 1.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.note = ""
        """What the user wants to know beside: what had been done, how to continue."""

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}{self.note and ': '}{self.note}"


class Repeated:
    """Tells a signal that is sent again, to end at once, from one that is sent in duplicate."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, signum: int) -> bool:
        """To be called for every signal; True for another one than the first, or the first one well after it."""
        now = time.monotonic()
        if self._first is None:
            self._first = (signum, now)
            return False
        first, at = self._first
        return signum != first or now - at > ONE_SIGNAL_SECONDS


class Received:
    """The first signal received, if there was one: it may have been swallowed on its way up."""

    signum: int | None = None

    @property
    def ended(self) -> EndedBySignal | None:
        return None if self.signum is None else EndedBySignal(self.signum)


@contextmanager
def ending_on_signals() -> Iterator[Received]:
    """Inside, SIGTERM and SIGINT raise :class:`EndedBySignal` in the main thread; sent again, they kill at once.

    In another thread than the main one nothing changes. A signal that the process was started to ignore stays ignored.
    """
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    process, repeated = os.getpid(), Repeated()

    def handle(signum: int, frame: FrameType | None) -> None:
        again = repeated(signum)
        if os.getpid() != process or (received.signum is not None and again):  # in a forked child: the system's way
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif received.signum is None:
            received.signum = signum
            raise EndedBySignal(signum)

    before: dict[int, Any] = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
        yield received
    finally:
        for signum, handler in before.items():
            with suppress(TypeError, ValueError):  # a handler that was not Python's
                signal.signal(signum, handler)
