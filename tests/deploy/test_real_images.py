"""The images that an export is compared on: those of the run, as the run was given them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy.real_images import real_images
from lightning_cifake.errors import UserError


@pytest.fixture
def others(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ai/ and nature/ in the home folder."""
    monkeypatch.setenv("HOME", str(workplace))
    rng = np.random.default_rng(0)
    for label in ("ai", "nature"):
        (workplace / "others" / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(workplace / "others" / label / f"{number}.png")
    return workplace / "others"


def test_a_runs_class_folders_and_home_are_those_it_was_given(others: Path, workplace: Path) -> None:
    run = workplace / "run"
    run.mkdir()
    data: dict[str, Any] = {"root": "~/others", "classes": "fake=ai,real=nature"}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    images = load_images("~/others", classes=data["classes"])
    split = make_split(images, "clean")
    write_split(run / "split.json", images, split)
    found = real_images(run / "best.ckpt", None, 32)
    assert found.of_run and found.images.digest == images.digest and np.array_equal(found.split.test, split.test)


def test_images_that_are_named_are_read_by_their_own_class_folders(others: Path, workplace: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.classes fake=ai,real=nature"):
        real_images(workplace / "best.ckpt", str(others), 32)
    assert len(real_images(workplace / "best.ckpt", str(others), 32, "fake=ai,real=nature").images) == 60
