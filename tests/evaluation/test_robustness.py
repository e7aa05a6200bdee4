"""What images are changed by is what it is called, and the figures are of the changed images."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.evaluation.robustness import CONDITIONS, figures, measure, other_fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_robustness", ROOT / "docs" / "results" / "robustness.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(count: int = 6, size: int = 32) -> np.ndarray:
    """(N, S, S, 3) uint8, smooth enough for a file of quality 50."""
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((size, size))) for each in small])


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_changes_an_image_and_keeps_its_form_and_mean(name: str) -> None:
    (image,) = pictures(1)
    before = image.copy()
    changed = CONDITIONS[name](image, np.random.default_rng(0))
    assert changed.shape == image.shape and changed.dtype == np.uint8 and np.array_equal(image, before)
    assert np.array_equal(changed, image) == (name == "clean")
    assert abs(changed.mean() - image.mean()) < 1


def test_noise_is_seeded_and_of_its_deviation() -> None:
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    seen: list[np.ndarray] = []

    def answer(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.full(len(images), 0.5, np.float32)

    for seed in (0, 0, 1):
        list(measure(answer, grey, np.array([0, 1, 0, 1]), seed, conditions={"noise 4": CONDITIONS["noise 4"]}))
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0][0], seen[0][1])  # each image its own
    assert seen[0].astype(float).std() == pytest.approx(4, rel=0.05)


def test_a_model_is_asked_about_the_changed_images() -> None:
    """One that calls REAL what has sharp edges finds no REAL among blurred images."""
    edges = np.zeros((10, 32, 32, 3), np.uint8)
    edges[5:, :, ::2] = 255
    found = dict(
        measure(
            lambda x: (np.abs(np.diff(x.astype(int), axis=2)).max((1, 2, 3)) > 100) * 1.0, edges, np.repeat([0, 1], 5)
        )
    )
    assert found["clean"]["accuracy"] == 1 and found["clean"]["auroc"] == 1
    assert found["blur 1"]["recall_real"] == 0 and found["blur 1"]["recall_fake"] == 1
    assert found["noise 4"]["accuracy"] == 1


def test_the_figures_are_shares_of_each_class_with_their_intervals() -> None:
    prob, labels = np.array([0.1, 0.2, 0.9, 0.8, 0.7, 0.4]), np.array([0, 0, 0, 1, 1, 1])
    found = figures(prob, labels)
    assert (found["accuracy"], found["recall_fake"], found["recall_real"]) == (4 / 6, 2 / 3, 2 / 3)
    low, high = found["recall_fake_interval"]
    assert 0.2 < low < 2 / 3 < high < 0.95
    assert figures(prob, labels, threshold=0.85)["recall_fake"] == 2 / 3
    assert figures(prob[:3], labels[:3])["recall_real"] is None


def test_another_generator_s_images_are_compared_with_photographs() -> None:
    found = other_fakes(np.array([0.2, 0.6, 0.7, 0.1]), np.array([0.9, 0.65]))
    assert (found["images"], found["photographs"], found["recall_fake"]) == (4, 2, 0.5)
    assert found["auroc"] == 7 / 8
    assert other_fakes(np.array([0.2]), np.array([]))["auroc"] is None


def test_the_script_writes_one_record(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, image in enumerate(pictures(4)):
        file = tmp_path / "gan" / "FAKE" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    output = tmp_path / "robustness.json"
    arguments = [
        "--data.root",
        "demo",
        "--count",
        "20",
        "--others",
        str(tmp_path / "gan" / "FAKE"),
        "--output",
        str(output),
    ]
    assert script.main(arguments) == 0
    record = json.loads(output.read_text())
    assert list(record["conditions"]) == list(CONDITIONS) and record["data"] == "demo" and record["part"] == "test"
    assert {each["images"] for each in record["conditions"].values()} == {20}
    assert record["other_generators"]["gan"]["images"] == 4
    assert len(capsys.readouterr().out.splitlines()) == len(CONDITIONS) + 1
    assert script.main(["--data.root", "demo", "--count", "4", "--others", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
