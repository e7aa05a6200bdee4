"""calibrate: a model that is too sure is mended, its threshold is what was asked for, and only on validation images."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import write_checkpoint, write_images, write_model
from PIL import Image
from tiny import SmallNetwork

from lightning_cifake import Detector
from lightning_cifake.assessment.calibrate import calibrate
from lightning_cifake.assessment.evaluate import Subject, ask
from lightning_cifake.assessment.images import Asked, open_images
from lightning_cifake.assessment.models import open_model
from lightning_cifake.assessment.validation_images import OF_TEST, validation_images
from lightning_cifake.commands.main import main
from lightning_cifake.data import manifest, trained_on
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy.manifest import manifest_path
from lightning_cifake.deploy.reference_images import edge_case_images, reference_images
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.thresholds import parse_rule
from lightning_cifake.files import read_json, sealed_json, sha256_of

CLASSES = ("FAKE", "REAL")


@pytest.fixture(autouse=True)
def _workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(workplace / "cache"))


def write_export(name: str = "model.onnx", gain: float = 60.0, **training: Any) -> Path:
    """A model by brightness that is far too sure of it, with a manifest that verify takes."""
    path = write_model(Path(name), {"training": json.dumps(training)}, gain=gain)
    detector, hard = Detector(path), edge_case_images()

    def pairs(images: Any) -> list[list[float]]:
        return [[float(detector.run(image[None])[1][0])] * 2 for image in images]

    answers = {"demo": pairs(reference_images()), "hard": dict(zip(hard, pairs(hard.values()), strict=True))}
    content = {"limits": {}, "answers": answers, "model": {"sha256": sha256_of(path), "opset": 20}}
    manifest_path(path).write_text(sealed_json(content))
    return path


def write_folder(root: str, count: int, *parts: str) -> Path:
    """``count`` images of each class, in each of some parts."""
    names = [f"{part}{label}/{number}.png" for part in parts or ("",) for label in CLASSES for number in range(count)]
    return write_images(Path(root), *names)


def refused(*arguments: str) -> str:
    """What is said, in one line, with nothing written."""
    before = sorted(Path().rglob("*.onnx"))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("sys.stderr.write", said.append)
        code = main(["calibrate", *arguments])
    assert code == 2 and sorted(Path().rglob("*.onnx")) == before
    return "".join(said)


def test_a_model_that_is_too_sure_is_mended_and_answers_with_the_threshold_that_was_asked_for(capsys: Any) -> None:
    write_export()
    folder = write_folder("mine", 60)
    arguments = ["calibrate", "model.onnx", "--data.root", "mine", "--output", "new/mended.onnx"]
    assert main([*arguments, "--threshold", "false_alarms=0.1"]) == 0
    said = capsys.readouterr().out
    assert (
        "120 validation images of mine: all images; 60 FAKE, 60 REAL" in said and "probabilities: temperature" in said
    )
    assert said.splitlines()[-1] == "written: new/mended.onnx, new/mended.json, new/mended-reliability.png"
    record = read_json(Path("new/mended.json"))[0]["calibration"]
    assert record["after"]["log_loss"] < 0.7 * record["before"]["log_loss"]
    assert record["after"]["ece"] < record["before"]["ece"]
    assert record["after"]["auroc"] == pytest.approx(record["before"]["auroc"], abs=0.02)  # of five maps, out of fold
    detector = Detector("new/mended.onnx")
    assert detector.threshold == record["threshold"] and detector.facts.temperature == record["temperature"] > 2
    verdicts = {
        label: [each.verdict for each in detector.predict(sorted((folder / label).iterdir()))] for label in CLASSES
    }
    costs = record["at_threshold"]
    assert verdicts["REAL"].count("AI") == costs["false_alarms"]["count"] <= 6
    assert verdicts["FAKE"].count("AI") == costs["recall_fake"]["count"]
    assert f"{costs['false_alarms']['count']} of 60" in said
    assert main(["verify", "new/mended.onnx"]) == 0
    assert Path("new/mended-reliability.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_on_the_images_that_a_threshold_was_chosen_on_says_so() -> None:
    write_export()
    write_folder("mine", 12)
    calibrate(open_model("model.onnx"), Asked("mine"), Path("new.onnx"), parse_rule("0.4"), "keep")
    shutil.copytree("mine", "more/copy")
    write_images(Path("more"), *(f"{label}/other-{number}.png" for label in CLASSES for number in range(3)))
    for model, count in (("new.onnx", 24), ("model.onnx", None)):
        seen = ask(Subject(open_model(model)), open_images(Asked("more"), 32)).seen
        assert (None if seen.mask is None else int(seen.mask.sum())) == count
        assert ("its threshold was chosen on 24 of these images" in seen.how) == (count is not None)


def test_a_few_dozen_images_give_an_interval_and_say_how_little_they_can_promise(capsys: Any) -> None:
    write_export()
    write_folder("mine", 14)
    arguments = ["calibrate", "model.onnx", "--data.root", "mine", "--output", "new.onnx"]
    assert main([*arguments, "--threshold", "false_alarms=0.01"]) == 0
    said = capsys.readouterr().out
    assert "95 % interval 0.00% to 23.16% (0 of 14;" in said  # 1 - 0.025 ** (1 / 14)
    assert "14 REAL images are too few for false_alarms=0.01: below 100" in said
    assert "not known: whether the model was trained on any of these images" in said


def test_a_threshold_asked_of_test_images_is_refused() -> None:
    write_export()
    write_folder("cut", 12, "test/")
    said = refused("model.onnx", "--data.root", "cut", "--output", "new.onnx")
    assert f"got 0 FAKE and 0 REAL of cut (all images); refused: 24 {OF_TEST}" in said and said.count("\n") == 1


def test_cifake_s_own_test_images_are_known_in_a_folder_without_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder("mixed", 15)
    listed = {f"REAL/{number}.png": (folder / f"REAL/{number}.png").read_bytes() for number in range(3)}
    heads = {Path(name).name: hashlib.sha256(content).digest()[:2] for name, content in listed.items()}
    monkeypatch.setattr(manifest, "_official_test", lambda: heads)  # FAKE/0.png has the name, and another content
    chosen = validation_images(Asked("mixed"), open_model(write_export()))
    assert chosen.refused == {OF_TEST: 3} and not set(listed) & set(chosen.images.names)
    assert np.bincount(chosen.images.labels).tolist() == [15, 12]


def test_the_names_of_cifake_s_test_part_are_in_the_package_with_what_their_files_begin_with() -> None:
    names = manifest._official_test()
    assert len(names) == 20_000 and manifest.has_official_name("any/0 (10).jpg") and "1000.jpg" not in names
    assert not manifest.is_official_test("any/0 (10).jpg", b"another image")


def test_images_that_an_exported_model_was_trained_on_are_refused_where_its_split_can_be_drawn_again() -> None:
    write_folder("flat", 60)
    source = load_images("flat")
    split = make_split(source, "clean")
    known = {"protocol": "clean", "data_digest": source.digest, "split_seed": 0, "split_sizes": split.sizes()}
    chosen = validation_images(Asked("flat"), open_model(write_export(**known)))
    assert chosen.images.indices.tolist() == sorted(split.val.tolist()) and chosen.refused == {}
    assert chosen.known == "the training's split, drawn again"
    other = make_split(source, "clean", seed=1)  # and a split that it was not trained by is seen through
    write_split(Path("split.json.other"), source, other)
    asked = Asked("flat", split_file=Path("split.json.other"))
    with pytest.raises(
        UserError, match=r"refused: \d+ images that the model was trained on \(the training's split, dr"
    ):
        validation_images(asked, open_model(write_export(**known)))


def test_images_that_a_checkpoint_was_trained_on_are_refused_wherever_they_lie() -> None:
    source = load_images(write_folder("flat", 30))
    learnt = np.arange(0, 60, 3)
    record = [trained_on.entry_of_images(source, learnt)]
    model = open_model(write_checkpoint(Path("best.ckpt"), SmallNetwork(), trained_on=record))
    shutil.copytree("flat", "copy/elsewhere")
    for each in ("flat", "copy"):
        chosen = validation_images(Asked(each), model)
        assert chosen.refused == {"images that the model was trained on (the checkpoint's record of its training)": 20}
        assert len(chosen.images) == 40 and not set(learnt) & set(chosen.images.indices.tolist())


def test_of_a_source_with_parts_its_val_part_counts_and_without_one_the_split_must_be_known() -> None:
    model = open_model(write_export())
    write_folder("cut", 12, "train/", "val/", "test/")
    chosen = validation_images(Asked("cut"), model)
    assert chosen.images.about == "its own val part" and len(chosen.images) == 24
    write_folder("two", 110, "train/")
    write_folder("two", 3, "test/")
    with pytest.raises(UserError, match=r"that it was trained on is supposed.*name the split that it was trained by"):
        validation_images(Asked("two"), model)
    Path("list.txt").write_text("train/FAKE/0.png\ntrain/FAKE/1.png\n")
    left = validation_images(Asked("cut", exclude=Path("list.txt")), model).images  # of its train part: no matter
    assert len(left) == 24
    Path("list.txt").write_text("val/FAKE/0.png\n")
    assert len(validation_images(Asked("cut", exclude=Path("list.txt")), model).images) == 23
    chosen = validation_images(Asked("two", protocol="official"), model)
    assert len(chosen.images) == 22 and "taken to be that of protocol official" in chosen.known


def test_what_a_user_gets_wrong_is_one_line_and_nothing_is_written() -> None:
    write_export()
    write_folder("mine", 12)
    write_images(Path("one"), *(f"REAL/{number}.png" for number in range(30)))
    there = ("model.onnx", "--data.root", "mine", "--output", "new.onnx")
    assert "expected --data.root" in refused("model.onnx", "--output", "new.onnx")
    assert "ends in .onnx" in refused(*there[:-1], "new.ckpt")
    assert "exists already: give --overwrite" in refused(*there[:-1], "model.onnx")
    assert "got false_alarms=1 %" in refused(*there, "--threshold", "false_alarms=1 %")
    assert "got 0 FAKE and 30 REAL of one" in refused("model.onnx", "--data.root", "one", "--output", "new.onnx")
    assert "--sample" in refused(*there, "--sample", "0")
    write_folder("apart", 12)
    for label, level in (("FAKE", 10), ("REAL", 240)):
        for number in range(12):
            Image.new("RGB", (32, 32), (level, number, level)).save(f"apart/{label}/{number}.png")
    apart = ("model.onnx", "--data.root", "apart", "--output", "new.onnx", "--method", "temperature")
    assert "--method temperature: no temperature from 0.05 to 20 is best: not one image is on" in refused(*apart)
    manifest_path(Path("model.onnx")).unlink()
    assert "expected it beside the model" in refused(*there)
