"""How many threads compute on a CPU, and how long they spin: all cores alone, what is left beside other processes.

OpenMP's threads meet a hundred times in a training step, and wait for each other by spinning. That is the fastest way
on a machine with nothing else to do, and the slowest beside another process: each thread that is kept from its core
holds all the others, which burn the time that the other process left. Measured figures are in docs/benchmark.
"""

import logging
import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from lightning_cifake.machine import allowed_cpus, cores

log = logging.getLogger(__name__)

SPIN_COUNT = 10_000  # turns of libgomp's loop, a third of a millisecond; its own 300,000 last longer than a time slice
_USERS_OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")

INTERVAL = 1.0  # seconds between two looks
BUSY = 0.3  # CPUs that our threads waited for; a quiet machine's housekeeping stays under 0.1
FREE = 0.7  # CPUs that nobody used
CALM = 3  # looks that must find a CPU free before a thread comes back
MOST_CALM = 60  # the same, for a machine that turned busy again each time


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps libgomp's threads from spinning longer than pays; for the time before torch is imported, which reads it.

    What the user has set stays. Processes started from here inherit it.
    """
    if not any(name in environment for name in _USERS_OWN):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def users_own(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether the user, or what started this process, has said how many threads compute."""
    return "OMP_NUM_THREADS" in environment


class ThreadGovernor:
    """Says how many threads should compute now; a thread gives way while others compute, and comes back after them.

    Our threads' own waiting tells that the machine is busy: the kernel counts the time that each could run and was
    not let. An idle CPU tells that the others have gone. Both are read from ``/proc`` once a second; where there is
    none, nothing ever changes.

    Args:
        most: threads on a quiet machine; all cores by default.
        clock: seconds.
        waited: CPU seconds that this process's threads have waited for a CPU so far; None where it is not known.
        idle: CPU seconds that the CPUs this process may use have been idle so far; None likewise.
    """

    def __init__(
        self,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        waited: "Callable[[], float | None] | None" = None,
        idle: "Callable[[], float | None] | None" = None,
    ) -> None:
        self.most = self.threads = most or cores()
        self._clock, self._waited, self._idle = clock, waited or waited_for_cpu, idle or idle_cpu
        self._calm, self._calm_needed = 0, CALM
        self._raised_at: float | None = None
        self._last = self._read()

    def _read(self) -> tuple[float, float | None, float | None]:
        return self._clock(), self._waited(), self._idle()

    def tick(self) -> bool:
        """Looks, at most once a second; whether :attr:`threads` has changed."""
        if self.most == 1 or self._clock() - self._last[0] < INTERVAL:
            return False
        before, self._last = self._last, self._read()
        seconds = self._last[0] - before[0]
        waited, idle = (
            None if new is None or old is None else (new - old) / seconds
            for new, old in zip(self._last[1:], before[1:], strict=True)
        )
        was = self.threads
        if waited is None or idle is None:
            return False
        if self.threads > 1 and waited > BUSY:
            self.threads = max(1, self.threads - max(1, round(waited)))
            self._calm = 0
            if self._raised_at is not None and self._last[0] - self._raised_at < 10 * INTERVAL:
                self._calm_needed = min(2 * self._calm_needed, MOST_CALM)  # it was no quiet, only a pause
        elif self.threads < self.most and idle > FREE:
            self._calm += 1
            if self._calm >= self._calm_needed:
                self.threads = min(self.most, self.threads + max(1, int(idle)))
                self._calm, self._raised_at = 0, self._last[0]
        else:
            self._calm = 0
            lasting = self._raised_at is not None and self._last[0] - self._raised_at > 60 * INTERVAL
            if lasting and self.threads == self.most:
                self._calm_needed, self._raised_at = CALM, None
        return self.threads != was


def waited_for_cpu() -> float | None:
    """Seconds, summed over this process's threads that live now, spent ready to run and not let; None if not known."""
    total = 0
    try:
        for task in os.scandir("/proc/self/task"):
            try:
                total += int(Path(task.path, "schedstat").read_text().split()[1])
            except FileNotFoundError:  # a thread that ended meanwhile
                continue
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def idle_cpu() -> float | None:
    """Seconds, summed over the CPUs that this process may use, in which they had nothing to do; None if not known."""
    allowed = allowed_cpus()
    try:
        total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *counts = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in allowed:
                total += int(counts[3])
        return total / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
