"""evaluate: figures of any models on any labelled images, its folder whole or not there, mistakes in one line."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import write_checkpoint, write_images, write_model
from sklearn.metrics import accuracy_score, roc_auc_score

from lightning_cifake.assessment import evaluate as module
from lightning_cifake.commands.main import main
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.files import read_json

PARTS = tuple(f"{part}/{label}/{i}.png" for part in ("train", "test") for label in ("FAKE", "REAL") for i in range(12))


@pytest.fixture
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with model.onnx, twice.onnx and the images cut/, of which two test images are in train too."""
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(workplace / "cache"))
    write_model(workplace / "model.onnx", gain=8)
    write_model(workplace / "twice.onnx", {"decision_threshold": "0.6", "image_size": "16"}, gain=16)
    write_images(workplace / "cut", *PARTS)
    for label in ("FAKE", "REAL"):
        shutil.copy(f"cut/train/{label}/0.png", f"cut/test/{label}/0.png")
    return workplace


def evaluated(*arguments: str) -> dict[str, Any]:
    """metrics.json of a command that ends well."""
    assert main(["evaluate", *arguments, "--draws", "20"]) == 0
    content, sealed = read_json(Path("evaluation/metrics.json"))
    assert sealed
    return content


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and said[0].isprintable(), said
    assert not [each for each in Path().iterdir() if each.name.startswith(".")]
    return said[0]


def test_figures_are_those_of_predict_on_the_test_part_with_and_without_what_was_trained_on(place: Path) -> None:
    content = evaluated("model.onnx", "twice.onnx", "--data.root", "cut")
    paths = sorted(Path("cut/test").rglob("*.png"))
    labels = np.array([each.parent.name == "REAL" for each in paths])
    for number, (name, threshold) in enumerate((("model.onnx", 0.5), ("twice.onnx", 0.6))):
        prob = np.array([each.prob_real for each in Detector(Path(name)).predict(paths)])
        model = content["models"][number]
        figures = model["all"]["figures"]
        assert (model["name"], model["all"]["images"], model["image_size"]) == (name, 24, (32, 16)[number])
        assert figures["accuracy"]["value"] == accuracy_score(labels, prob > threshold)
        assert figures["auroc"]["value"] == roc_auc_score(labels, prob)
        low, high = figures["accuracy"]["interval"]
        assert low <= figures["accuracy"]["value"] <= high
        assert model["seen"]["images"] == 2 and model["unseen"]["images"] == 22
        kept = np.array([each.stem != "0" for each in paths])
        assert model["unseen"]["figures"]["accuracy"]["value"] == accuracy_score(labels[kept], (prob > threshold)[kept])
    (compared,) = content["comparisons"]
    assert compared["models"] == ["model.onnx", "twice.onnx"] and compared["both_right"] > 0
    assert content["data"]["part"] == "its own test part" and content["data"]["duplicates_of_training"] == 2
    assert content["command"][:5] == ["python", "-m", "lightning_cifake", "evaluate", "model.onnx"]


def test_predictions_csv_has_a_row_an_image_from_which_the_figures_come_again(place: Path) -> None:
    content = evaluated("model.onnx", "twice.onnx", "--data.root", "cut")
    with Path("evaluation/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prob_real model.onnx", "prob_real twice.onnx"] and len(rows) == 24
    labels = [row["label"] == "REAL" for row in rows]
    for name, model in zip(("model.onnx", "twice.onnx"), content["models"], strict=True):
        called = [np.float32(row[f"prob_real {name}"]) > model["threshold"] for row in rows]
        assert accuracy_score(labels, called) == model["all"]["figures"]["accuracy"]["value"]


def test_a_checkpoint_and_what_was_exported_of_it_have_the_same_figures(place: Path) -> None:
    import torch
    from tiny import SmallNetwork

    from lightning_cifake.deploy import export
    from lightning_cifake.training.classifier import FakeImageClassifier

    torch.manual_seed(0)
    network = SmallNetwork()
    write_checkpoint(Path("best.ckpt"), network)
    classifier = FakeImageClassifier(network).eval()
    made = export.to_onnx(classifier)
    export.set_metadata(made, export.metadata(classifier, "float32", "uint8", 1.0, 0.5))
    Path("best.onnx").write_bytes(export.serialized(made))
    first, second = evaluated("best.ckpt", "best.onnx", "--data.root", "cut", "--data.part", "all")["models"]
    assert first["all"]["confusion_matrix"] == second["all"]["confusion_matrix"]
    for name, figure in first["all"]["figures"].items():
        assert figure["value"] == pytest.approx(second["all"]["figures"][name]["value"], abs=1e-6), name
        assert figure["interval"] == pytest.approx(second["all"]["figures"][name]["interval"], abs=1e-5), name


def test_a_generator_is_held_against_its_own_photographs_or_against_all_and_the_mean_is_of_generators(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(
        Path("made"),
        *(f"a/FAKE/{i}.png" for i in range(6)),
        *(f"b/{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(4)),
        *(f"REAL/{i}.png" for i in range(3)),
    )
    model = evaluated("model.onnx", "--data.root", "made")["models"][0]
    groups = model["groups"]["generator"]
    assert {name: each["class_counts"] for name, each in groups.items()} == {
        "a": {"FAKE": 6, "REAL": 7}, "b": {"FAKE": 4, "REAL": 4},
    }  # fmt: skip
    means = model["means"]["generator"]["accuracy"]
    values = [groups[name]["figures"]["accuracy"]["value"] for name in "ab"]
    assert means["value"] == pytest.approx(np.mean(values)) and means["of"] == 2
    said = capsys.readouterr().out
    assert "mean of 2" in said and "trained on any of these images: not known" in said


def test_one_class_and_images_that_cannot_be_read_are_measured_as_far_as_they_go(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(Path("one"), "FAKE/1.png", "FAKE/2.png", "FAKE/copy.png")
    shutil.copy("one/FAKE/1.png", "one/FAKE/copy.png")
    Path("one/FAKE/bad\n.png").write_bytes(b"no image")
    content = evaluated("model.onnx", "--data.root", "one")
    figures = content["models"][0]["all"]["figures"]
    assert figures["auroc"]["value"] is None and figures["recall_fake"]["value"] is not None
    assert content["data"]["unreadable"][0]["name"] == "FAKE/bad\n.png" and content["data"]["duplicates"] == 1
    assert content["models"][0]["unseen"] is None and content["models"][0]["means"] == {}
    said = capsys.readouterr().out
    assert "no images of REAL" in said and "1 image cannot be read" in said and "FAKE/bad\\n.png" in said
    assert "1 image repeat" in said and "undefined" in said


def test_larger_pictures_are_measured_by_each_policy_as_predict_has_it(place: Path) -> None:
    import torch
    from tiny import SmallNetwork

    from lightning_cifake.deploy.predict import predict_files

    torch.manual_seed(0)
    write_checkpoint(Path("best.ckpt"), SmallNetwork())
    write_images(Path("large"), *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(3)), size=80)
    paths = sorted(Path("large").rglob("*.png"))
    content = evaluated("best.ckpt", "--data.root", "large", "--larger", "resize", "tiles")
    assert [each["name"] for each in content["models"]] == ["best.ckpt", "best.ckpt, tiles"]
    with Path("evaluation/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for policy, column in (("resize", "prob_real best.ckpt"), ("tiles", "prob_real best.ckpt, tiles")):
        expected = [each.prob_real for each in predict_files("best.ckpt", paths, larger=policy)]
        assert [float(row[column]) for row in rows] == pytest.approx(expected, abs=1e-6)


def test_robustness_is_measured_on_so_many_of_the_images_and_is_on_the_page(place: Path) -> None:
    from lightning_cifake.assessment.robustness import IMAGES
    from lightning_cifake.commands.evaluate import ROBUSTNESS_IMAGES

    (model,) = evaluated("model.onnx", "--data.root", "cut", "--robustness", "4")["models"]
    assert model["robustness"]["images"] == 4 and model["robustness"]["of"] == 24
    assert len(model["robustness"]["rows"]) > 10
    assert "jpeg" in Path("evaluation/report.html").read_text().lower()
    assert ROBUSTNESS_IMAGES == IMAGES


def test_a_second_evaluation_takes_the_place_of_the_first_and_of_nothing_else(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated("model.onnx", "--data.root", "cut")
    names = sorted(each.name for each in Path("evaluation").iterdir())
    assert names == ["metrics.json", "predictions.csv", "report.html"]
    again = evaluated("model.onnx", "--data.root", "cut")
    for content in (first, again):
        for model in content["models"]:
            del model["seconds"], model["images_per_second"]
    assert first == again and sorted(each.name for each in Path("evaluation").iterdir()) == names
    Path("evaluation/notes.txt").write_text("mine")
    arguments = ("model.onnx", "--data.root", "cut")
    assert "got evaluation, which holds notes.txt" in refused(capsys, *arguments)
    Path("run").mkdir()
    Path("run/metrics.json").write_text('{"accuracy": 1}')
    assert "got run, which holds metrics.json of a run" in refused(capsys, *arguments, "--output", "run")
    assert "expected a folder, got the file model.onnx" in refused(capsys, *arguments, "--output", "model.onnx")
    assert "got the current one" in refused(capsys, *arguments, "--output", ".")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_disk_that_is_full_half_way_and_ctrl_c_leave_what_was_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    evaluated("model.onnx", "--data.root", "cut")
    before = {each.name: each.read_bytes() for each in Path("evaluation").iterdir()}
    capsys.readouterr()

    def fails(*_: object) -> str:
        raise error

    monkeypatch.setattr(module, "predictions_csv", fails)
    code = main(["evaluate", "twice.onnx", "--data.root", "cut", "--draws", "0"])
    said = capsys.readouterr().err
    assert code == (2 if isinstance(error, OSError) else 130)
    assert isinstance(error, KeyboardInterrupt) or "cannot write evaluation: No space left on device" in said
    assert {each.name: each.read_bytes() for each in Path("evaluation").iterdir()} == before
    assert not [each for each in Path().iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("model.onnx", "expected --data.root: the images to measure on"),
        ("model.onnx --data.root nowhere", "no data at nowhere"),
        ("model.onnx --data.root cut --draws -1", "--draws: expected 0 or more, got -1"),
        ("model.onnx --data.root cut --threads 0", "--threads: expected at least 1, got 0"),
        ("model.onnx --data.root cut --larger crop crop", "--larger: expected each policy once"),
        ("model.onnx --data.root cut --data.part val", "cut has no val part"),
        ("model.onnx --data.root cut --output model.onnx/deep", "nothing can be written to"),
        ("model.onnx model.onnx --data.root cut", "the same file"),
        ("nothing.onnx --data.root cut", "nothing.onnx does not exist"),
        ("damaged.onnx --data.root cut", "damaged.onnx is damaged"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, expected: str
) -> None:
    content = bytearray(Path("model.onnx").read_bytes())
    content[50] ^= 1
    Path("damaged.onnx").write_bytes(content)
    assert expected in refused(capsys, *arguments.split())
    assert not Path("evaluation").exists()


def test_what_the_terminal_says_is_what_the_file_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluated("model.onnx", "--data.root", "cut")
    said = capsys.readouterr().out
    figure = content["models"][0]["all"]["figures"]["accuracy"]
    low, high = figure["interval"]
    assert "Accuracy" in said and f"{100 * figure['value']:.2f} %" in said
    assert f"[{100 * low:.2f}, {100 * high:.2f}]" in said
    assert "cut, its own test part: 24 images (12 AI + 12 REAL)" in said
    assert "written to evaluation: metrics.json, predictions.csv, report.html" in said
    assert json.dumps(content).isascii()
