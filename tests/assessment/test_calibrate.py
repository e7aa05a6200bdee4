"""calibrate: a model that is too sure is mended, its threshold is what was asked for, and only on validation images."""

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
from lightning_cifake.assessment.of_cifake import of_cifake
from lightning_cifake.assessment.validation_images import OF_TEST, validation_images
from lightning_cifake.commands.main import main
from lightning_cifake.data import cifake_pixels, trained_on
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy.manifest import manifest_path
from lightning_cifake.deploy.predict import predict_files
from lightning_cifake.deploy.reference_images import edge_case_images, reference_images
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.thresholds import parse_rule
from lightning_cifake.files import read_json, sealed_json, sha256_of

CLASSES = ("FAKE", "REAL")


@pytest.fixture(autouse=True)
def _workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", str(workplace / "cache"))


def write_export(name: str = "model.onnx", gain: float = 60.0, image_size: str = "32", **training: Any) -> Path:
    """A model by brightness that is far too sure of it, with a manifest that verify takes."""
    path = write_model(Path(name), {"training": json.dumps(training), "image_size": image_size}, gain=gain)
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
    Path("mine/REAL/broken.png").write_bytes(b"nothing")
    arguments = ["calibrate", "model.onnx", "--data.root", "mine", "--output", "new.onnx"]
    assert main([*arguments, "--threshold", "false_alarms=0.01"]) == 0
    said = capsys.readouterr().out
    assert "1 image cannot be read, and is left out" in said
    assert "95 % interval 0.00% to 23.16% (0 of 14;" in said  # 1 - 0.025 ** (1 / 14)
    assert "14 REAL images are too few for false_alarms=0.01: below 100" in said
    assert "not known: whether the model was trained on any of these images" in said


def test_a_threshold_asked_of_test_images_is_refused() -> None:
    write_export()
    write_folder("cut", 12, "test/")
    said = refused("model.onnx", "--data.root", "cut", "--output", "new.onnx")
    assert f"got 0 FAKE and 0 REAL of cut (all images); refused: {OF_TEST}: 24" in said and said.count("\n") == 1


@pytest.fixture
def another_cifake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package takes the images of a made source for CIFAKE's."""
    cifake_pixels.cifake_pixels.cache_clear()
    monkeypatch.setattr(cifake_pixels, "DIGESTS", Path("made.npz"))

    def known(root: str) -> Any:
        source = load_images(root)
        cifake_pixels.write(source.images, source.parts, source.digest, Path("made.npz"))
        return source

    yield known
    cifake_pixels.cifake_pixels.cache_clear()


@pytest.mark.parametrize("image_size", ["32", "24"])
def test_cifake_s_own_images_are_known_under_any_name_in_any_folder(image_size: str, another_cifake: Any) -> None:
    write_folder("cifake", 15, "train/", "test/")
    source = another_cifake("cifake")
    for label in CLASSES:
        for part, numbers in (("test", range(3)), ("train", range(2))):
            for number in numbers:
                Path("mixed", label).mkdir(parents=True, exist_ok=True)
                shutil.copy(f"cifake/{part}/{label}/{number}.png", f"mixed/{label}/{part}-renamed-{number}.png")
    write_images(Path("mixed"), *(f"{label}/own-{number}.png" for label in CLASSES for number in range(12)))
    images = open_images(Asked("mixed"), int(image_size))
    known = of_cifake(images)
    assert {Path(name).name[:12] for name in np.array(images.names)[known.test]} == {"test-renamed"}
    assert (known.train.sum(), known.test.sum()) == (4, 6)
    training = {"protocol": "official", "data_digest": source.digest}
    model = open_model(write_export(**training, image_size=image_size))
    chosen = validation_images(Asked("mixed"), model)
    learnt = {chosen.refused[why] for why in chosen.refused if why != OF_TEST}
    assert chosen.refused[OF_TEST] == 6
    # the digest of a training on CIFAKE is of images of 32 x 32
    assert learnt == ({4} if image_size == "32" else set())
    assert len(chosen.images) == (24 if image_size == "32" else 28)


def test_the_package_knows_as_many_images_of_cifake_as_differ() -> None:
    known = cifake_pixels.cifake_pixels()
    assert (len(known.train), len(known.test)) == (100_000 - 920, 20_000 - 38)  # pairs of the same pixels
    assert len(np.intersect1d(known.train, known.test)) == 378
    strangers = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    assert not known.in_train(strangers).any() and not known.in_test(strangers).any()


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
        UserError, match=r"refused: images that the model was trained on \(the training's split, drawn again\): \d+"
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


def test_what_is_found_for_a_checkpoint_lies_beside_it_and_all_that_ask_the_checkpoint_use_it(capsys: Any) -> None:
    import torch

    torch.manual_seed(3)
    write_folder("mine", 14)
    write_folder("cut", 12, "train/", "test/")
    network = SmallNetwork().eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(open_images(Asked("mine"), 32).pixels().copy()).permute(0, 3, 1, 2)
        network.head[-1].bias -= network(pixels / 255).mean()
    checkpoint = write_checkpoint(Path("best.ckpt"), network)
    asked = ["test", "--ckpt_path", "best.ckpt", "--data.root", "cut", "--data.protocol", "official"]
    asked += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--threads", "1"]

    def tested(folder: str) -> dict[str, Any]:
        assert main([*asked, "--output_dir", folder]) == 0
        return read_json(Path(folder, "metrics.json"))[0]

    alone, before = tested("alone"), open_model(checkpoint)
    assert (
        alone["threshold"] == 0.5 and "temperature" not in alone and (before.threshold, before.temperature) == (0.5, 1)
    )
    assert "expected --output MODEL.onnx" in refused(str(write_export()), "--data.root", "mine")
    calibrating = ["calibrate", "best.ckpt", "--data.root", "mine", "--threshold", "recall=0.9"]
    assert main([*calibrating, "--method", "temperature"]) == 0
    assert "written: best.ckpt.calibration.json, best-reliability.png" in capsys.readouterr().out
    assert "exists already: give --overwrite" in refused(*calibrating[1:])
    model, found = open_model(checkpoint), tested("calibrated")
    assert (found["threshold"], found["temperature"]) == (model.threshold, model.temperature)
    assert model.threshold != 0.5 and model.temperature != 1 and found["calibration"]["rule"] == "recall=0.9"
    pixels = open_images(Asked("cut", part="test"), 32).pixels()
    logits = before.logits(pixels) / np.float32(model.temperature)
    assert np.array_equal(model.logits(pixels), logits)
    labels = np.repeat([0, 1], 12)
    called = torch.from_numpy(logits).sigmoid().numpy() > np.float32(model.threshold)
    assert found["accuracy"] == np.mean(called == labels) and found["loss"] == alone["loss"]
    predicted = [each.prob_real for each in predict_files(checkpoint, sorted(Path("cut/test").rglob("*.png")))]
    listed = Path("calibrated/predictions.csv").read_text().splitlines()[1:]
    assert np.float32([row.split(",")[2] for row in listed]).tolist() == np.float32(predicted).tolist()
    assert "its threshold was chosen on 28 of these" in ask(Subject(model), open_images(Asked("mine"), 32)).seen.how
    # trained on since: another file
    checkpoint.write_bytes(write_checkpoint(Path("last.ckpt"), SmallNetwork()).read_bytes())
    assert main([*asked, "--output_dir", "other"]) == 2 and not Path("other").exists()
    assert "was made for another best.ckpt than is there now" in capsys.readouterr().err
    assert main(["calibrate", "best.ckpt", "--data.root", "mine", "--method", "keep", "--overwrite"]) == 0
    assert open_model(checkpoint).temperature == 1
