"""What large photographs cost: one at a time, whatever the batch, and nothing of them is kept."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.machine import peak_memory
from lightning_cifake.shipped import released_model

RELEASED = released_model()
MODELS = {
    "Detector": f"from lightning_cifake import Detector\nmodel = Detector({str(RELEASED)!r})",
    "checkpoint": (
        "from lightning_cifake.deploy.predict import ClassifierModel\n"
        "from lightning_cifake.training.classifier import FakeImageClassifier\n"
        "model = ClassifierModel(FakeImageClassifier())"
    ),
}
SCRIPT = """
import sys
import numpy as np
from lightning_cifake.deploy.stream import stream
from lightning_cifake.machine import peak_memory
{model}
list(stream(model, np.zeros((32, 32, 3), np.uint8)))
before = peak_memory()
answers = list(stream(model, sys.argv[1:], batch_size=32, threads=2))
assert all(answer.verdict for answer in answers), answers
print(peak_memory() - before)
"""


def growth(model: str, *images: Path) -> float:
    """MiB that a process's peak grows by, with the model loaded, when it is asked about images."""
    command = [sys.executable, "-c", SCRIPT.format(model=MODELS[model]), *map(str, images)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def photograph(path: Path, width: int, height: int) -> Path:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    small.resize((width, height), Image.Resampling.BILINEAR).save(path, quality=60)
    return path


pytestmark = pytest.mark.skipif(
    peak_memory() is None or not sys.platform.startswith("linux"), reason="no VmHWM on this system"
)


# Pillow holds four bytes a pixel: 122 MiB of 32 megapixels, of which two would be decoded at once without a bound
def test_large_photographs_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", 8000, 4400)
    assert growth("Detector", *[path] * 6) < 134 + 48  # eight files of 8000 x 8000 took 2 GB


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_eight_photographs_of_64_megapixels_cost_one_and_a_phones_108_are_answered(tmp_path: Path, model: str) -> None:
    assert growth(model, *[photograph(tmp_path / "a.jpg", 8000, 8000)] * 8) < 244 + 64
    assert growth(model, photograph(tmp_path / "phone.jpg", 12000, 9000)) < 412 + 64
