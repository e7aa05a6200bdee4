"""A calibrated model is the one it was made of behind a map: its graph, its metadata and its manifest say the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made import write_images

from lightning_cifake import Detector
from lightning_cifake.assessment import calibrate
from lightning_cifake.assessment.images import Asked
from lightning_cifake.assessment.models import open_model
from lightning_cifake.commands.main import main
from lightning_cifake.deploy import calibrated_graph, export
from lightning_cifake.deploy.calibrated import write_calibrated
from lightning_cifake.deploy.calibrated_graph import RAW, calibrate_graph
from lightning_cifake.deploy.predict import checkpoint_model
from lightning_cifake.deploy.reference_images import reference_images
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.calibration import Calibration
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration, write_calibration
from lightning_cifake.evaluation.thresholds import parse_rule
from lightning_cifake.files import read_json, sha256_of
from lightning_cifake.shipped import MODELS, released_model

WARM = Calibration(2.5)
BENT = Calibration(0.8, ((-2.0, -3.0), (0.1, 0.5), (0.4, 1.0), (3.0, 1.5)))
RECORD = {"method": "temperature", "images": 40}
SHADES = np.broadcast_to(np.arange(0, 256, 5, dtype=np.uint8)[:, None, None, None], (52, 4, 4, 3))


def answers(model: onnx.ModelProto, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "asked.onnx"
    path.write_bytes(export.serialized(model))
    import onnxruntime

    return tuple(onnxruntime.InferenceSession(path).run(["prob_real", "logit"], {"images": SHADES}))


@pytest.mark.parametrize("calibration", [WARM, BENT, Calibration()], ids=["temperature", "knots", "nothing"])
def test_the_graph_answers_as_the_map_of_its_own_logits(
    calibration: Calibration, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load_model(make_model(gain=20))
    _, raw = answers(model, tmp_path)
    for _ in range(2):  # the second time over the first's
        calibrate_graph(model, calibration)
        prob, logit = answers(model, tmp_path)
        assert np.abs(logit - calibration(raw)).max() < 1e-5
        assert np.abs(prob - 1 / (1 + np.exp(-logit.astype(np.float64)))).max() < 1e-6
    onnx.checker.check_model(model, full_check=True)


def test_a_map_takes_the_place_of_the_one_before_and_nothing_of_it_stays(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load_model(make_model(gain=20))
    _, raw = answers(model, tmp_path)
    calibrate_graph(model, WARM)
    size = len(model.SerializeToString())
    calibrate_graph(model, BENT)
    calibrate_graph(model, WARM)
    assert len(model.SerializeToString()) == size
    assert np.abs(answers(model, tmp_path)[1] - raw / 2.5).max() < 1e-6


def test_the_temperature_of_an_export_is_taken_off_and_the_network_stays_to_the_last_bit() -> None:
    for name in MODELS:
        model = onnx.load_model(released_model(name))
        before = {each.name: each.SerializeToString() for each in model.graph.initializer}
        steps = len(model.graph.node)
        divided = {each.key: each.value for each in model.metadata_props}["temperature"] != "1.0"
        calibrate_graph(model, WARM)
        after = {each.name: each.SerializeToString() for each in model.graph.initializer}
        assert len(model.graph.node) == steps + 2 - divided, name  # a division and a name for its result
        assert sum(RAW in node.output for node in model.graph.node) == 1
        changed = before.keys() - after.keys()
        assert len(changed) <= divided and all(after[each] == before[each] for each in before.keys() & after.keys())


def test_a_calibrated_model_passes_verify_and_answers_with_its_own_threshold(exported_model: Path, capsys: Any) -> None:
    plain = Detector(exported_model)
    logits = plain.run(reference_images())[1]
    threshold = float(np.median(BENT(logits)))
    threshold = 1 / (1 + np.exp(-threshold))
    _, violations = write_calibrated(exported_model, Path("new/model2.onnx"), BENT, threshold, RECORD)
    assert violations == []
    detector = Detector("new/model2.onnx")
    assert detector.checked and detector.threshold == threshold and detector.facts.temperature == 0.8
    assert np.abs(detector.run(reference_images())[1] - BENT(logits)).max() < 1e-4
    assert {each.verdict for each in detector.predict(reference_images())} == {"AI", "REAL"}
    assert Calibration.of_metadata(detector.facts.metadata) == BENT
    manifest, sealed = read_json(Path("new/model2.json"))
    assert sealed and manifest["calibration"] == RECORD and manifest["model"]["sha256"] == detector.sha256
    assert manifest["model"]["decision_threshold"] == threshold and "real" not in manifest  # nobody measured that
    assert manifest["made_of"]["model"]["sha256"] == plain.sha256
    capsys.readouterr()
    assert main(["verify", "new/model2.onnx"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verified: new/model2.onnx")


def test_verify_against_the_checkpoint_reckons_with_the_map(exported_model: Path, capsys: Any) -> None:
    write_calibrated(exported_model, Path("model2.onnx"), BENT, 0.4, RECORD)
    assert main(["verify", "model2.onnx", "--ckpt_path", "best.ckpt", "--sample", "40"]) == 0
    assert "verified: model2.onnx" in capsys.readouterr().out


def test_calibrating_again_is_reckoned_from_the_network_and_back_to_nothing_gives_the_first_answers(
    exported_model: Path,
) -> None:
    write_calibrated(exported_model, Path("bent.onnx"), BENT, 0.4, RECORD)
    _, violations = write_calibrated(Path("bent.onnx"), Path("back.onnx"), Calibration(), 0.5, RECORD)
    assert violations == []
    asked = reference_images()
    assert np.abs(Detector("back.onnx").run(asked)[1] - Detector(exported_model).run(asked)[1]).max() < 1e-6


def test_a_checkpoint_is_exported_first_and_its_export_goes(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_model(loaded: Any, root: Any, output: Path, settings: Any) -> dict[str, Any]:
        assert loaded.path == Path("best.ckpt") and settings.temperature is None and root is None
        shutil.copy("model.json", output.with_suffix(".json"))
        shutil.copy("model.onnx", output)
        return {"violations": []}

    monkeypatch.setattr(calibrate, "export_model", export_model)
    images = write_images(Path("mine"), *(f"{label}/{n}.png" for label in ("FAKE", "REAL") for n in range(12)))
    model = open_model("best.ckpt")
    found = calibrate.calibrate(model, Asked(str(images)), Path("new/model2.onnx"), parse_rule("0.4"), "keep")
    assert found.violations == [] and Detector("new/model2.onnx").threshold == 0.4
    assert main(["verify", "new/model2.onnx", "--ckpt_path", "best.ckpt", "--sample", "40"]) == 0
    assert sorted(each.name for each in Path("new").iterdir()) == [
        "model2-reliability.png", "model2.json", "model2.onnx",
    ]  # fmt: skip


def test_a_model_whose_graph_would_answer_otherwise_is_not_written(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrated_graph, "_divide", lambda graph, logit, temperature: logit)
    _, violations = write_calibrated(exported_model, Path("new/model2.onnx"), WARM, 0.4, RECORD)
    assert violations and not Path("new").exists()


def test_a_model_without_its_manifest_and_one_that_ends_otherwise_are_one_line(
    exported_model: Path, make_model: Callable[..., Path]
) -> None:
    Path("model.json").unlink()
    with pytest.raises(UserError, match="expected it beside the model, as export wrote it"):
        write_calibrated(exported_model, Path("model2.onnx"), WARM, 0.5, RECORD)
    model = onnx.load_model(make_model())
    model.graph.node[-1].op_type = "HardSigmoid"
    with pytest.raises(UserError, match="does not end as an export's does"):
        calibrate_graph(model, WARM)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_export_keeps_what_was_found_for_its_checkpoint_and_leaves_it_where_another_is_asked_for(
    precision: str, small_checkpoint: Path, capsys: Any
) -> None:
    raw = checkpoint_model(small_checkpoint).logits(reference_images())
    found = CheckpointCalibration(BENT, 0.4, RECORD)
    write_calibration(small_checkpoint, sha256_of(small_checkpoint), found)
    arguments = ["export", "--ckpt_path", "best.ckpt", "--sample", "40", "--precision", precision]
    assert main([*arguments, "--data.root", "demo", "--max_loss", "100", "--output", "kept.onnx"]) == 0
    detector, manifest = Detector("kept.onnx"), read_json(Path("kept.json"))[0]
    assert (detector.threshold, manifest["calibration"]) == (0.4, RECORD)
    assert Calibration.of_metadata(detector.facts.metadata) == BENT
    differences = np.abs(detector.run(reference_images())[1] - BENT(raw))
    assert differences.max() < 1e-4 if precision == "float32" else differences.mean() < 0.1
    assert main(["verify", "kept.onnx"]) == 0
    if precision == "float32":
        assert main([*arguments, "--threshold", "0.6", "--output", "asked.onnx"]) == 0
        assert (Detector("asked.onnx").threshold, Detector("asked.onnx").facts.temperature) == (0.6, 1)


def test_a_calibration_that_was_changed_is_refused(small_checkpoint: Path) -> None:
    path = write_calibration(small_checkpoint, sha256_of(small_checkpoint), CheckpointCalibration(WARM, 0.4, RECORD))
    assert checkpoint_model(small_checkpoint).threshold == 0.4
    path.write_text(path.read_text().replace("0.4", "0.5"))
    with pytest.raises(UserError, match="is damaged: it is not what was written"):
        checkpoint_model(small_checkpoint)
    path.write_text("{}")
    with pytest.raises(UserError, match="is not what calibrate writes"):
        checkpoint_model(small_checkpoint)
