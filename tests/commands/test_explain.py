"""explain: a picture an image, a line an image, three sheets of a labelled folder; mistakes are one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import write_checkpoint, write_images, write_model
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.files import read_json

MODEL = ("--model", "model.onnx", "--patch", "16", "--stride", "16")


@pytest.fixture
def folder(workplace: Path) -> Path:
    write_model(workplace / "model.onnx")
    write_images(workplace, "in/a.png", "in/deep/A.png", "in/b.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)).save("in/large.png")
    (workplace / "in/broken.png").write_bytes(b"nothing")
    return workplace


def test_each_image_has_a_line_and_a_picture_and_one_that_cannot_be_read_its_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "in", *MODEL]) == 1
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    answers = {answer.path: answer for answer in Detector("model.onnx").predict(sorted(Path("in").rglob("*.png")))}
    assert sorted(row[0] for row in rows) == sorted(answers) and len(rows) == 5
    for path, verdict, *rest in rows:
        if answers[path].error is not None:
            assert (path, verdict) == ("in/broken.png", "ERROR") and rest == [answers[path].error]
            continue
        if path != "in/large.png":  # the made model does not resize, as an exported one does
            assert (verdict, rest[0]) == (answers[path].verdict, f"{answers[path].prob_real:.6f}")
        with Image.open(rest[1]) as picture:
            assert picture.format == "PNG"
    named = {row[3] for row in rows if len(row) > 3}
    assert {"explained/a.explained.png", "explained/A.explained-2.png"} <= named and len(named) == 4
    record, checked = read_json(Path("explained/explain.json"))
    assert checked and [row["path"] for row in record["images"]] == [row[0] for row in rows]
    assert record["methods"] == ["occlusion"] and record["occlusion"] == {
        "patch": 16, "stride": 16, "baseline": "mean",
    }  # fmt: skip


def test_a_checkpoint_has_both_maps_and_its_sanity_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_cifake.networks.compact import CompactCNN

    write_checkpoint(folder / "best.ckpt", CompactCNN(width=2))
    given = ["explain", "in/a.png", "in/b.png", "--model", "best.ckpt", *MODEL[2:], "--sanity", "--output", "out"]
    assert main(given) == 0
    *rows, cam, occlusion = capsys.readouterr().out.splitlines()
    assert len(rows) == 2
    assert cam.startswith("sanity: grad_cam: rank correlation with the maps of random weights ")
    record = json.loads(Path("out/explain.json").read_text())
    assert record["methods"] == ["grad_cam", "occlusion"] and record["layers"] == ["maps.7"]
    said = record["sanity"]["occlusion"]["rank_correlation"]
    assert f"weights {said:.2f}," in occlusion and "mean of 2 images" in occlusion


def test_sheets_show_what_it_is_right_and_wrong_about_and_what_it_cannot_decide(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(workplace / "model.onnx")
    write_images(workplace, *(f"set/{kind}/{at}.png" for kind in ("REAL", "FAKE") for at in range(10)))
    (workplace / "set/FAKE/broken.png").write_bytes(b"nothing")
    assert main(["explain", "--sheet", "--data.root", "set", *MODEL, "--each", "4"]) == 1
    *said, broken = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert broken[:2] == ["FAKE/broken.png", "ERROR"]
    assert [row[0] for row in said] == ["confident_hits", "confident_misses", "uncertain"]
    sheets = json.loads(Path("explained/explain.json").read_text())["sheets"]
    for name, about, picture in said:
        assert about == f"{len(sheets[name])} of 20 images" and Path(picture).stat().st_size < 200_000
    for name, right in (("confident_hits", True), ("confident_misses", False)):
        assert sheets[name]
        for each in sheets[name]:
            assert ((each["prob_real"] > 0.5) == (each["label"] == "REAL")) is right
    assert len(sheets["uncertain"]) == 4


def test_sheets_of_larger_pictures_are_asked_and_drawn_by_the_policy(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(workplace / "model.onnx")
    write_images(workplace, *(f"set/{kind}/{at}.png" for kind in ("REAL", "FAKE") for at in range(3)), size=70)
    given = ["explain", "--sheet", "--data.root", "set", *MODEL, "--larger", "tiles", "--each", "2"]
    assert main(given) == 0
    record = read_json(Path("explained/explain.json"))[0]
    answers = {
        Path(each.path).name: each
        for each in Detector("model.onnx").predict(sorted(Path("set/REAL").iterdir()), larger="tiles")
    }
    listed = [each for sheet in record["sheets"].values() for each in sheet if each["label"] == "REAL"]
    assert record["larger"] == "tiles" and listed
    for each in listed:
        assert each["prob_real"] == pytest.approx(answers[Path(each["name"]).name].prob_real, abs=1e-6)


def test_a_kind_without_images_has_no_sheet_and_an_earlier_model_s_is_taken_away(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(workplace / "model.onnx")
    for kind, shade in (("REAL", 255), ("FAKE", 0)):
        (workplace / kind).mkdir()
        Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(f"{kind}/a.png")
    Path("out").mkdir()
    Path("out/confident_misses.png").touch()
    assert main(["explain", "--sheet", "--data.root", ".", *MODEL, "--output", "out"]) == 0
    assert "confident_misses\tnone of 2 images\n" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "confident_hits.png", "explain.json", "uncertain.png",
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), [
    ([], "expected an IMAGE, or --sheet --data.root"),
    (["nowhere.png"], "nowhere.png is no file, no folder, and matches nothing"),
    (["in", "--sheet", "--data.root", "in"], "expected IMAGEs or --sheet --data.root, got both"),
    (["--sheet"], "--sheet: expected --data.root"),
    (["in", "--data.root", "in"], "are for --sheet"),
    (["in", "--sample", "5"], "are for --sheet"),
    (["in", "--patch", "33"], "--patch: expected from 1 to 32"),
    (["in", "--patch", "0"], "--patch: expected at least 1, got 0"),
    (["in", "--method", "gradcam"], "did you mean grad_cam?"),
    (["in", "--layer", "x"], "--layer: expected a checkpoint, got model.onnx"),
    (["in", "--sanity"], "--sanity: expected a checkpoint"),
    (["in", "--larger", "tile"], "did you mean tiles?"),
    (["in", "--output", "model.onnx"], "--output: expected a folder, got the file model.onnx"),
    (["--sheet", "--data.root", "nowhere"], "nowhere"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments, "--model", "model.onnx"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err
    assert not Path("explained").exists()


def test_ctrl_c_before_the_first_picture_leaves_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_cifake.assessment.explain.explanations", interrupted)
    assert main(["explain", "in", *MODEL, "--output", "out/deep"]) == 130
    assert not Path("out").exists()


def test_an_exported_model_is_explained_without_torch(folder: Path) -> None:
    script = f"""
import sys
from lightning_cifake.commands.main import main
code = main(["explain", "in/a.png", *{MODEL!r}])
print(code, sorted({{"torch", "lightning", "captum"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["0 []"], done.stderr
