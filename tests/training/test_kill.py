"""A fit that is killed at random moments loses nothing and leaves nothing: kill.py, three times, fifty behind long."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.long)])
def test_killed_fits_lose_no_checkpoint_and_leave_no_temporary(kills: int, tmp_path: Path, warm: Any) -> None:
    arguments = ["--kills", str(kills), "--seed", "1"]
    (done,) = warm.together({"arguments": arguments, "folder": str(tmp_path), "call": "kill_fits", "timeout": 550.0})
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == kills and counts["in_training"] >= 1
    bad = ("lost", "unreadable", "went_back", "left", "at_the_end")
    assert {name: counts[name] for name in bad} == dict.fromkeys(bad, 0), counts
