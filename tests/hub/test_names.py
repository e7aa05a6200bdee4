"""Models of the Hub by name: fetched, checked, remembered; and what is refused, in a line each."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, LocalHub
from made import write_model

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.errors import UserError
from lightning_cifake.hub import HubName, fetch, hub_errors, parse_name
from lightning_cifake.serve.description import describe
from lightning_cifake.serve.settings import Settings
from lightning_cifake.shipped import model_file, released_model


@pytest.fixture(scope="module")
def model() -> dict[str, bytes]:
    """A released model, as it lies in a repository."""
    path = released_model("compact")
    return {"model.onnx": path.read_bytes(), "model.json": path.with_suffix(".json").read_bytes()}


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("hf://me/net", "me/net", None, None),
        ("hf://me/net-1.0_b@v1.2", "me/net-1.0_b", "v1.2", None),
        ("hf://me/net/deep/x.onnx", "me/net", None, "deep/x.onnx"),
        ("hf://me/net@main/x.onnx", "me/net", "main", "x.onnx"),
        ("hf://me/net@refs/pr/3/x.onnx", "me/net", "refs/pr/3", "x.onnx"),
        ("hf://me/net@a%2Fb", "me/net", "a/b", None),
    ],
)
def test_a_name_is_taken_apart_as_the_hubs_own_file_system_does(text, repo, revision, file):
    assert parse_name(text) == HubName(text, repo, revision, file)


@pytest.mark.parametrize(
    "text",
    ["hf://net", "hf://", "hf://me/net/", "hf://me/net@", "hf://../net", "hf://me/..", "hf://me/net@..",
     "hf://me/net@%2e%2e%2fx", "hf://me/net@%2Fetc", "hf://me/net/../x.onnx", "hf://me/net//x.onnx", "hf://me/a--b",
     "hf://me/net.git", "hf://me/n\x1bt", "hf://me/net/a\x1b.onnx", "hf://me/net/a\\b.onnx", "hf://.me/net",
     "hf://me/" + "n" * 97],
)  # fmt: skip
def test_what_is_no_name_or_leads_elsewhere_is_refused_before_anything_is_asked(hub: LocalHub, text):
    with pytest.raises(UserError) as raised:
        fetch(text)
    assert "expected hf://owner/name" in str(raised.value) and "\x1b" not in str(raised.value)
    assert not hub.asked


def test_predict_answers_with_a_model_of_the_hub_as_with_the_file(hub: LocalHub, model, image: Path, capsys, caplog):
    commit = hub.add("me/net", model)
    with caplog.at_level(logging.INFO, "lightning_cifake"):
        assert main(["predict", "--model", "hf://me/net", str(image), "--json"]) == 0
    found = capsys.readouterr().out
    assert f"model.onnx of commit {commit[:12]}" in caplog.text
    assert main(["predict", "--model", str(released_model("compact")), str(image), "--json"]) == 0
    assert found == capsys.readouterr().out


def test_detector_verify_and_open_model_take_the_name(hub: LocalHub, model, capsys):
    from lightning_cifake.assessment.models import open_model

    hub.add("me/net", model)
    detector = Detector("hf://me/net")
    assert detector.checked and detector.path.with_suffix(".json").is_file()
    assert main(["verify", "hf://me/net"]) == 0
    assert "verified: " in capsys.readouterr().out
    opened = open_model("hf://me/net")
    assert (opened.name, opened.sha256) == ("net", detector.sha256)
    assert sum("resolve" in each and each.startswith("GET") for each in hub.asked) == 2, "fetched once, both files"


def test_the_server_shows_the_card_of_its_repository(hub: LocalHub, model):
    hub.add("me/net", {**model, "README.md": b"---\nlicense: mit\n---\n# My net"})
    found = describe(Detector("hf://me/net"), Settings("hf://me/net"))
    assert found["card"] == "<h1>My net</h1>\n"
    path = fetch("hf://me/net")
    assert describe(Detector(path), Settings(path))["card"] is None, "a README.md beside any file is not its card"


def test_a_revision_is_honoured_by_branch_by_commit_and_after_main_has_moved(hub: LocalHub, model, tmp_path: Path):
    write_model(tmp_path / "other.onnx", gain=3)
    first = hub.add("me/net", {"model.onnx": model["model.onnx"]})
    hub.repos["me/net"].refs["v1"] = first
    second = hub.add("me/net", {"model.onnx": (tmp_path / "other.onnx").read_bytes()})
    for name, commit in (("@v1", first), (f"@{first}", first), ("", second), ("@main", second)):
        path = fetch(f"hf://me/net{name}")
        assert path.parent.name == commit
        assert path.read_bytes() == hub.repos["me/net"].commits[commit]["model.onnx"]


def test_a_pinned_commit_that_is_in_the_cache_is_not_fetched_again(hub: LocalHub, model, monkeypatch):
    commit = hub.add("me/net", model)
    fetch(f"hf://me/net@{commit}")
    from lightning_cifake import hub as module

    module._fetched.clear()
    hub.asked.clear()
    fetch(f"hf://me/net@{commit}")
    assert not [each for each in hub.asked if "resolve" in each]


def test_offline_the_cache_answers_and_what_it_lacks_is_one_line(hub: LocalHub, model, request):
    from lightning_cifake import hub as module

    hub.add("me/net", model)
    before = fetch("hf://me/net")
    request.getfixturevalue("offline")
    module._fetched.clear()
    hub.asked.clear()
    assert fetch("hf://me/net") == before and Detector("hf://me/net").checked
    for name in ("hf://me/other", "hf://me/net@v9"):
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and the cache holds nothing of it"):
            fetch(name)
    assert not hub.asked


def test_without_a_network_the_cache_answers_with_a_warning_and_else_it_is_one_line(
    hub: LocalHub, model, monkeypatch, caplog
):
    from huggingface_hub import constants

    from lightning_cifake import hub as module

    hub.add("me/net", model)
    before = fetch("hf://me/net")
    module._fetched.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf://me/net") == before
    assert "127.0.0.1:9 cannot be reached: taken from the cache" in caplog.text
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached \(.*\), and the cache holds nothing"):
        fetch("hf://me/other")


def test_a_file_that_was_tampered_with_in_the_cache_is_refused(hub: LocalHub, model):
    from lightning_cifake import hub as module

    hub.add("me/net", model)
    path = fetch("hf://me/net")
    for name in ("model.onnx", "model.json"):
        blob = path.with_name(name).resolve()
        content = blob.read_bytes()
        blob.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
        module._fetched.clear()
        with pytest.raises(UserError, match=rf"{name} in the cache is not what the Hub holds: expected [0-9a-f]+, got"):
            fetch("hf://me/net")
        blob.write_bytes(content)


def test_a_file_that_was_tampered_with_on_the_hub_is_refused_by_its_own_digest_and_by_its_manifests(
    hub: LocalHub, model, tmp_path: Path, image: Path, capfd
):
    flipped = bytearray(model["model.onnx"])
    flipped[5000] ^= 1
    hub.add("me/net", {"model.onnx": bytes(flipped)})
    assert main(["predict", "--model", "hf://me/net", str(image)]) == 2
    said = capfd.readouterr().err
    assert "is damaged, or was changed after its export" in said and "Traceback" not in said
    hub.add("me/net", {"model.json": model["model.json"]})
    with pytest.raises(UserError, match=r"is not the file that model\.json beside it was written for"):
        Detector(f"hf://me/net@{hub.repos['me/net'].refs['main']}")
    plain = write_model(tmp_path / "plain.onnx")  # a whole model, and not this one
    hub.add("me/net", {"model.onnx": plain.read_bytes()})
    with pytest.raises(UserError, match=r"is not the file that model\.json beside it was written for"):
        Detector("hf://me/net@main")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.ckpt", "model.pt", "weights.pkl", "model.keras"])
def test_what_could_run_code_as_it_is_read_is_not_even_fetched(hub: LocalHub, name):
    hub.add("me/net", {name: b"\x80\x04cos\nsystem\n", "config.json": b"{}"})
    for text in ("hf://me/net", f"hf://me/net/{name}"):
        with pytest.raises(UserError, match=f"{name} could run code as it is read"):
            fetch(text)
    assert not [each for each in hub.asked if "resolve" in each]


def test_what_is_not_there_or_not_allowed_is_one_line_each(hub: LocalHub, model, image: Path, capfd):
    hub.add("me/net", model)
    hub.add("me/two", {"a.onnx": b"", "b.onnx": b""})
    hub.add("me/none", {"README.md": b"words"})
    hub.add("me/gated", model, gated=True)
    hub.add("me/hidden", model, private=True)
    for name, expected in [
        ("me/absent", "has no model me/absent that you may see"),
        ("me/hidden", "log in with `hf auth login`, or set HF_TOKEN"),
        ("me/gated", "is gated: ask for access on its page"),
        ("me/net@v9", "me/net has no revision v9"),
        ("me/net/other.onnx", "there is no such file in it: got model.onnx, model.json"),
        ("me/two", "holds several models: expected one of hf://me/two/a.onnx, hf://me/two/b.onnx"),
        ("me/none", "holds no model: expected a .onnx or a .safetensors file, got README.md"),
    ]:
        assert main(["predict", "--model", f"hf://{name}", str(image)]) == 2
        said = capfd.readouterr().err.strip()
        assert expected in said and "Traceback" not in said, said
        assert len([line for line in said.splitlines() if line]) == 1, said


@pytest.mark.parametrize(("status", "expected"), [(503, "answered 503"), (429, r"no more requests for now \(429\)")])
def test_a_hub_that_is_ill_is_one_line(hub: LocalHub, status, expected):
    hub.broken = status
    with pytest.raises(UserError, match=expected):
        fetch("hf://me/net")


def test_a_private_model_is_fetched_with_the_users_token_which_is_never_said(hub: LocalHub, model, monkeypatch, caplog):
    hub.add("me/hidden", model, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with caplog.at_level(logging.DEBUG):
        assert fetch("hf://me/hidden").is_file()
    assert f"Bearer {TOKEN}" in hub.tokens and TOKEN not in caplog.text


def test_without_the_extra_it_is_one_line_and_nothing_else_imports_the_library(image: Path):
    program = f"""
import sys
from lightning_cifake.commands.main import main
assert main(["predict", {str(image)!r}]) == 0
assert "huggingface_hub" not in sys.modules
sys.modules["huggingface_hub"] = None
sys.exit(main(["predict", "--model", "hf://me/net", {str(image)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "error: hf://me/net needs huggingface_hub: pip install 'lightning_cifake[hub]'" in done.stderr


def test_a_folder_of_that_name_does_not_come_into_it(hub: LocalHub, model, tmp_path: Path, monkeypatch):
    hub.add("me/net", model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:" / "me" / "net").mkdir(parents=True)
    assert model_file("hf://me/net").name == "model.onnx"
    shutil.rmtree(tmp_path / "hf:")


def test_an_upload_that_breaks_off_is_said_by_what_broke_it(hub: LocalHub):
    import huggingface_hub

    with (
        pytest.raises(UserError, match=r"cannot be reached \(gone\)"),
        hub_errors(parse_name("hf://me/net"), huggingface_hub),
    ):
        raise RuntimeError("Error while uploading 'model.onnx' to the Hub.") from ConnectionResetError("gone")
    with pytest.raises(RuntimeError, match="ours"), hub_errors(parse_name("hf://me/net"), huggingface_hub):
        raise RuntimeError("ours")
