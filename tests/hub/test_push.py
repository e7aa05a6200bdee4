"""``push`` shows what would go, and sends it, once, when told to; with a card that the Hub can read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, LocalHub
from made import write_checkpoint, write_images, write_model

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.evaluation.calibration import Calibration
from lightning_cifake.evaluation.checkpoint_calibration import CheckpointCalibration, write_calibration
from lightning_cifake.files import sha256_of
from lightning_cifake.networks import build_network
from lightning_cifake.shipped import released_model


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def front_of(hub: LocalHub, name: str = "me/net") -> dict:
    repo = hub.repos[name]
    card = repo.commits[repo.refs["main"]]["README.md"].decode()
    return yaml.safe_load(card.split("---\n")[1])


def test_without_send_nothing_is_sent_and_all_that_would_go_is_shown(hub: LocalHub, logged_in, capsys):
    assert main(["push", "compact", "--to", "me/net"]) == 0
    said = capsys.readouterr().out
    sha256 = json.loads(released_model("compact").with_suffix(".json").read_text())["model"]["sha256"]
    size = f"{released_model('compact').stat().st_size:,}"
    for part in ("cifake-compact-int8.onnx", sha256, size, "README.md", "pipeline_tag: image-classification"):
        assert part in said, part
    assert "to hf://me/net, a new repository, private" in said and "nothing was sent: add --send" in said
    assert not hub.repos and not [each for each in hub.asked if each.startswith(("POST", "PUT"))]
    assert TOKEN not in said


def test_an_exported_model_goes_and_comes_back_and_the_second_push_is_none(hub: LocalHub, logged_in, capsys, image):
    push = ["push", "compact", "--to", "me/net", "--send"]
    assert main(push) == 0
    said = capsys.readouterr()
    assert "sent: http://127.0.0.1" in said.out and TOKEN not in said.out + said.err
    assert hub.repos["me/net"].private and hub.repos["me/net"].messages == ["initial commit", "Model and card"]
    detector = Detector("hf://me/net")
    assert detector.sha256 == Detector("compact").sha256
    assert detector.predict(image)[0].prob_real == Detector("compact").predict(image)[0].prob_real
    assert main(push) == 0
    said = capsys.readouterr().out
    assert "nothing differs from hf://me/net: nothing was sent" in said and said.count(" same ") == 3
    assert len(hub.repos["me/net"].commits) == 2


def test_the_card_has_the_figures_that_were_measured_at_the_export_and_the_licence(hub: LocalHub, logged_in):
    assert main(["push", "compact", "--to", "me/net", "--send"]) == 0
    front = front_of(hub)
    manifest = json.loads(released_model("compact").with_suffix(".json").read_text())
    result = front["model-index"][0]["results"][0]
    metrics = {each["type"]: each["value"] for each in result["metrics"]}
    assert metrics == {key: manifest["real"]["onnxruntime"][name] for key, name in
                       (("accuracy", "accuracy"), ("roc_auc", "auroc"))}  # fmt: skip
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == (
        "mit", "lightning_cifake", "image-classification",
    )  # fmt: skip
    assert "onnx" in front["tags"]
    from huggingface_hub import ModelCard

    repo = hub.repos["me/net"]
    card = ModelCard(repo.commits[repo.refs["main"]]["README.md"].decode())
    assert card.data.eval_results[0].metric_value == metrics["accuracy"], "the library reads it as the Hub does"


def test_an_evaluation_of_this_model_is_on_its_card_and_one_of_another_is_refused(
    hub: LocalHub, logged_in, workplace: Path, capsys
):
    evaluation = Path(__file__).parents[2] / "docs" / "evaluations" / "compact"
    assert main(["push", "compact", "--to", "me/net", "--evaluation", str(evaluation), "--send"]) == 0
    measured = json.loads((evaluation / "metrics.json").read_text())["models"][0]["all"]["figures"]
    result = front_of(hub)["model-index"][0]["results"][0]
    metrics = {(each["type"], each["name"]): each["value"] for each in result["metrics"]}
    assert metrics["accuracy", "Accuracy"] == measured["accuracy"]["value"]
    assert metrics["recall", "Recall of AI"] == measured["recall_fake"]["value"]
    capsys.readouterr()
    assert main(["push", "best", "--to", "me/net", "--evaluation", str(evaluation)]) == 2
    assert "is not of this model: expected what `evaluate` wrote of the file" in capsys.readouterr().err


def test_a_checkpoint_goes_as_safetensors_without_its_optimizer(hub: LocalHub, logged_in, workplace: Path, capsys):
    torch.manual_seed(0)
    network = build_network({"class_path": "compact", "init_args": {"width": 4}})
    state = {"optimizer_states": [{"state": {}, "param_groups": []}]}
    write_checkpoint(workplace / "best.ckpt", network, **state)
    assert main(["push", "best.ckpt", "--to", "me/net", "--license", "apache-2.0", "--send"]) == 0
    repo = hub.repos["me/net"]
    files = repo.commits[repo.refs["main"]]
    assert sorted(files) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert front_of(hub)["license"] == "apache-2.0" and "safetensors" in front_of(hub)["tags"]
    config = json.loads(files["config.json"])
    assert config["network"]["class_path"] == "lightning_cifake.networks.CompactCNN"
    assert str(workplace) not in json.dumps(config)
    folder = write_images(workplace / "data", "FAKE/a.png", "REAL/b.png")
    for model in ("best.ckpt", "hf://me/net"):
        flag = "--ckpt_path" if model.endswith(".ckpt") else "--model"
        assert main(["predict", flag, model, str(folder), "--csv"]) == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if ".png," in line]
    assert answers[:2] == answers[2:]


def test_what_calibrate_left_beside_a_checkpoint_goes_with_it_and_is_answered_by(
    hub: LocalHub, logged_in, workplace: Path, capsys
):
    torch.manual_seed(0)
    network = build_network({"class_path": "compact", "init_args": {"width": 4}})
    path = write_checkpoint(workplace / "best.ckpt", network)
    folder = str(write_images(workplace / "data", "FAKE/a.png", "REAL/b.png"))
    found = CheckpointCalibration(Calibration(0.25, ((-1.0, -3.0), (1.0, 2.0))), 0.125, {"method": "isotonic"})
    assert main(["predict", "--ckpt_path", "best.ckpt", folder, "--csv"]) == 0
    write_calibration(path, sha256_of(path), found)
    assert main(["predict", "--ckpt_path", "best.ckpt", folder, "--csv"]) == 0
    assert main(["push", "best.ckpt", "--to", "me/net", "--send"]) == 0
    assert main(["predict", "--model", "hf://me/net", folder, "--csv"]) == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if ".png," in line]
    assert answers[2:4] == answers[4:] != answers[:2]
    write_calibration(path, "0" * 64, found)
    assert main(["push", "best.ckpt", "--to", "me/net", "--send"]) == 2
    assert "was made for another best.ckpt than is there now" in capsys.readouterr().err


def test_a_change_is_one_more_commit_of_what_differs(hub: LocalHub, logged_in, workplace: Path, capsys):
    (workplace / "card.md").write_text("---\nlicense: mit\n---\nmine\n")
    assert main(["push", "compact", "--to", "me/net", "--card", "card.md", "--send"]) == 0
    (workplace / "card.md").write_text("---\nlicense: mit\n---\nmine, once more\n")
    hub.asked.clear()
    assert main(["push", "compact", "--to", "me/net", "--card", "card.md", "--message", "Card", "--send"]) == 0
    assert hub.repos["me/net"].messages[-1] == "Card"
    assert not [each for each in hub.asked if "/large/" in each or "lfs" in each], "the model was there already"


def test_it_can_be_public_and_a_repository_that_is_there_stays_as_it_is(hub: LocalHub, logged_in, capsys):
    assert main(["push", "compact", "--to", "me/open", "--public", "--send"]) == 0
    assert not hub.repos["me/open"].private
    hub.add("me/closed", {"x": b"y"}, private=True)
    assert main(["push", "compact", "--to", "me/closed", "--public", "--send"]) == 0
    assert hub.repos["me/closed"].private


def test_without_a_network_it_still_shows_what_would_go_and_sends_nothing(hub: LocalHub, offline, capsys):
    assert main(["push", "compact", "--to", "me/net"]) == 0
    assert "not compared with what is there: hf://me/net: HF_HUB_OFFLINE is set" in capsys.readouterr().out
    assert main(["push", "compact", "--to", "me/net", "--send"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_what_cannot_be_sent_is_one_line_and_nothing_is_there_afterwards(
    hub: LocalHub, workplace: Path, capfd, monkeypatch
):
    shutil.copy(released_model("compact"), workplace / "alone.onnx")
    write_model(workplace / "foreign.onnx")
    (workplace / "pickle.ckpt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    (workplace / "bad.md").write_text("---\nlicense: [mit\n---\nmine\n")
    (workplace / "model.keras").write_bytes(b"\x89HDF\r\n\x1a\n")
    for arguments, expected in [
        (["compact", "--to", "me/net", "--send"], "nobody is logged in: run `hf auth login`, or set HF_TOKEN"),
        (["compact", "--to", "net"], "expected hf://owner/name"),
        (["compact", "--to", "../net"], "expected hf://owner/name"),
        (["compact", "--to", "me/net@v1"], "expected owner/name alone"),
        (["compact", "--to", "me/net", "--license", "MIT License"], "--license: expected a name"),
        (
            ["compact", "--to", "me/net", "--evaluation", "x", "--card", "y"],
            "expected --card or --evaluation, got both",
        ),
        (["compact", "--to", "me/net", "--card", "none.md"], "--card: none.md cannot be read"),
        (["compact", "--to", "me/net", "--card", "bad.md"], "--card bad.md: expected YAML between its first lines ---"),
        (["compact", "--to", "me/net", "--evaluation", "none"], "none/metrics.json cannot be read"),
        (["none.onnx", "--to", "me/net"], "there is no file none.onnx"),
        (["alone.onnx", "--to", "me/net"], "expected it beside the model, as export wrote it"),
        (["pickle.ckpt", "--to", "me/net"], "pickle.ckpt"),
        (["model.keras", "--to", "me/net"], "is a Keras file: make a checkpoint of it"),
    ]:
        assert main(["push", *arguments]) == 2, arguments
        said = capfd.readouterr().err
        assert expected in said and "Traceback" not in said, said
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert main(["push", "compact", "--to", "me/net", "--send"]) == 2
    said = capfd.readouterr().err
    assert "does not allow it (401): log in" in said and "hf_another" not in said
    assert not hub.repos
