"""The command ``export``: what it writes is what the checkpoint answers, or it writes nothing."""

import copy
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy import export, graph, manifest, quantize, verification, verified_export
from lightning_cifake.deploy.predict import ClassifierModel, load_classifier
from lightning_cifake.deploy.reference_images import edge_case_images
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json, sealed_json, sha256_of
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.run_folder import sealed_config

ASKED = ("export", "--ckpt_path", "best.ckpt", "--output", "model.onnx")
FLOAT32 = 1e-5  # logits of about 3 through a network of few layers


def exported(*arguments: str) -> tuple[Detector, dict[str, Any]]:
    assert main([*ASKED, "--sample", "40", *arguments]) == 0
    return Detector("model.onnx"), json.loads(Path("model.json").read_text())


def demo(count: int = 20) -> np.ndarray:
    return load_images().images[:count]


def expected(checkpoint: Path, images: np.ndarray) -> np.ndarray:
    return ClassifierModel(load_classifier(checkpoint)).logits(images)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_model_answers_as_its_checkpoint_does(small_checkpoint: Path, workplace: Path) -> None:
    detector, written = exported()
    logits = expected(small_checkpoint, demo())
    assert np.ptp(logits) > 0.5  # a network that says the same of every image would prove nothing
    prob, logit = detector.run(demo())
    assert np.abs(logit - logits).max() < FLOAT32
    assert np.abs(prob - 1 / (1 + np.exp(-logits))).max() < FLOAT32
    assert files(workplace) == ["best.ckpt", "model.json", "model.onnx"]
    assert written["model"]["sha256"] == sha256_of(Path("model.onnx"))
    assert written["model"]["bytes"] == Path("model.onnx").stat().st_size
    assert written["real"]["logit_difference_max"] < FLOAT32 and written["real"]["images"] == 40
    assert written["hard"]["images"] == len(edge_case_images()) == len(written["answers"]["hard"])
    assert written["speed"]["one_image_ms"]["p50"] <= written["speed"]["one_image_ms"]["p95"]


def test_the_file_says_where_it_comes_from_and_nothing_of_this_machine(small_checkpoint: Path) -> None:
    detector, written = exported("--threshold", "0.7")
    facts = detector.facts
    assert (facts.threshold, facts.temperature, facts.image_size, facts.precision) == (0.7, 1.0, 32, "float32")
    assert json.loads(facts.metadata["class_names"]) == ["AI", "REAL"]
    assert facts.metadata["checkpoint_sha256"] == sha256_of(small_checkpoint) == written["model"]["checkpoint_sha256"]
    assert {"torch", "onnxruntime", "lightning_cifake"} <= set(json.loads(facts.metadata["versions"]))
    assert "CIFAR-10's licence" in facts.metadata["licence"]
    content = Path("model.onnx").read_bytes()
    for path in (b"site-packages", b".py", str(Path.cwd()).encode(), str(Path.home()).encode() + b"/"):
        assert path not in content


def test_it_tells_the_protocol_and_the_data_of_its_training(small_checkpoint: Path, workplace: Path) -> None:
    known = {"protocol": "clean", "data": "demo", "data_digest": "d", "epochs": 3}
    facts = {**known, "checkpoint_sha256": sha256_of(small_checkpoint), "seconds": 1}
    (workplace / "metrics.json").write_text(json.dumps(facts))
    detector, _ = exported()
    assert json.loads(detector.facts.metadata["training"]) == known
    (workplace / "metrics.json").write_text(json.dumps({**facts, "checkpoint_sha256": "of another"}))
    detector, _ = exported("--overwrite")
    assert json.loads(detector.facts.metadata["training"]) == {}


def test_onnxs_checker_takes_it_and_knows_every_shape(exported_model: Path) -> None:
    model = onnx.load_model("model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (images,), (prob, logit) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", "height", "width", 3]
    assert [each.type.tensor_type.shape.dim[0].dim_param for each in (prob, logit)] == ["batch", "batch"]
    assert (images.name, prob.name, logit.name) == ("images", "prob_real", "logit")
    assert not {"BatchNormalization", "Dropout"} & {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", edge_case_images())
@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_any_size_is_taken_as_training_takes_it(
    shared_export: dict[str, Detector], shared_classifier: Any, input_type: str, name: str
) -> None:
    image = edge_case_images()[name][None]
    model = ClassifierModel(shared_classifier)
    lightning = verification.lightning_logits(model, None, input_type)
    assert np.abs(verification.onnxruntime_logits(shared_export[input_type])(image) - lightning(image)).max() < FLOAT32


@pytest.fixture(scope="module")
def shared_classifier(small: type) -> Any:
    from lightning_cifake.training.classifier import FakeImageClassifier

    torch.manual_seed(0)
    return FakeImageClassifier(small()).eval()


@pytest.fixture(scope="module")
def shared_export(module_folder: Callable[[str], Path], shared_classifier: Any) -> dict[str, Detector]:
    folder = module_folder("exported")
    made = {}
    for input_type in ("uint8", "float32"):
        model = export.to_onnx(shared_classifier, input_type)
        export.set_metadata(model, export.metadata(shared_classifier, "float32", input_type, 1.0, 0.5))
        (folder / f"{input_type}.onnx").write_bytes(export.serialized(model))
        made[input_type] = Detector(folder / f"{input_type}.onnx")
    return made


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_precisions_are_near_and_say_what_they_cost(
    small_checkpoint: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 64)
    detector, written = exported("--precision", precision, "--data.root", "demo", "--max_loss", "30")
    logit = detector.run(demo())[1]
    difference = np.abs(logit - expected(small_checkpoint, demo())).max()
    assert 0 < difference < {"float16": 0.02, "int8": 0.5}[precision]
    assert detector.facts.precision == precision and written["limits"] == {"points_of_accuracy": 30.0}
    if precision == "int8":
        measured = written["model"]["calibration_measured"]
        assert set(measured) == set(quantize.METHODS)
        checked = written["model"]["calibration_checked_on"]
        change = {
            name: each["flipped_decisions"] / checked + each["prob_difference_mean"] for name, each in measured.items()
        }
        assert written["model"]["calibration"] == min(change, key=lambda name: change[name])
        kinds = {node.op_type for node in onnx.load_model("model.onnx").graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_fitted_temperature_is_the_one_that_makes_probabilities_truest(small_checkpoint: Path) -> None:
    detector, _ = exported("--temperature", "fit", "--data.root", "demo")
    temperature = detector.facts.temperature
    assert temperature != 1
    assert np.abs(detector.run(demo())[1] * temperature - expected(small_checkpoint, demo())).max() < 10 * FLOAT32


FAULTS = {
    "channels the other way": ("_between", lambda first, second, share: graph_between(first, second, share).flip(-1)),
    "nearest neighbour": ("_between", lambda first, second, share: first.float()),
    "resized by whole pixels": ("_places", lambda length, size: graph_places(max(length - 1, 1), size)),
    "batch norm forgotten": ("simplified", lambda network, size: without_norms(network)),
}
graph_between, graph_places = graph._between, graph._places


def without_norms(network: Any) -> Any:
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    return network.eval()


@pytest.mark.parametrize("name", FAULTS)
def test_a_graph_that_is_wrong_gets_no_name(
    small_checkpoint: Path, workplace: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    where, wrong = FAULTS[name]
    monkeypatch.setattr(graph, where, wrong)
    assert main([*ASKED, "--sample", "40"]) == 1
    output = capsys.readouterr()
    assert re.search(r"model\.onnx is not written: .*(differ by up to|flipped)", output.out), output
    assert files(workplace) == ["best.ckpt"]


def test_accuracy_that_is_lost_gets_no_name_unless_it_is_allowed(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    scores = {"lightning": {"accuracy": 0.9, "auroc": 0.9}, "onnxruntime": {"accuracy": 0.88, "auroc": 0.9}}
    monkeypatch.setattr(verification.Comparison, "scores", lambda self, labels: scores)
    assert main([*ASKED, "--precision", "float16", "--sample", "40"]) == 1
    assert "model.onnx is not written: 2.00 points of accuracy are lost (limit 0.3)" in capsys.readouterr().out
    assert files(workplace) == ["best.ckpt"]
    exported("--precision", "float16", "--max_loss", "2.5")


def test_a_logit_that_is_no_number_gets_no_name(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(Detector, "run", lambda self, images: (np.full(len(images), np.nan, np.float32),) * 2)
    monkeypatch.setattr(verification.Comparison, "scores", lambda self, labels: {})
    assert main([*ASKED, "--precision", "int8", "--data.root", "demo", "--sample", "40"]) == 1
    assert "40 logits of real images are not finite" in capsys.readouterr().out
    assert files(workplace) == ["best.ckpt"]


def test_what_is_there_is_kept_unless_told_and_whatever_goes_wrong(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("model.onnx", "model.json"):
        (workplace / name).write_text("before")
        assert main([*ASKED]) == 2
        assert f"error: {name} exists already: give --overwrite" in capsys.readouterr().err
        if name == "model.onnx":
            (workplace / name).unlink()
    (workplace / "model.onnx").write_text("before")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "compare_with", interrupted)
    assert main([*ASKED, "--overwrite"]) == 130
    assert files(workplace) == ["best.ckpt", "model.json", "model.onnx"]
    assert {(workplace / name).read_text() for name in ("model.onnx", "model.json")} == {"before"}


def test_a_full_disk_is_one_line_and_leaves_nothing(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    load_images()  # decoded before the disk is full
    monkeypatch.setattr(Path, "write_bytes", full)
    assert main([*ASKED, "--sample", "40"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: cannot write model.onnx: No space left on device"
    assert files(workplace) == ["best.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["--ckpt_path", "https://host/best.ckpt"], "checkpoints are read from files only"),
        (["--ckpt_path", "nowhere.keras"], "nowhere.keras"),
        (["--output", "model.pt"], "--output: expected a name that ends in .onnx"),
        (["--output", "best.ckpt/model.onnx"], "cannot write best.ckpt/model.onnx"),
        (["--threshold", "1.5"], "--threshold: expected 0 to 1"),
        (["--sample", "1"], "--sample: expected at least 2"),
        (["--max_loss", "-1"], "--max_loss: expected 0 or more"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--precision", "int8"], "int8 is calibrated on training images: name them with --data.root"),
        (["--temperature", "fit"], "--temperature fit needs validation images"),
        (["--head", "avgpool, dense 1"], "are for Keras's files: a checkpoint tells them itself"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    small_checkpoint: Path, workplace: Path, arguments: list[str], says: str, capsys: Any
) -> None:
    assert main([*ASKED, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert says in lines[-1] and lines[-1].startswith("error: ")
    assert files(workplace) == ["best.ckpt"]


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


def test_a_checkpoint_that_is_a_pickle_is_refused_and_not_run(workplace: Path, capsys: Any) -> None:
    (workplace / "best.ckpt").write_bytes(pickle.dumps(Harmful()))
    assert main([*ASKED]) == 2
    assert "best.ckpt is named as a checkpoint is, and is none" in capsys.readouterr().err
    torch.save({"state_dict": {}, "hyper_parameters": Harmful()}, workplace / "best.ckpt")
    assert main([*ASKED]) == 2
    assert "best.ckpt is no checkpoint that can be read safely" in capsys.readouterr().err
    assert files(workplace) == ["best.ckpt"]


def test_the_run_beside_a_checkpoint_gives_the_images(small_checkpoint: Path, workplace: Path, caplog: Any) -> None:
    images = load_images()
    split = make_split(images, "clean", seed=5)
    write_split(workplace / "split.json", images, split)
    (workplace / "config.yaml").write_text("data:\n  root: demo\n")
    assert main([*ASKED]) == 0
    real = json.loads(Path("model.json").read_text())["real"]
    assert real["split_of_the_run"] and real["images"] == len(split.test)
    assert real["data_digest"] == images.digest
    (workplace / "config.yaml").write_text("data:\n  root: gone.zip\n")
    assert main([*ASKED, "--overwrite", "--sample", "40"]) == 0
    assert "the run's data, gone.zip, are not there: compared on the built-in demo" in caplog.text


@pytest.fixture
def other_images(workplace: Path) -> Path:
    """other/{FAKE,REAL}/*.png, twenty of each, unlike the demo's."""
    rng = np.random.default_rng(1)
    for label in ("FAKE", "REAL"):
        (workplace / "other" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(workplace / "other" / label / f"{number}.png")
    return Path("other")


@pytest.mark.parametrize("name", ["split.json", "metrics.json", "config.yaml"])
def test_a_damaged_record_of_the_run_is_refused_and_nothing_is_written(
    small_checkpoint: Path, workplace: Path, other_images: Path, name: str, capsys: Any
) -> None:
    images = load_images(other_images)
    write_split(workplace / "split.json", images, make_split(images, "clean"))
    (workplace / "metrics.json").write_text(sealed_json({"checkpoint_sha256": "of another", "epochs": 3}))
    (workplace / "config.yaml").write_text(sealed_config("data:\n  root: other\n"))
    content = (workplace / name).read_bytes()
    (workplace / name).write_bytes(content[:-20] + bytes([content[-20] ^ 4]) + content[-19:])
    before = files(workplace)
    assert main([*ASKED]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert name in line and ("damaged" in line or "it was changed" in line)
    assert files(workplace) == before


def test_a_split_of_other_images_is_refused_where_the_runs_own_are_asked_for_and_told_where_others_are(
    small_checkpoint: Path, workplace: Path, other_images: Path, capsys: Any
) -> None:
    images = load_images(other_images)
    (workplace / "config.yaml").write_text(sealed_config("data:\n  root: other\n"))
    write_split(workplace / "split.json", images, make_split(images, "clean"))
    shutil.copy("other/FAKE/0.png", "other/FAKE/new.png")  # the data changed behind the run
    assert main([*ASKED]) == 2
    assert "split.json was written for other images than other, so what" in capsys.readouterr().err
    assert main([*ASKED, "--data.root", "other"]) == 0
    assert "NOT known: whether they were trained on" in capsys.readouterr().out
    real = read_json(Path("model.json"))[0]["real"]
    assert real["seen_in_training"] is None and not real["split_of_the_run"]


def test_images_that_the_checkpoint_was_trained_on_are_counted_in_any_source(
    small_checkpoint: Path, workplace: Path, other_images: Path, capsys: Any
) -> None:
    shutil.copytree("other", "trained")
    data = CIFAKEDataModule("trained", protocol="clean", sample=None)
    data.setup()
    content = torch.load("best.ckpt", weights_only=True)
    content[trained_on.KEY] = [trained_on.entry_of(data)]
    torch.save(content, "best.ckpt")
    for label in ("FAKE", "REAL"):  # none of the same name, and one that is new
        for path in sorted((workplace / "other" / label).iterdir()):
            path.rename(path.with_name(f"renamed {path.name}"))
        Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(workplace / "other" / label / "new.png")
    assert main([*ASKED, "--data.root", "other"]) == 0
    real = read_json(Path("model.json"))[0]["real"]
    assert 0 < real["seen_in_training"] <= real["images"]
    assert f"{real['seen_in_training']} of them were TRAINED ON" in capsys.readouterr().out


def test_model_and_manifest_come_together_or_not_at_all_and_what_a_killed_export_left_goes(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    left = workplace / ".model.onnx.killed.tmp"
    left.mkdir()
    (left / "lock").touch()
    (left / "model.onnx").write_bytes(b"half")

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(verified_export, "sealed_json", full)
        assert main([*ASKED, "--output", "new/folder/model.onnx", "--sample", "40"]) == 2
        assert capsys.readouterr().err.endswith("cannot write new/folder/model.onnx: No space left on device\n")
        assert files(workplace) == [".model.onnx.killed.tmp", "best.ckpt"]  # and no folder
        assert main([*ASKED, "--sample", "40"]) == 2
    assert files(workplace) == ["best.ckpt"]


@pytest.mark.long
def test_an_export_that_is_killed_leaves_a_whole_model_or_none_and_the_next_one_clears_up(
    small_checkpoint: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six SIGKILLs at seeded moments after the temporary is there; at most the last one's is left."""
    rng = random.Random(0)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # tiny.SmallNetwork
    command = [sys.executable, "-m", "lightning_cifake", *ASKED, "--overwrite", "--sample", "400"]
    for _ in range(6):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            before = set(workplace.glob(".model.onnx.*"))
            while process.poll() is None and set(workplace.glob(".model.onnx.*")) <= before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2))
            process.kill()
        found = {name for name in ("model.onnx", "model.json") if (workplace / name).exists()}
        assert found != {"model.json"}  # the model gets its name first
        if found:
            assert Detector("model.onnx").checked
        assert len(list(workplace.glob(".*.tmp"))) <= 2  # of this one: the model's, and while both get their names
    assert main([*ASKED, "--overwrite", "--sample", "40"]) == 0
    assert files(workplace) == ["best.ckpt", "model.json", "model.onnx"]


@pytest.mark.long  # parity_tests/test_system.py exports it too, with trained weights
def test_the_real_network_is_exported_in_float32_within_its_limit(tmp_path: Path) -> None:
    """The ResNet50 of the paper, on batch norms that are not the identity."""
    from lightning_cifake.training.classifier import FakeImageClassifier

    torch.manual_seed(0)
    classifier = FakeImageClassifier()
    assert isinstance(classifier.network, ResNet50Detector)
    for module in classifier.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    classifier.eval()
    model = export.to_onnx(classifier)
    export.set_metadata(model, export.metadata(classifier, "float32", "uint8", 1.0, 0.5))
    verification.check_graph(model)
    (tmp_path / "model.onnx").write_bytes(export.serialized(model))
    hard = list(edge_case_images().values())
    reference = verification.logits_of(verification.lightning_logits(ClassifierModel(classifier)), hard)
    came = verification.logits_of(verification.onnxruntime_logits(Detector(tmp_path / "model.onnx")), hard)
    assert np.abs(came - reference).max() < verification.LOGIT
    assert len(set(reference)) == len(hard)


def test_manifests_are_refused_where_they_are_of_another_file(exported_model: Path) -> None:
    assert manifest.read_manifest(Path("model.onnx"))[0]["model"]["file"] == "model.onnx"
    Path("model.json").write_text('{"no": "manifest"}')
    with pytest.raises(UserError, match="is not the manifest of an exported model"):
        manifest.read_manifest(Path("model.onnx"))
