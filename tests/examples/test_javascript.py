"""The example in JavaScript gives the probabilities that Python gives: preprocessing travels with the model."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.deploy.manifest import manifest_path
from lightning_cifake.shipped import released_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript"
PROBABILITY = 2e-6  # float32 through many convolutions, printed with six decimals


@pytest.fixture(scope="module")
def installed(module_folder: Callable[[str], Path]) -> Path:
    """A copy of the example with its packages."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    folder = module_folder("javascript")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install did not end within three minutes")
    if done.returncode:
        pytest.skip(f"npm install failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return folder


@pytest.fixture(scope="module")
def model(installed: Path) -> Path:
    """A released one, with its manifest."""
    released = released_model("compact-float32")
    for path in (released, manifest_path(released)):
        shutil.copy(path, (installed / "model").with_suffix(path.suffix))
    return installed / "model.onnx"


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        ["node", "detect.mjs", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, env=environment
    )


def test_the_same_files_give_the_same_probabilities(installed: Path, model: Path) -> None:
    rng = np.random.default_rng(0)
    names = []
    for number, (height, width, name) in enumerate(
        [
            (32, 32, "a.png"),
            (1, 1, "b.png"),
            (45, 31, "c.png"),
            (200, 300, "d.png"),
            (40, 32, "e.jpg"),
            (64, 48, "f.png"),
        ]
    ):
        low = np.array(rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), np.uint8))
        picture = Image.fromarray(low).resize((width, height))
        picture = picture.convert("L") if name == "f.png" else picture
        exif = Image.Exif()
        exif[0x0112] = 6  # a camera turned by a quarter
        picture.save(installed / name, **({"quality": 90, "exif": exif} if number == 4 else {}))
        names.append(name)
    said = run(installed, "model.onnx", *names)
    assert said.returncode == 0, said.stderr
    rows = [line.split("\t") for line in said.stdout.splitlines()]
    answers = Detector(model).predict([installed / name for name in names])
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == [answer.verdict for answer in answers]
    ours = [answer.prob_real for answer in answers]
    assert np.ptp(ours) > 0.01, "all alike would prove nothing"
    assert [float(row[2]) for row in rows] == pytest.approx(ours, abs=PROBABILITY)


def test_what_is_no_image_or_no_model_is_one_line(installed: Path, model: Path) -> None:
    (installed / "words.png").write_text("words")
    bad = run(installed, "model.onnx", "words.png")
    assert bad.returncode == 1 and bad.stdout.startswith("words.png\tERROR\t") and bad.stdout.count("\n") == 1
    missing = run(installed, "nowhere.onnx", "words.png")
    assert missing.returncode == 2 and missing.stderr.startswith("error: ") and missing.stderr.count("\n") == 1
    assert run(installed).returncode == 2
