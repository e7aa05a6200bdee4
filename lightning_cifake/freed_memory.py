"""What the C library does with memory that is freed: a training frees and asks for the same blocks at each step."""

import ctypes
import os
from collections.abc import Mapping

# of malloc.h; glibc's alone
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keeps what is freed for the next step, where glibc would give it back to the system.

    Large blocks come from the system page by page, each filled with zeros at its first touch; for a small network that
    costs as much as its arithmetic (docs/benchmark/road.md). The process then holds what it needed at most until it
    ends. What the user has set by ``MALLOC_...`` stays.

    Returns:
        Whether it is so; elsewhere than on glibc nothing is changed.
    """
    if any(name.startswith("MALLOC_") for name in environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function, or no such library: musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))  # -1: never
