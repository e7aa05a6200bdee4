"""Threads give way while others compute and come back; libgomp's spinning is bounded unless the user says otherwise."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.cpu_threads import (
    BUSY,
    CALM,
    FREE,
    MOST_CALM,
    SPIN_COUNT,
    ThreadGovernor,
    bound_spinning,
    idle_cpu,
    waited_for_cpu,
)
from lightning_cifake.machine import _cpu_quota, cores


class Machine:
    """CPUs shared fairly by this process's threads and by others, a second at a time."""

    def __init__(self, cpus: int) -> None:
        self.cpus, self.now, self.waited, self.idle = cpus, 0.0, 0.0, 0.0

    def pass_second(self, threads: int, others: int) -> None:
        wanted = threads + others
        share = min(1.0, self.cpus / wanted) if wanted else 0.0
        self.now += 1.0
        self.waited += threads * (1 - share)
        self.idle += max(0.0, self.cpus - wanted)

    def governor(self) -> ThreadGovernor:
        return ThreadGovernor(self.cpus, lambda: self.now, lambda: self.waited, lambda: self.idle)


def run(machine: Machine, governor: ThreadGovernor, others: list[int]) -> list[int]:
    counts = []
    for busy in others:
        machine.pass_second(governor.threads, busy)
        governor.tick()
        counts.append(governor.threads)
    return counts


def test_alone_on_the_machine_all_cores_compute():
    machine = Machine(2)
    assert run(machine, machine.governor(), [0] * 100) == [2] * 100


def test_beside_one_process_on_two_cores_one_thread_computes_until_it_has_gone():
    machine = Machine(2)
    counts = run(machine, machine.governor(), [0] * 5 + [1] * 20 + [0] * 10)
    assert counts[:5] == [2] * 5
    assert counts[5:25] == [1] * 20, "after the first second"
    assert counts[25 : 25 + CALM - 1] == [1] * (CALM - 1)
    assert counts[25 + CALM :] == [2] * (10 - CALM)


def test_a_process_that_comes_and_goes_does_not_make_the_count_swing_for_ever():
    machine = Machine(2)
    counts = run(machine, machine.governor(), ([1] * 3 + [0] * 5) * 60)
    changes = sum(a != b for a, b in pairwise(counts))
    late = counts[len(counts) // 2 :]
    assert changes < 20
    assert sum(a != b for a, b in pairwise(late)) <= 2


@given(st.integers(2, 16), st.lists(st.integers(0, 20), min_size=1, max_size=200))
def test_the_count_stays_between_one_and_all_cores(cpus, others):
    machine = Machine(cpus)
    assert all(1 <= count <= cpus for count in run(machine, machine.governor(), others))


@given(st.integers(2, 16), st.integers(0, 20), st.integers(0, 20))
def test_under_a_steady_load_it_settles_on_what_the_others_leave(cpus, before, others):
    machine = Machine(cpus)
    governor = machine.governor()
    run(machine, governor, [before] * 20)
    counts = run(machine, governor, [others] * (MOST_CALM + 200))
    left = max(1, cpus - others)
    assert counts[-1] == pytest.approx(left, abs=max(1, cpus // 4)), "a thread either way costs little"
    assert len(set(counts[-50:])) == 1


def test_where_the_system_tells_nothing_nothing_changes():
    governor = ThreadGovernor(4, iter(range(100)).__next__, lambda: None, lambda: None)
    assert not any(governor.tick() for _ in range(20))
    assert governor.threads == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_readings_are_those_of_this_machine():
    waited, idle = waited_for_cpu(), idle_cpu()
    assert waited is not None and waited >= 0
    assert idle is not None and idle > 0
    assert 0 < BUSY < FREE < 1


def test_spinning_is_bounded_before_torch_reads_it_and_a_user_s_own_setting_stays():
    environment: dict[str, str] = {}
    bound_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        own = {name: "7"}
        bound_spinning(own)
        assert own == {name: "7"}


def test_the_command_line_bounds_it_before_torch_is_there():
    code = (
        "import sys, os; from lightning_cifake.commands.main import main; main(['--help']); "
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP", "OMP", "KMP"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.splitlines()[-1] == f"{SPIN_COUNT} False"


@pytest.mark.parametrize(
    ("files", "groups", "quota"),
    [
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"a/cpu.max": "max 100000", "cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b\n", 2.0),
        ({"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/x\n0::/\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/not/seen/here\n", None),
        ({"cpu.max": "damaged"}, "0::/\nno colons\n", None),
        ({}, "", None),
    ],
)
def test_a_container_s_quota_is_read(tmp_path, files, groups, quota):
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    own = tmp_path / "own"
    own.write_text(groups)
    assert _cpu_quota(root, own) == quota


def test_cores_are_at_least_one():
    assert cores() >= 1
