"""The command line: its help, its one-line refusals, what a run leaves, and the checkpoints it finds by itself."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny import NETWORK

from lightning_cifake.commands import lightning_cli as command
from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.commands.main import main
from lightning_cifake.data.decode import load_images

SMALL = (
    *NETWORK,
    "--data.sample",
    "128",
    "--data.batch_size",
    "16",
    "--trainer.max_epochs",
    "1",
    "--trainer.precision",
    "32-true",
)
FILES = {
    "best.ckpt", "last.ckpt", "config.yaml", "split.json", "metrics.json", "history.csv", "classification_report.txt",
    "predictions.csv", "confusion_matrix.png", "roc.png", "history.png", "report.html", "tensorboard",
}  # fmt: skip


def fit(*arguments: str) -> None:
    assert main(["fit", *SMALL, *arguments]) == 0


def errors(capture: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr but the one that names the config taken."""
    lines = capture.readouterr().err.splitlines()
    return [line for line in lines if not line.startswith(("config: ", "data: "))]


def test_help_is_there_at_once_and_loads_neither_torch_nor_lightning() -> None:
    script = (
        "import sys, time; start = time.perf_counter()\n"
        "from lightning_cifake.commands.main import main\nassert main(['--help']) == 0\n"
        "print(time.perf_counter() - start, {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules))"
    )
    started = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert time.perf_counter() - started < 5  # Python's own start and a busy machine included
    seconds, _, loaded = said.splitlines()[-1].partition(" ")
    assert float(seconds) < 1 and loaded == "set()"
    for word in ("fit", "validate", "test", "predict", "download", *shipped_configs()):
        assert word in said


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_all_ways_to_ask_for_help_work(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: python -m lightning_cifake")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fit", ["--data.root", "--data.per_image", "--model.network", "--trainer.max_epochs", "--patience",
                 "--output_dir", "a folder or a .zip with REAL/ and FAKE/",
                 "factor on the learning rate", "longest time between two"]),
        ("test", ["--data.protocol", "--ckpt_path", "where the results go"]),
        ("validate", ["--data.protocol", "--ckpt_path", "where the results go"]),
        ("predict", ["--ckpt_path", "--output", "--batch_size", "files, folders"]),
        ("download", ["--output FOLDER", "--source", "it goes to"]),
    ],
)  # fmt: skip
def test_each_commands_help_explains_its_arguments(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    try:
        code = main([name, "--help"])
    except SystemExit as exit:  # argparse's way
        code = int(exit.code or 0)
    assert code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if word not in said] == []
    assert not list(workplace.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "no such command: train; expected fit"),
        (["\x1b[31m\ntrain"], "no such command: \\x1b[31m\\ntrain; expected fit"),
        (
            ["fit", "--config", "nosuch"],
            "--config: expected a YAML file or one of clean, cpu, demo, halving, official, published, t4",
        ),
        (["fit", "--config"], "got nothing"),
        (["fit", "--data.root", "nowhere"], "no data at nowhere"),
        (["fit", "--data.bogus", "1"], "--data.bogus"),
        (["fit", "--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["fit", "--model.network.layout", "tf"], "model.network.layout: expected one of keras, torchvision, got tf"),
        (["fit", "--model.network", "resnet5"], "did you mean resnet50?"),
        (["fit", "--model.network", "nowhere_net.Net"], "there is no module nowhere_net"),
        (["fit", "--model.network", "tiny.TinyNetwrk"], "tiny has no TinyNetwrk: did you mean tiny.TinyNetwork?"),
        (["fit", *NETWORK, "--model.network.wdth", "4"], "TinyNetwork has no argument wdth: did you mean width?"),
        (["fit", *NETWORK, "--model.network.width", "x"], "model.network.width: expected a whole number, got 'x'"),
        (["fit", "--model.layout", "keras"], "model.layout is model.network.layout since 0.2.0"),
        (["fit", "--optimizer", "SGD"], "--optimizer"),
        (["fit", "--model.optimizer", "SGD", "--model.optimizer.lr", "1"], "expected it as model.learning_rate"),
        (["fit", "--model.optimizer", "torch.nn.Linear"], "expected a class that is a torch's Optimizer"),
        (["fit", "--data.batch_size", "1"], "data.batch_size: expected at least 2"),
        (["fit", "--model.network.dropout", "2"], "model.network.dropout"),
        (["fit", "--patience", "0"], "patience: expected at least 1"),
        (["fit", "--trainer.precision", "8-bit"], "precision"),
        (["fit", "--data.sample", "3"], "data.sample"),
        (["fit", "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["fit", "--ckpt_path", "https://example.org/x.ckpt"], "is an address"),
        (["test"], "no checkpoint given, and none found under checkpoints/"),
        (["validate", "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], workplace: Path, tiny_network: type
) -> None:
    assert main(arguments) == 2
    said = errors(capsys)
    assert len(said) == 1 and said[0].startswith("error: ") and says in said[0], said
    assert not list(workplace.iterdir())


def test_a_broken_config_file_is_one_line(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("data: [1", "data:\n  bogus: 1\n", "just words"):
        (workplace / "my.yaml").write_text(content)
        assert main(["fit", "--config", "my.yaml"]) == 2
        said = errors(capsys)
        assert len(said) == 1 and said[0].startswith("error: "), said


def test_a_run_leaves_all_its_files_and_the_next_takes_the_next_number(workplace: Path, tiny_network: type) -> None:
    fit()
    fit()
    runs = workplace / "checkpoints" / "demo"
    assert sorted(path.name for path in runs.iterdir()) == ["1", "2"]
    for run in runs.iterdir():
        assert {path.name for path in run.iterdir()} == FILES
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["stage"] == "test" and metrics["best_epoch"] == 0 and metrics["epochs"] == 1
        assert list(run.glob("tensorboard/version_*/events*"))
    one, two = (json.loads((runs / number / "metrics.json").read_text()) for number in "12")
    timed = {"seconds", "images_per_second", "checkpoint_sha256", "sha256"}
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}
    with (runs / "1" / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0"]


def test_test_takes_the_newest_checkpoint_and_gives_fits_figures_again_and_again(
    workplace: Path, tiny_network: type
) -> None:
    fit()
    fit("--seed_everything", "5")
    figures = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision", "confusion_matrix", "loss")
    found = [json.loads((workplace / "checkpoints/demo/2/metrics.json").read_text())]
    for _ in range(2):
        assert main(["test"]) == 0
        found.append(json.loads((workplace / "checkpoints/demo/2/test-clean/metrics.json").read_text()))
    assert not (workplace / "checkpoints/demo/1/test-clean").exists()
    assert all({k: one[k] for k in figures} == {k: found[0][k] for k in figures} for one in found)
    assert found[0]["checkpoint_sha256"] == found[2]["checkpoint_sha256"]
    assert main(["validate", "--ckpt_path", "checkpoints/demo/1/best.ckpt"]) == 0
    assert (workplace / "checkpoints/demo/1/validate-clean/metrics.json").is_file()


def test_weights_alone_are_not_gone_on_from(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.logger", "false", "--test_at_end", "false")
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "checkpoints/demo/1/best.ckpt"]) == 2
    (said,) = errors(capsys)
    assert "holds weights only: resume from the last.ckpt beside it" in said


def test_a_run_goes_on_for_more_epochs_in_its_folder(workplace: Path, tiny_network: type) -> None:
    fit("--trainer.logger", "false")
    assert main(["fit", "--ckpt_path", "checkpoints/demo/1/last.ckpt", "--trainer.max_epochs", "2"]) == 0
    metrics = json.loads((workplace / "checkpoints/demo/1/metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert [path.name for path in (workplace / "checkpoints/demo").iterdir()] == ["1"]


def test_without_loggers_and_in_a_folder_of_ones_own(workplace: Path, tiny_network: type) -> None:
    fit("--trainer.logger", "false", "--output_dir", "mine/run")
    assert {path.name for path in (workplace / "mine/run").iterdir()} == FILES - {"tensorboard"}
    assert not (workplace / "checkpoints").exists()
    assert not (workplace / "lightning_logs").exists()


def test_going_on_in_another_folder_takes_the_best_along(workplace: Path, tiny_network: type) -> None:
    fit("--trainer.logger", "false", "--output_dir", "one")
    assert main(["fit", "--ckpt_path", "one/last.ckpt", "--output_dir", "two"]) == 0
    assert (workplace / "two/best.ckpt").read_bytes() == (workplace / "one/best.ckpt").read_bytes()
    assert json.loads((workplace / "two/metrics.json").read_text())["checkpoint_sha256"]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize("end", [("--trainer.max_steps", "2"), ("--trainer.limit_val_batches", "0")])
def test_a_run_that_never_validates_ends_well(workplace: Path, tiny_network: type, end: tuple[str, str]) -> None:
    fit("--trainer.logger", "false", *end)
    assert (workplace / "checkpoints/demo/1/last.ckpt").is_file()
    assert (workplace / "checkpoints/demo/1/metrics.json").is_file()


def test_configs_are_laid_over_one_another(
    workplace: Path, tiny_network: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[command.Cli] = []
    monkeypatch.setattr(command.Cli, "_run_subcommand", lambda self, name: seen.append(self))
    (workplace / "mine.yaml").write_text("data:\n  sample: 256\nmodel:\n  network:\n    dropout: 0.25\n")
    (workplace / "more.yaml").write_text("data:\n  sample: 300\n")
    assert main(["fit", "--config", "published", "--config", "mine.yaml", "--config=more.yaml"]) == 0
    config = seen[0].config.fit
    assert (config.data.protocol, config.data.sample, config.model.network.init_args.dropout) == (
        "published",
        300,
        0.25,
    )
    assert seen[0].output_dir == Path("checkpoints/published+mine+more/1")
    assert main(["fit", "--config", "mine.yaml", "--data.sample", "64"]) == 0
    assert seen[1].config.fit.data.sample == 64


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_taken(
    workplace: Path, tiny_network: type, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    seen: list[command.Cli] = []
    monkeypatch.setattr(command.Cli, "_run_subcommand", lambda self, name: seen.append(self))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = main(["fit", "--config", name])
    if name == "t4":
        assert code == 2
        (said,) = errors(capsys)
        assert said.startswith("error: ") and "gpu" in said.lower()
    else:
        assert code == 0
        assert seen[0].output_dir == Path("checkpoints") / Path(name).name / "1"


def test_fit_chooses_the_precision_and_keeps_the_one_that_was_given(
    workplace: Path, tiny_network: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[command.Cli] = []
    monkeypatch.setattr(command.Cli, "_run_subcommand", lambda self, name: seen.append(self))
    monkeypatch.setattr(command, "best_precision", lambda accelerator: "bf16-mixed")
    for given in ((), ("--trainer.precision", "64-true")):
        assert main(["fit", *NETWORK, "--trainer.accelerator", "cpu", *given]) == 0
    assert [str(cli.trainer.precision) for cli in seen] == ["bf16-mixed", "64-true"]


def test_the_config_of_a_run_is_its_whole_configuration(workplace: Path, tiny_network: type) -> None:
    fit("--trainer.logger", "false", "--test_at_end", "false", "--model.network.dropout", "0.3")
    content = yaml.safe_load((workplace / "checkpoints/demo/1/config.yaml").read_text())
    assert content["data"]["sample"] == 128 and content["model"]["network"]["init_args"]["dropout"] == 0.3
    assert content["trainer"]["precision"] == "32-true" and content["trainer"]["max_epochs"] == 1


def test_an_output_folder_that_cannot_be_is_one_line(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "file").write_text("")
    assert main(["fit", *SMALL, "--output_dir", "file/run"]) == 2
    said = errors(capsys)
    assert len(said) == 1 and "cannot write the results: Not a directory: file" in said[0], said


def test_a_full_disk_is_one_line(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    from lightning_cifake import files

    sync = files._sync

    def no_space(path: Path) -> None:
        if path.suffix == ".ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    monkeypatch.setattr(files, "_sync", no_space)
    assert main(["fit", *SMALL, "--trainer.logger", "false"]) == 2
    said = [line for line in errors(capsys) if line.startswith("error: ")]
    assert len(said) == 1 and "best.ckpt (No space left on device)" in said[0], said
    assert not list((workplace / "checkpoints/demo/1").glob("*.ckpt"))
    assert not list((workplace / "checkpoints/demo/1").glob(".*"))


def test_print_config_shows_what_layered_configurations_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "official", "--config", "t4", "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["data"]["protocol"], config["data"]["batch_size"]) == ("official", 512)
    assert (config["trainer"]["precision"], config["model"]["channels_last"]) == ("16-mixed", True)


def test_predict_of_the_checkpoint_that_fit_made_says_what_its_test_said(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    fit()
    with next(workplace.glob("checkpoints/demo/1/predictions.csv")).open() as file:
        tested = list(csv.DictReader(file))[:5]
    images = load_images()
    for number, row in enumerate(tested):
        Image.fromarray(images.images[images.paths.index(row["path"])]).save(workplace / f"{number}.png")
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", "checkpoints/demo/1/best.ckpt", "[0-9].png"]) == 0
    answers = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _, _ in answers] == [f"{number}.png" for number in range(5)]
    for row, (_, verdict, prob_real) in zip(tested, answers, strict=True):
        # six decimals are printed; another batch size may round the last of float32
        assert float(prob_real) == pytest.approx(float(row["prob_real"]), abs=2e-6)
        assert verdict == ("REAL" if float(prob_real) > 0.5 else "AI")
