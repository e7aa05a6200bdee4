"""fit with streams that are full, closed or of another encoding; the system's errors are told as what they are."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_cifake.training.refusals import of_the_system

TINY = Path(__file__).parent.parent / "tiny.py"
FIT = ("fit --data.sample 128 --data.batch_size 16 --trainer.max_epochs 2 --trainer.accelerator cpu "
       "--trainer.precision 32-true --trainer.logger false")  # fmt: skip


def shell(folder: Path, arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        f"'{sys.executable}' '{TINY}' {arguments}",
        shell=True,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
        check=False,
    )


def test_a_full_disk_behind_standard_output_ends_a_fit_in_one_line(workplace: Path, warm: Any) -> None:
    done = warm.run(*FIT.split(), "--output_dir", "run", folder=workplace, out="/dev/full")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, errors) == (2, ["error: cannot write to standard output: No space left on device"])
    assert "Traceback" not in done.stderr
    assert (workplace / "run" / "last.ckpt").is_file()  # what it had trained is kept


def test_a_fit_needs_no_streams_and_no_utf8(workplace: Path, warm: Any) -> None:
    assert shell(workplace, f"{FIT} --output_dir bare >&- 2>&- <&-").returncode == 0
    assert (workplace / "bare" / "metrics.json").is_file()
    arguments = ("test", "--ckpt_path", "bare/best.ckpt", "--output_dir", "中文\x1b[31m")
    done = warm.run(*arguments, folder=workplace, environment={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "written to \\u4e2d\\u6587" in done.stdout and "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write the results: No space left on device: runs/1"),
        (
            OSError(errno.EACCES, "Permission denied", "runs/1/config.yaml"),
            "cannot write the results: Permission denied: runs/1/config.yaml",
        ),
        (OSError(errno.ENOTDIR, "Not a directory", "runs"), "cannot write the results: Not a directory: runs"),
        # none of the disk's, or not of the results
        (OSError(errno.EACCES, "Permission denied", "data/REAL/1.jpg"), "Permission denied: data/REAL/1.jpg"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.EMFILE, "Too many open files", "data/\x1b.jpg"), "Too many open files: data/\\x1b.jpg"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
    ],
)
def test_the_disk_is_blamed_for_what_the_disk_did(error: OSError, says: str) -> None:
    assert of_the_system(error, Path("runs/1")) == says
