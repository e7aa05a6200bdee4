"""The folder that an evaluation leaves: complete, valid, whole."""

import csv
import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_cifake.evaluation import report
from lightning_cifake.evaluation.metrics import binary_metrics, classification_report_text
from lightning_cifake.evaluation.report import versions, write_evaluation
from lightning_cifake.files import read_json

PROB = np.float32([0.1, 0.5, 0.6, 0.4, 0.9, 1 / 3])
LABELS = np.array([0, 0, 0, 1, 1, 1])
PATHS = ["FAKE/a.jpg", "FAKE/b, c.jpg", 'FAKE/"d".jpg', "REAL/a.jpg", "REAL/bär.jpg", "REAL/c.jpg"]
HISTORY = [{"epoch": 0, "train_loss": 0.7, "train_accuracy": 0.5, "val_loss": 0.6, "val_accuracy": 0.6}]
ALL = {
    "metrics.json",
    "classification_report.txt",
    "predictions.csv",
    "confusion_matrix.png",
    "roc.png",
    "history.png",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.usefixtures("drawn_pictures")
def test_every_file_is_written_and_named(tmp_path):
    folder = tmp_path / "runs" / "1"
    written = write_evaluation(folder, PROB, LABELS, paths=PATHS, facts={}, history=HISTORY, best_epoch=0)
    assert {path.name for path in written["files"]} == set(contents(folder)) == ALL
    assert all(path.parent == folder and path.stat().st_size for path in written["files"])
    assert (folder / "classification_report.txt").read_text() == written["report"]
    assert written["report"] == classification_report_text(PROB, LABELS)


def test_metrics_json_holds_the_figures_then_the_facts_in_their_order(tmp_path):
    facts = {"loss": 0.25, "protocol": "clean", "split_sizes": {"train": 14, "test": 6}, "seconds": {"fit": 1.5}}
    written = write_evaluation(tmp_path, PROB, LABELS, paths=None, facts=facts)
    text = (tmp_path / "metrics.json").read_text()
    read, checked = read_json(tmp_path / "metrics.json")
    assert checked and list(json.loads(text, parse_constant=no_constants)) == [*read, "sha256"]
    figures = {**binary_metrics(PROB, LABELS), "positive_class": "REAL", "class_counts": {"AI": 3, "REAL": 3}}
    figures["warnings"] = []
    assert read == written["metrics"] == {**figures, **facts}
    assert list(read) == [*figures, *facts]
    assert text.startswith('{\n  "accuracy": 0.5,\n') and text.endswith("}\n")


def test_what_json_cannot_say_is_null_and_what_python_can_say_is_plain(tmp_path):
    facts = {
        "loss": float("nan"),
        "epochs": [{"val_loss": float("inf")}, (np.float32(0.5), np.int64(3))],
        "tensor": torch.tensor([1.0, float("-inf")]),
        "scalar": torch.tensor(2),
        "weights": Path("some/file"),
        "flag": True,
    }
    write_evaluation(tmp_path, PROB, LABELS, paths=None, facts=facts)
    read = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=no_constants)
    assert {name: read[name] for name in facts} == {
        "loss": None,
        "epochs": [{"val_loss": None}, [0.5, 3]],
        "tensor": [1.0, None],
        "scalar": 2,
        "weights": "some/file",
        "flag": True,
    }


def test_predictions_give_back_every_path_label_and_float32(tmp_path):
    write_evaluation(tmp_path, torch.tensor(PROB), torch.tensor(LABELS), paths=PATHS, facts={})
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == PATHS
    assert [row["label"] for row in rows] == ["AI"] * 3 + ["REAL"] * 3
    assert np.array_equal(np.float32([row["prob_real"] for row in rows]), PROB)


def test_a_path_that_is_not_utf_8_is_written_as_the_bytes_it_is(tmp_path):
    name = b"REAL/\xff.jpg".decode("utf-8", errors="surrogateescape")
    write_evaluation(tmp_path, PROB[:1], LABELS[:1], paths=[name], facts={})
    assert b"REAL/\xff.jpg,AI," in (tmp_path / "predictions.csv").read_bytes()


@pytest.mark.usefixtures("drawn_pictures")
def test_written_again_it_is_the_same_and_with_other_outputs_all_is_replaced(tmp_path):
    write_evaluation(tmp_path, PROB, LABELS, paths=PATHS, facts={}, history=HISTORY)
    first = contents(tmp_path)
    write_evaluation(tmp_path, PROB, LABELS, paths=PATHS, facts={}, history=HISTORY)
    assert contents(tmp_path) == first
    other = [{**HISTORY[0], "val_loss": 0.9}]
    write_evaluation(tmp_path, 1 - PROB**2, LABELS, paths=PATHS, facts={}, history=other)
    second = contents(tmp_path)
    assert set(second) == ALL and all(second[name] != first[name] for name in ALL)


def test_what_an_evaluation_cannot_give_is_not_left_over_from_an_earlier_one(tmp_path, caplog):
    write_evaluation(tmp_path, PROB, LABELS, paths=PATHS, facts={}, history=HISTORY)
    written = write_evaluation(tmp_path, PROB[:3], LABELS[:3], paths=None, facts={})
    assert "roc.png is left out" in caplog.text
    names = {"metrics.json", "classification_report.txt", "confusion_matrix.png"}
    assert {path.name for path in written["files"]} == names
    assert set(contents(tmp_path)) == names | {"history.png"}
    assert json.loads((tmp_path / "metrics.json").read_text())["auroc"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": PATHS[:2]}, "a path for each of 6 images, got 2"),
        ({"facts": {"precision": "16-mixed"}}, r"names of their own, got \['precision'\]"),
        ({"prob_real": PROB * 2}, "probabilities"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(change, message, tmp_path):
    arguments = {"prob_real": PROB, "labels": LABELS, "paths": PATHS, "facts": {}, **change}
    with pytest.raises(ValueError, match=message):
        write_evaluation(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("drawn_pictures")
def test_a_picture_that_fails_leaves_no_temporary_and_no_metrics_json(tmp_path, monkeypatch):
    def fail(self, file, **kwargs):
        raise OSError("no fonts")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no fonts"):
        write_evaluation(tmp_path, PROB, LABELS, paths=PATHS, facts={})
    assert not list(tmp_path.iterdir())


def test_versions_name_what_is_installed_and_leave_out_what_is_not(monkeypatch):
    def without_torchvision(name: str) -> str:
        if name == "torchvision":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(report.importlib.metadata, "version", without_torchvision)
    found = versions()
    assert "torchvision" not in found
    assert found["python"] == platform.python_version() and found["torch"] == version("torch")
    assert all(isinstance(value, str) and value for value in found.values())
    packages = {"lightning_cifake", "torch", "lightning", "torchmetrics", "numpy", "scikit-learn"}
    assert set(found) == {"python", "platform"} | packages


def test_versions_are_read_without_importing_a_package():
    code = (
        "import sys; from lightning_cifake.evaluation.report import versions; versions()\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'torchmetrics', 'numpy', 'sklearn', 'matplotlib'}\n"
        "print(*heavy & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("prob_real", "labels", "says"),
    [
        (
            [0.3, 0.4, 0.2, 0.9],
            [0, 1, 1, 1],
            ["accuracy, 50.00%, is below the 75.00% that calling every image REAL"],
        ),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 0, 1], ["accuracy, 25.00%", "The AUROC, 0.0000, is below the 0.5 of guessing"]),
        ([0.6, 0.7, 0.8, 0.55], [0, 1, 1, 0], []),  # as good as the majority, and in the right order
        ([0.1, 0.2, 0.3], [0, 0, 0], []),  # one class: no AUROC, and all right
        ([0.9, 0.2, 0.3], [0, 0, 0], ["The accuracy, 66.67%, is below the 100.00% that calling every image AI"]),
    ],
)
def test_a_figure_worse_than_no_model_is_said_in_the_report(tmp_path, prob_real, labels, says):
    written = write_evaluation(tmp_path, np.float32(prob_real), np.array(labels), paths=None, facts={})
    warnings = json.loads((tmp_path / "metrics.json").read_text())["warnings"]
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))
    report = (tmp_path / "classification_report.txt").read_text()
    assert report == written["report"] and all(f"\n{warning}\n" in report for warning in warnings)
    if not says:
        assert report == classification_report_text(np.float32(prob_real), np.array(labels))
