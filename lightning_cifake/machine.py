"""What this machine is: for counts of threads, and beside every figure that depends on it.

By hand: psutil knows no container's quota, and inference would need it for the rest.
"""

import errno
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# what the machine lacks, of whatever file was asked for: that file, its disk and its folder are not to blame
MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


def allowed_cpus() -> set[int]:
    """The numbers of the CPUs that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def cores() -> int:
    """The cores this process may use: fewer than the machine's where it is bound to some, or in a container's quota."""
    quota = _cpu_quota()
    allowed = len(allowed_cpus())
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


def _cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that this process's control groups (``docker run --cpus``) leave it; None without a limit.

    The smallest of the group's own and those above it: cgroup v2's ``cpu.max``, v1's ``cpu.cfs_quota_us``.
    """
    found = []
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        group = base / path.lstrip("/")
        # inside a container the path may be the host's, of which only the mount itself is seen
        for folder in (group, *group.parents):
            if base not in (folder, *folder.parents):
                break
            limit = _quota_of(folder)
            if limit is not None:
                found.append(limit)
    return min(found, default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def end_with_parent(parent: int) -> None:
    """Ends this process, a child made by :mod:`multiprocessing`, within about a second of its parent's end.

    However the parent ends, SIGKILL included: nobody is left then to tell its children, and one that waits for work, or
    for its results to be taken, would wait for ever.

    Args:
        parent: the parent's id, as the parent knows it.
    """
    import threading
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    handle = parent_process()

    def watch() -> None:
        # the id changes where children are given to another process; Windows keeps it, but there the handle tells
        while os.getppid() == parent:
            if handle is None:
                time.sleep(1)
            elif wait([handle.sentinel], timeout=1):
                break
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of the processes that Lightning, torchrun or SLURM has started together, or alone."""
    numbers = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # in the order that Lightning looks at them
    return next((environment[name] for name in numbers if name in environment), "0") == "0"


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory() -> float | None:
    """The most memory this process has held so far, in MiB (2**20 bytes); None where the system does not tell."""
    try:
        # not getrusage's: Linux lets a new process begin with the peak of the one that started it
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
