"""The README's picture shows what the released model says."""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from lightning_cifake.shipped import released_model

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_answers", PICTURES / "answers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_small_and_its_answers_are_recorded() -> None:
    record = json.loads((PICTURES / "answers.json").read_text())
    assert record["model"] == released_model().name
    assert [answer["class"] for answer in record["answers"]] == ["REAL"] * 6 + ["FAKE"] * 6
    assert (PICTURES / "answers.png").stat().st_size < 200_000


def test_the_released_model_says_what_the_picture_shows() -> None:
    archive = os.environ.get("CIFAKE_ROOT", "")
    if not archive.endswith(".zip"):
        pytest.skip("CIFAKE_ROOT names no zip of CIFAKE")
    found, record = _script().ask(Path(archive)), json.loads((PICTURES / "answers.json").read_text())["answers"]
    for now, then in zip(found, record, strict=True):
        assert (now["image"], now["verdict"]) == (then["image"], then["verdict"])
        assert now["prob_real"] == pytest.approx(then["prob_real"], abs=0.02)  # another processor sums in another order
