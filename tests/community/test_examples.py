"""What the examples' pages work out follows from what was measured."""

import json
import re
from pathlib import Path

RAY = Path(__file__).resolve().parents[2] / "examples" / "ray"
BILLION = 10**9


def test_what_a_billion_images_would_take_follows_from_the_measurement() -> None:
    measured = json.loads((RAY / "measured.json").read_text())
    seconds = sum(measured["seconds_with_two_workers"]) / 2
    rate = measured["images"] / seconds / measured["cores"]
    page = (RAY / "README.md").read_text()
    said = dict(re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert said["images/s a core, Ray's start included"] == f"{rate:.0f}"
    assert said["core-hours"] == f"{BILLION / round(rate) / 3600:.0f}"
    assert said["read"].startswith(f"{measured['bytes_an_image_read'] * BILLION / 1e12:.1f} TB")
    assert said["written"].startswith(f"{measured['bytes_an_image_written'] * BILLION / 1e9:.1f} GB")
    assert said["the list"].startswith(f"{measured['bytes_an_image_of_the_list'] * BILLION / 1e9:.0f} GB")
