"""The command: what it refuses, and what it writes when it has really measured, with one engine fallen out."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_cifake.benchmark import roofline
from lightning_cifake.benchmark.engines import ENGINES
from lightning_cifake.benchmark.materials import is_published
from lightning_cifake.benchmark.page import page
from lightning_cifake.commands import benchmark
from lightning_cifake.commands.main import run_command
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.errors import UserError
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engines", "jax"], "--engines: expected some of tf, .*, got jax"),
        (["--engines", ","], "--engines: .* got none"),
        (
            ["--batch_size", "33"],
            "--train_images: expected a multiple of both batch sizes, .* got 1280 with batches of 33",
        ),
        (["--train_images", "128"], "256 at least, got 128"),
        (["--batch_size", "1", "--tuned_batch_size", "32"], "--train_images"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--records", "here"], "expected one of --output and --records, got both"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run_command("benchmark", [*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_damaged_records_are_said_before_anything_is_measured(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "benchmark.json").write_text('{"machine": {"processor": "X"}}')
    with pytest.raises(UserError, match=r"old/benchmark\.json: expected a record that benchmark wrote"):
        run_command("benchmark", ["--records", str(tmp_path), "--ckpt_path", "nowhere.ckpt"])


@pytest.mark.parametrize("flag", ["--output", "--records"])
def test_a_file_in_the_folders_place_is_said_before_anything_is_measured(flag, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{flag}: expected a folder, got the file .*file"):
        run_command("benchmark", [flag, str(tmp_path / "file"), "--ckpt_path", "nowhere.ckpt"])


@pytest.mark.parametrize(("rate", "said"), [(0.1, True), (2.0, False)])
def test_a_precision_that_is_emulated_here_is_refused_in_one_line(rate, said, monkeypatch):
    rates = {torch.bfloat16: rate * 1e11, torch.float32: 1e11}
    monkeypatch.setattr(roofline, "_products_rate", lambda device, dtype, side: rates[dtype])
    with pytest.raises(UserError) as caught:
        run_command("benchmark", ["--precision", "bf16-mixed", "--ckpt_path", "nowhere.ckpt"])
    assert ("10.0 GFLOP/s in it and 100.0 in float32" in str(caught.value)) is said


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        ([], set()),
        (["--precision", "bf16-mixed"], {"onnxruntime", "onnxruntime-int8"}),
        (["--device", "cuda"], {"onnxruntime", "onnxruntime-int8"}),
        (["--quick"], {"tf-tuned-small", "tf-tuned", "lightning-large", "lightning-tuned"}),
        (["--precision", "bf16-mixed", "--engines", "onnxruntime"], set(ENGINES) - {"onnxruntime"}),
    ],
)
def test_by_default_engines_are_measured_that_compute_where_and_how_is_asked(arguments, left_out):
    parser = Parser("benchmark")
    benchmark.add_arguments(parser)
    options = parser.parse_args(arguments)
    benchmark._complete(options)
    assert set(options.engines.split(",")) == set(ENGINES) - left_out


def test_a_gpu_that_is_not_there_is_said_before_anything_is_done(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch finds no GPU"):
        run_command("benchmark", ["--device", "cuda"])


@pytest.fixture(scope="module")
def measured(module_folder, tiny_network, warm):
    """A real run of the tiny network, which TensorFlow's engine does not train."""
    folder = module_folder("benchmark")
    model = FakeImageClassifier(tiny_network())
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, folder / "tiny.ckpt")
    arguments = "--quick --engines tf,torch,lightning --task train --rounds 2 --train_images 256 --batch_size 64"
    more = ("--tuned_batch_size", "64", "--ckpt_path", "tiny.ckpt")
    path = str(Path(__file__).parents[1])  # for the engines' own processes
    done = warm.run(
        "benchmark", *arguments.split(), *more, folder=folder, environment={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return folder, done, json.loads((folder / "benchmark" / "benchmark.json").read_text())


def test_an_engine_that_falls_out_is_reported_and_the_rest_is_measured(measured):
    _, done, record = measured
    assert list(record["failed"]) == ["tf"] and "published network alone" in record["failed"]["tf"]
    assert "not measured: tf, training: " in done.stdout
    for name in ("torch", "lightning"):
        found = record["engines"][name]["training"]
        assert found["images_per_second"]["low"] > 0 and len(found["images_per_second"]["all"]) == 2
        assert 0 < found["start_to_first_step_s"]["median"] < found["first_epoch_s"]["median"]
        assert 0 <= found["waiting_share"]["median"] < 1
        assert 0 < record["engines"][name]["limit"]["training"] < 2
        assert found["peak_mib"] is None or found["peak_mib"] > 100
    assert record["ratios"]["training"]["lightning"]["torch"]["median"] > 0


def test_the_newest_checkpoint_is_passed_over_where_the_reference_cannot_take_it(
    tmp_path, monkeypatch, tiny_network, caplog
):
    monkeypatch.chdir(tmp_path)
    newest = Path("checkpoints/demo/1/best.ckpt")
    newest.parent.mkdir(parents=True)
    model = FakeImageClassifier(tiny_network())
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, newest)
    both = [ENGINES["tf"], ENGINES["lightning"]]
    found, name = benchmark._weights(None, both, tmp_path)
    assert (found, name) == (tmp_path / "random.ckpt", "random weights")
    assert f"{newest} is of a network that the reference does not build (--ckpt_path {newest}" in caplog.text
    assert is_published(torch.load(found, mmap=True)["hyper_parameters"]["network"], 32)
    # an older one that it can take goes before random weights; a damaged one is passed over too
    older, damaged = Path("checkpoints/published/1/best.ckpt"), Path("checkpoints/damaged/1/best.ckpt")
    for path, age in ((older, 200), (damaged, 100)):
        path.parent.mkdir(parents=True)
        path.write_bytes(found.read_bytes() if path == older else b"no checkpoint")
        os.utime(path, (newest.stat().st_mtime - age,) * 2)
    caplog.clear()
    assert benchmark._weights(None, both, tmp_path) == (older, "best.ckpt")
    assert len(caplog.records) == 1 and caplog.text.strip().endswith(f"taking {older}, the newest that it builds")
    # named, or without the reference, it is what is measured
    assert benchmark._weights(newest, both, tmp_path) == (newest, "best.ckpt")
    assert benchmark._weights(None, both[1:], tmp_path) == (newest, "best.ckpt")
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)  # no TensorFlow
    assert benchmark._weights(None, both, tmp_path) == (newest, "best.ckpt")


def test_machine_versions_settings_and_command_are_recorded_and_no_path_of_the_machine(measured):
    record = measured[2]
    assert record["machine"]["cores"] and record["versions"]["torch"] and record["date"]
    assert record["settings"]["batch_sizes"] == {"tf": 64, "torch": 64, "lightning": 64}
    assert record["command"].startswith("python -m lightning_cifake benchmark --quick")
    assert str(Path.home()) not in json.dumps({**record, "command": "", "failed": ""})


def test_the_page_tells_what_the_record_holds(measured):
    folder, _, record = measured
    text = (folder / "benchmark" / "README.md").read_text()
    assert text == page(record)
    rows = [line for line in text.splitlines() if line.startswith("| `lightning` |")]
    assert f"{record['engines']['lightning']['training']['images_per_second']['median']:,.0f} (" in rows[0]
    assert "- `tf`: training: " in text
    with Image.open(folder / "benchmark" / "benchmark.png") as picture:
        assert picture.width > 500


def test_tables_have_as_many_cells_in_each_row_as_in_the_header(measured):
    lines = page(measured[2]).splitlines()
    for above, line in itertools.pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line
