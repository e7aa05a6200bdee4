"""Freed memory stays with the process, where the C library can be told so."""

import ctypes
import subprocess
import sys

import pytest

from lightning_cifake import freed_memory
from lightning_cifake.freed_memory import keep_freed_memory

CODE = """
import resource, sys
import numpy as np
from lightning_cifake.freed_memory import keep_freed_memory
kept = keep_freed_memory({}) if sys.argv[1] == "kept" else None
def step():
    np.ones(2**23)  # 64 MB, which nobody holds
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[str, int]:
    found = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stdout.split()
    return found[0], int(found[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_block_that_was_freed_is_had_again_without_a_page_from_the_system():
    kept, few = faults("kept")
    _, many = faults("as it is")
    assert kept == "True"
    assert few < 100
    assert many > 10 * max(few, 10)  # else the test shows nothing


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", None)  # is not asked
    assert keep_freed_memory({"MALLOC_TRIM_THRESHOLD_": "1"}) is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory({}) is False
