"""Standard streams that are missing, full, gone, or of another encoding never decide how a command ends."""

import os
import subprocess
import sys

import pytest

PYTHON = f"{sys.executable} -m lightning_cifake"


def shell(command: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command, shell=True, capture_output=True, timeout=60, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_command_works_without_its_streams(closed: str) -> None:
    assert shell(f"{PYTHON} --help {closed}").returncode == 0
    assert shell(f"{PYTHON} nosuch {closed}").returncode == 2


def test_a_missing_stream_s_number_is_never_a_file_of_ours() -> None:
    script = (
        "from lightning_cifake.console import prepare_streams; prepare_streams()\n"
        "import os; opened = os.open('/dev/null', os.O_RDONLY)\n"
        "import subprocess, sys; child = subprocess.run([sys.executable, '-c', 'print(1); import os; os.fstat(1)'])\n"
        "print(opened, child.returncode, file=sys.stderr)"
    )
    done = shell(f'{sys.executable} -c "{script}" >&-')
    number, code = done.stderr.split()
    assert int(number) > 2 and code == b"0", done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_a_full_disk_behind_standard_output_is_one_line(asked: str, unbuffered: str) -> None:
    done = shell(f"{PYTHON} {asked} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (2, b"error: cannot write to standard output: No space left on device\n")


def test_a_full_disk_behind_standard_error_changes_no_exit_code() -> None:
    assert shell(f"{PYTHON} nosuch 2> /dev/full").returncode == 2
    assert shell(f"{PYTHON} nosuch > /dev/full 2> /dev/full").returncode == 2


def test_a_reader_that_left_ends_it_quietly() -> None:
    done = shell(f"bash -c '{PYTHON} --help | true; exit ${{PIPESTATUS[0]}}'")
    assert done.returncode in (0, 141) and done.stderr == b""  # 0: all of it fitted before the reader left


def test_a_console_of_another_encoding_is_no_error() -> None:
    done = shell(f"{PYTHON} 中文", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and done.stderr.startswith(b"error: no such command: \\u4e2d\\u6587;")
