"""Any model in one form: the same logits as predict's, a name of its own, and what is known of its training."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made import write_checkpoint, write_model
from tiny import SmallNetwork, TinyNetwork

from lightning_cifake.assessment.models import TorchModel, needs_torch, open_model, open_models
from lightning_cifake.data.trained_on import unknown_entry
from lightning_cifake.deploy.detector import Detector
from lightning_cifake.deploy.predict import ClassifierModel, load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.files import sealed_json, sha256_of


@pytest.fixture
def files(workplace: Path) -> Path:
    torch.manual_seed(0)
    for folder in ("a", "b"):
        (workplace / folder).mkdir()
    write_checkpoint(workplace / "a/best.ckpt", SmallNetwork())
    write_checkpoint(workplace / "b/best.ckpt", TinyNetwork("torchvision"), trained_on=[unknown_entry("a gift")])
    facts = {"temperature": "2.0", "decision_threshold": "0.25", "training": '{"protocol": "official"}'}
    write_model(workplace / "a/model.onnx", facts)
    return workplace


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (50, 40), (32, 32), (9, 7), (50, 40)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_an_exported_model_answers_as_its_detector_and_says_what_it_knows(files: Path) -> None:
    model, detector = open_model("a/model.onnx"), Detector("a/model.onnx")
    images = pictures()
    assert model.logits(images).tolist() == [detector.run(image[None])[1].item() for image in images]
    assert (model.name, model.sha256, model.image_size, model.precision) == (
        "model.onnx", detector.sha256, 32, "float32",
    )  # fmt: skip
    assert (model.threshold, model.temperature, model.record) == (0.25, 2.0, None)
    assert model.training == {"protocol": "official"} and not needs_torch("a/model.onnx")


def test_a_manifest_of_this_very_file_adds_what_it_says_of_the_training(files: Path) -> None:
    said = {"protocol": "another", "split_seed": 3}
    manifest = {"model": {"sha256": sha256_of(Path("a/model.onnx")), "training": said}}
    Path("a/model.json").write_text(sealed_json(manifest))
    assert open_model("a/model.onnx").training == {"protocol": "official", "split_seed": 3}  # the file's own word first
    Path("a/model.json").write_text("{}")
    assert open_model("a/model.onnx").training == {"protocol": "official"}


def test_a_checkpoint_answers_as_predict_whatever_the_size_of_an_image_and_of_the_batch(files: Path) -> None:
    model, images = open_model("a/best.ckpt"), pictures()
    expected = ClassifierModel(load_classifier("a/best.ckpt")).prob_real(images)
    assert np.allclose(torch.from_numpy(model.logits(images)).sigmoid(), expected, atol=1e-6)
    many = np.repeat(images[0][None], 300, 0)
    assert np.allclose(model.logits(many), model.logits(images)[0], atol=1e-5)
    assert (model.threshold, model.temperature, model.precision) == (0.5, 1.0, "float32")
    assert (
        model.record[0]["unknown"] == "best.ckpt"
        and open_model("b").record[0]["unknown"] == "a gift"
        and needs_torch("b")
    )


def test_models_of_one_name_are_told_apart_by_their_folders_and_one_file_twice_is_refused(files: Path) -> None:
    names = [model.name for model in open_models(["a/best.ckpt", "b/best.ckpt", "a/model.onnx", "compact"])]
    assert names == ["a/best.ckpt", "b/best.ckpt", "model.onnx", "compact"]
    with pytest.raises(UserError, match=r"expected different models, got a/model.onnx and ./a/model.onnx: the same"):
        open_models(["a/model.onnx", "./a/model.onnx"])


@pytest.mark.parametrize("model", ["best.ckpt", "nothing.onnx", "bset", "a"])
def test_a_model_that_is_not_there_is_one_line(workplace: Path, model: str) -> None:
    (workplace / "a").mkdir()
    with pytest.raises(UserError) as caught:
        open_model(model)
    assert "\n" not in str(caught.value) and model in str(caught.value)


def test_an_answer_that_is_no_number_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model("a/best.ckpt")
    monkeypatch.setattr(TorchModel, "_batch", lambda self, images: np.full(len(images), np.nan))
    with pytest.raises(UserError, match=r"best.ckpt answers with what is no number"):
        model.logits(pictures())


def test_what_is_no_model_is_named_by_its_ending_and_its_content(workplace: Path) -> None:
    whole = write_checkpoint(Path("best.ckpt"), SmallNetwork()).read_bytes()
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("notes.txt", "of something else")
    Path("run").mkdir()
    cut, exported = whole[: len(whole) // 2], write_model(Path("whole.onnx")).read_bytes()
    files = {
        "cut.ckpt": (cut, "cut.ckpt is damaged, or cut off: it begins as a checkpoint does"),
        "flipped.ckpt": (whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:], "flipped.ckpt is damaged: the"),
        "cut.keras": (cut, "cut.keras is damaged, or cut off: it begins as a Keras file does"),
        "cut": (cut, "cut is damaged, or cut off: it begins as a checkpoint or a Keras file does"),
        "cut.onnx": (exported[: len(exported) // 2], "cut.onnx cannot be loaded as an ONNX model"),
        "text.ckpt": (b"hello", "text.ckpt is named as a checkpoint is, and is none"),
        "text.h5": (b"hello", "text.h5 is named as a Keras file is, and is none"),
        "zip.ckpt": (Path("other.zip").read_bytes(), "zip.ckpt is a zip archive of something else"),
        "photo.png": (b"\x89PNG", "is no model: expected a checkpoint, an exported model .ONNX. or a Keras file"),
        "empty.ckpt": (b"", "empty.ckpt is empty: expected a checkpoint"),
        "empty.onnx": (b"", "empty.onnx is empty: expected an exported model"),
        "empty.keras": (b"", "empty.keras is empty: expected a Keras file"),
        "run": (None, "run is a folder without a best.ckpt"),
        "gone.ckpt": (None, "gone.ckpt does not exist"),
    }
    for name, (content, says) in files.items():
        if content is not None:
            Path(name).write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_model(Path(name))
    Path("renamed.ckpt").write_bytes(exported)  # whatever its name, it is a model
    assert open_model(Path("renamed.ckpt")).precision == "float32"
