"""What this machine is: for counts of threads, and beside every figure that depends on it."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path


def cores() -> int:
    """The cores this process may use: fewer than the machine's in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
