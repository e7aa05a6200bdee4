"""A short run of fuzz.py, always the same; its docstring has the command of a long one."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SEED = 20261124


@pytest.fixture(scope="module")
def fuzz() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_damaged_image_is_pixels_or_one_line(fuzz: Any) -> None:
    ends = fuzz.fuzz_images(SEED, 1_100)
    assert sum(ends.values()) == 1_100 and ends["answered"] > 50 and len(ends) > 4


def test_every_damaged_model_answers_or_is_one_line(fuzz: Any, make_model: Callable[..., Path]) -> None:
    ends = fuzz.fuzz_models(SEED, 1_000, make_model(seal=False))
    assert sum(ends.values()) == 1_000 and ends["refused"] > 500 and ends["answered"] > 5
    assert not ends["crashed"]


def test_every_damaged_model_that_carries_its_digest_is_refused(fuzz: Any, make_model: Callable[..., Path]) -> None:
    assert fuzz.fuzz_models(SEED, 200, make_model()) == {"refused": 200}


def test_the_same_seed_makes_the_same_files(fuzz: Any) -> None:
    assert fuzz.fuzz_images(1, 60) == fuzz.fuzz_images(1, 60) != fuzz.fuzz_images(2, 60)
