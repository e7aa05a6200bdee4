"""A fit that is killed at random moments loses nothing and leaves nothing: kill.py, three times, fifty behind long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILL = Path(__file__).with_name("kill.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.long)])
def test_killed_fits_lose_no_checkpoint_and_leave_no_temporary(kills: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KILL), "--kills", str(kills), "--seed", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == kills and counts["in_training"] >= 1
    bad = ("lost", "unreadable", "went_back", "left", "at_the_end")
    assert {name: counts[name] for name in bad} == dict.fromkeys(bad, 0), counts
