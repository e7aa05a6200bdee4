"""The answers about files: which files, what is said, and what happens to a bad one."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TinyNetwork

from lightning_cifake.commands.main import main
from lightning_cifake.data.decode import load_images
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.inputs import find_images
from lightning_cifake.deploy.predict import load_classifier, predict_files
from lightning_cifake.errors import UserError
from lightning_cifake.shipped import DEFAULT, released_model
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier

PREDICT = ("predict", "--ckpt_path", "checkpoints/run/1/best.ckpt")


def save(path: Path, bias: float | None = None) -> Path:
    """A checkpoint of a random tiny model; with a bias, its answer is that logit."""
    torch.manual_seed(0)
    model = FakeImageClassifier(TinyNetwork())
    last = model.network.layers[-1]
    if bias is not None:
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.6",
    }
    SafeCheckpointIO().save_checkpoint(content, path)
    return path


@pytest.fixture
def checkpoint(workplace: Path, tiny_network: type) -> Path:
    return save(workplace / "checkpoints" / "run" / "1" / "best.ckpt")


def test_a_missing_path_is_one_line_and_exit_code_2(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "nowhere.png"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [line for line in output.err.splitlines() if line.startswith("error: nowhere.png is no file")]


def test_a_bad_file_is_an_error_line_and_the_others_are_answered(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "b.jpg").write_bytes(b"no jpeg")
    assert main([*PREDICT, "images", "--output", "answers.csv"]) == 1
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(Path(line[0]).name, line[1] == "ERROR") for line in lines] == [
        ("a.JPG", False),
        ("b.jpg", True),
        ("d.png", False),
        ("c.jpg", False),
    ]
    assert all(line[2] for line in lines)
    assert [len(line) for line in lines] == [3, 3, 4, 3] and "50x50, trained on 32x32" in lines[2][3]


def test_csv_and_json_agree_with_the_lines(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    (images / "b.jpg").write_bytes(b"no jpeg")
    assert main([*PREDICT, "images", "--output", "answers.csv"]) == 1
    assert main([*PREDICT, "images", "--output", "answers.json"]) == 1
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()[:4]]
    from_json = json.loads((workplace / "answers.json").read_text())
    with (workplace / "answers.csv").open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    for line, one, other in zip(lines, from_json, from_csv, strict=True):
        assert line[0] == one["path"] == other["path"]
        assert (one["verdict"] or "ERROR") == (other["verdict"] or "ERROR") == line[1]
        assert (one["error"] or "") == other["error"]
        if one["prob_real"] is not None:
            assert one["prob_real"] == float(other["prob_real"])
            assert line[2] == f"{one['prob_real']:.6f}"


@pytest.mark.parametrize(("bias", "verdict"), [(9.0, "REAL"), (-9.0, "AI"), (0.0, "AI")])
def test_a_positive_logit_says_real(
    images: Path, tiny_network: type, bias: float, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(images.parent / "model.ckpt", bias)
    assert main(["predict", "images", "--ckpt_path", "model.ckpt"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    assert {(line[1], float(line[2])) for line in lines} == {(verdict, round(1 / (1 + np.exp(-bias)), 6))}


def test_the_batch_size_changes_no_probability(images: Path, checkpoint: Path) -> None:
    paths = list(find_images([str(images)]))
    alone = [answer.prob_real for answer in predict_files(checkpoint, paths, 1)]
    together = [answer.prob_real for answer in predict_files(checkpoint, paths, 256)]
    assert len(set(alone)) == 4
    # convolutions sum in another order for another batch: a few float32 roundings
    assert alone == pytest.approx(together, abs=1e-6)


def test_a_file_gets_the_pixels_that_training_gets(images: Path, checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for label in ("REAL", "FAKE"):
        (source / label).mkdir(parents=True)
        for path in find_images([str(images)]):
            (source / label / f"{path.stem}{path.suffix.lower()}").write_bytes(path.read_bytes())
    decoded = load_images(source, 32)
    model = load_classifier(checkpoint)
    files = [source / path for path in decoded.paths]
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.array(decoded.images)).permute(0, 3, 1, 2) / 255).sigmoid().tolist()
    answered = [answer.prob_real for answer in predict_files(checkpoint, files)]
    assert answered == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"state_dict": {"x": torch.ones(1)}, "hyper_parameters": {}},
                                     {"state_dict": {}, "hyper_parameters": {"bogus": 1}},
                                     {"state_dict": {}, "hyper_parameters": None}])  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, tiny_network: type, content: Any) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="is of another model") as error:
        load_classifier(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "answers.txt"], r"ends in \.csv, \.json, \.jsonl"),
        (["--batch_size", "0"], "expected at least 1"),
        (["--output", "images/a.JPG/answers.csv"], "cannot write images/a.JPG/answers.csv"),
    ],
)
def test_wrong_arguments_are_one_line(
    images: Path, checkpoint: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "images", *arguments]) == 2
    assert re.search(says, capsys.readouterr().err.splitlines()[-1])


def test_the_released_model_answers_where_none_is_named_and_a_line_says_so(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "images", "--csv"]) == 0
    by_command = capsys.readouterr()
    assert f"model: {DEFAULT}, the released {released_model().name} (name another with --model" in by_command.err
    answers = Detector().predict(find_images(["images"]))
    assert by_command.out.splitlines()[1:] == [answer.csv() for answer in answers]
    assert main(["predict", "images", "--model", str(released_model()), "--csv"]) == 0
    by_name = capsys.readouterr()
    assert (by_name.out, "model:" in by_name.err) == (by_command.out, False)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("image_size", 20000, "model.network.image_size: expected a whole number from 1 to 1024, got 20000"),
        ("head", "flatten, dense 1000000 relu, dense 1", "model.network.head: expected at most"),
        ("head", "flatten, dense 64 relu, dense 1", r"is of another model: missing|is of another model: unexpected"),
        ("layout", "caffe", "model.network.layout: expected one of keras, torchvision, got caffe"),
        ("stem", "large\x1b[31m", r"model.network.stem: expected one of imagenet, small, half, got large\\x1b"),
        ("learning_rate", "fast", "expected a float for its hyper-parameter learning_rate, got 'fast'"),
        ("freeze_backbone", 1, "expected a bool for its hyper-parameter freeze_backbone, got 1"),
        ("depth", 3, "its hyper-parameter depth is not one of this version's"),
    ],
)
def test_a_checkpoint_that_asks_for_another_model_is_one_line_before_anything_is_built(
    tmp_path: Path, name: str, value: Any, says: str
) -> None:
    with torch.device("meta"):
        whole = FakeImageClassifier()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in whole.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {name: value}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=says) as error:
        load_classifier(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("given", [[1, 2], None, "text", 5])
def test_hyper_parameters_that_are_none_are_one_line(tmp_path: Path, given: Any) -> None:
    torch.save({"state_dict": {"weight": torch.ones(1)}, "hyper_parameters": given}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt is of another model: expected its hyper_parameters by name, got"):
        load_classifier(tmp_path / "x.ckpt")
