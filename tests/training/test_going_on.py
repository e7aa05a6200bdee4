"""Resuming a run: what was asked for takes effect or is refused by name; what it trained on is not forgotten."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import NETWORK

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.networks import SHIPPED
from lightning_cifake.run_folder import RunFolder, read_config

TINY = Path(__file__).parent.parent / "tiny.py"
SMALL = (*NETWORK,
         "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "1", "--trainer.logger", "false",
         "--trainer.precision", "32-true", "--trainer.accelerator", "cpu")  # fmt: skip
RUN = Path("run")
LAST = str(RUN / "last.ckpt")


@pytest.fixture(scope="module")
def finished(module_folder: Callable[[str], Path], demo_cache: Path) -> Path:
    """The folder of a run of one epoch."""
    folder = module_folder("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        assert main(["fit", *SMALL, "--output_dir", str(RUN)]) == 0
    return folder / RUN


@pytest.fixture
def run(finished: Path, workplace: Path, tiny_network: type) -> Path:
    """A copy of it, in the current folder."""
    shutil.copytree(finished, RUN)
    return workplace / RUN


def go_on(*arguments: str) -> int:
    return main(["fit", "--ckpt_path", LAST, *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs what is to be refused: in one line, and with nothing changed."""
    before = contents(run)

    def ask(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in said, said
        return errors[0]

    yield ask
    assert contents(run) == before


def config_of(run: Path) -> dict[str, Any]:
    found = read_config(run)
    assert found is not None and found.sealed
    return found.values


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


# A changed argument of the model


def test_a_learning_rate_that_changes_takes_effect_and_is_written_down(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_checkpoint(run / "last.ckpt")
    assert go_on("--trainer.max_epochs", "2", "--model.learning_rate", "1e-5") == 0
    assert "model.learning_rate: 1e-05 from here on, 0.001 before" in caplog.text
    assert "the next epoch trains at a learning rate of 9.025e-06" in caplog.text
    last = read_checkpoint(run / "last.ckpt")
    assert [epoch["lr"] for epoch in last["history"]] == pytest.approx([1e-3 * 0.95, 1e-5 * 0.95**2])
    assert last["hyper_parameters"]["learning_rate"] == config_of(run)["model"]["learning_rate"] == 1e-5
    # one epoch at a hundredth of the rate moves the weights by about as little
    moved = max(
        float((last["state_dict"][n] - w).abs().max()) for n, w in before["state_dict"].items() if ".weight" in n
    )
    assert 0 < moved < 2e-4
    assert metrics_of(run)["model"]["learning_rate"] == 1e-5


def test_a_decay_that_changes_takes_effect_from_this_epoch_on(run: Path) -> None:
    assert go_on("--trainer.max_epochs", "3", "--model.lr_decay", "0.5") == 0
    history = read_checkpoint(run / "last.ckpt")["history"]
    assert [epoch["lr"] for epoch in history] == pytest.approx([1e-3 * 0.95, 1e-3 * 0.5**2, 1e-3 * 0.5**3])
    assert config_of(run)["model"]["lr_decay"] == 0.5


def test_a_dropout_that_changes_takes_effect(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_cifake.networks.head import Dropout

    rates: set[float] = set()
    forward = Dropout.forward
    monkeypatch.setattr(Dropout, "forward", lambda self, values: (rates.add(self.p), forward(self, values))[1])
    assert go_on("--trainer.max_epochs", "2", "--model.network.dropout", "0.25") == 0
    assert rates == {0.25}
    assert read_checkpoint(run / "last.ckpt")["hyper_parameters"]["network"]["init_args"]["dropout"] == 0.25


def test_a_change_stays_when_it_is_gone_on_again(run: Path) -> None:
    assert go_on("--trainer.max_epochs", "2", "--model.learning_rate", "1e-5") == 0
    assert go_on("--trainer.max_epochs", "3") == 0
    history = read_checkpoint(run / "last.ckpt")["history"]
    assert history[-1]["lr"] == pytest.approx(1e-5 * 0.95**3)


def test_a_configuration_is_laid_over_the_runs_own(run: Path) -> None:
    Path("slow.yaml").write_text("model:\n  learning_rate: 1.0e-5\ntrainer:\n  max_epochs: 2\n")
    assert go_on("--config", "slow.yaml") == 0
    history = read_checkpoint(run / "last.ckpt")["history"]
    assert [epoch["lr"] for epoch in history] == pytest.approx([1e-3 * 0.95, 1e-5 * 0.95**2])
    assert config_of(run)["data"]["sample"] == 128  # not the default: the run's


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network.layout", "keras"),
        ("network.width", "16"),
        ("network", "resnet50"),
        ("optimizer", "torch.optim.SGD"),
        ("optimizer.epsilon", "1e-08"),
        ("scheduler", "torch.optim.lr_scheduler.LinearLR"),
        ("loss", "torch.nn.SoftMarginLoss"),
        ("weights", "imagenet"),
    ],
)
def test_an_argument_that_makes_another_model_is_refused_by_name(
    refused: Callable[..., str], name: str, value: str
) -> None:
    said = refused("fit", "--ckpt_path", LAST, "--trainer.max_epochs", "2", f"--model.{name}", value)
    assert f"model.{name}: " in said and f"got {SHIPPED.get(value, value)}" in said
    assert f"--model.weights {LAST}" in said


def test_a_seed_that_would_be_dropped_is_refused(refused: Callable[..., str]) -> None:
    said = refused("fit", "--ckpt_path", LAST, "--trainer.max_epochs", "2", "--seed_everything", "5")
    assert "seed_everything: 0 before, got 5" in said


def test_an_image_size_of_the_model_alone_is_refused(refused: Callable[..., str]) -> None:
    assert "model.network.image_size follows data.image_size" in refused("fit", "--model.network.image_size", "64")


@pytest.mark.parametrize("command", ["test", "validate"])
def test_a_checkpoint_is_measured_as_it_is(refused: Callable[..., str], command: str) -> None:
    said = refused(command, "--ckpt_path", str(RUN / "best.ckpt"), "--model.network.dropout", "0.1")
    assert f"{command} measures a checkpoint as it is: expected model.network.dropout: 0.5, got 0.1" in said


def test_a_configurations_model_does_not_change_what_is_measured(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("other.yaml").write_text(
        "model:\n  network:\n    class_path: tiny.TinyNetwork\n    init_args:\n      layout: keras\n"
        "data:\n  sample: 128\n"
    )
    assert main(["test", "--ckpt_path", str(RUN / "best.ckpt"), "--config", "other.yaml"]) == 0
    assert "model.network.layout: torchvision, as the checkpoint has it; the configuration says keras" in caplog.text
    assert metrics_of(run / "test-clean")["accuracy"] == metrics_of(run)["accuracy"]


# Other data


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--data.seed", "7"), "data.seed: 0 before, got 7"),
        (("--data.sample", "120"), "data.sample: 128 before, got 120"),
        (("--data.seed", "7", "--data.sample", "120"), "data.seed: 0 before, got 7; data.sample: 128 before, got 120"),
        (("--data.protocol", "published", "--data.sample", "640"), "data.protocol: clean before, got published"),
        (("--data.split_file", "other.json"), "data.split_file: None before, got other.json"),
        (("--data.exclude", "few.txt"), "data.exclude: None before, got few.txt (1 image, "),
    ],
)
def test_other_data_are_refused_unless_asked_for(
    refused: Callable[..., str], arguments: tuple[str, ...], says: str
) -> None:
    if "other.json" in arguments:
        content = json.loads((RUN / "split.json").read_text())
        content["train"], content["test"] = content["test"], content["train"]
        Path("other.json").write_text(json.dumps({k: v for k, v in content.items() if k != "sha256"}))
    Path("few.txt").write_text(json.loads((RUN / "split.json").read_text())["train"][0])
    said = refused("fit", "--ckpt_path", LAST, "--trainer.max_epochs", "2", *arguments)
    assert says in said and "--new_data" in said


def test_other_data_that_are_asked_for_are_counted_with_those_before(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = read_checkpoint(run / "last.ckpt")["trained_on"]
    assert go_on("--trainer.max_epochs", "2", "--data.seed", "7", "--new_data") == 0
    record = read_checkpoint(run / "last.ckpt")["trained_on"]
    assert [entry["asked"]["seed"] for entry in record] == [0, 7]
    assert torch.equal(record[0]["names"], first[0]["names"])
    split = json.loads((run / "split.json").read_text())
    seen = metrics_of(run)["seen_in_training"]
    assert seen["images"] > 0 and "test images were trained on before" in caplog.text
    assert split["seed"] == 7 and config_of(run)["data"]["seed"] == 7 and "new_data" not in config_of(run)
    # nobody needs the folder to know it: a checkpoint alone tells
    Path("alone").mkdir()
    shutil.copy(run / "best.ckpt", "alone/best.ckpt")
    assert main(["test", "--ckpt_path", "alone/best.ckpt", "--data.sample", "128", "--data.seed", "7"]) == 0
    assert metrics_of(Path("alone/test-clean"))["seen_in_training"] == seen


def test_the_best_of_other_data_is_chosen_among_the_epochs_on_them(run: Path) -> None:
    """A validation loss on other images is no measure for these."""
    assert go_on("--trainer.max_epochs", "2", "--data.seed", "7", "--new_data", "--model.learning_rate", "1e-9") == 0
    assert read_checkpoint(run / "best.ckpt")["epoch"] == 1


def test_the_same_split_by_other_arguments_is_the_same(run: Path) -> None:
    shutil.copy(run / "split.json", "mine.json")
    assert go_on("--trainer.max_epochs", "2", "--data.split_file", "mine.json", "--data.sample", "null") == 0
    assert len(read_checkpoint(run / "last.ckpt")["trained_on"]) == 1
    assert metrics_of(run)["seen_in_training"]["images"] == 0


def test_weights_of_another_run_bring_along_what_they_were_trained_on(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = ("fit", "--config", "demo", *SMALL, "--data.seed", "7", "--output_dir", "new", "--model.weights")
    assert main([*new, str(run / "best.ckpt")]) == 0
    assert metrics_of(Path("new"))["seen_in_training"]["images"] > 0
    assert "validation images were trained on before" in caplog.text and "test images were trained on" in caplog.text
    assert [entry["asked"]["seed"] for entry in read_checkpoint(Path("new/best.ckpt"))["trained_on"]] == [0, 7]


def test_weights_of_which_nothing_is_known_are_named_in_the_report(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(1)}, "found.pt")
    monkeypatch.setattr("lightning_cifake.training.classifier.load_weights", lambda network, weights: None)
    assert main(["fit", *SMALL, "--output_dir", "new", "--model.weights", "found.pt"]) == 0
    assert metrics_of(Path("new"))["seen_in_training"]["unknown_sources"] == ["found.pt"]
    assert "what found.pt was trained on is not known, and not counted" in capsys.readouterr().out
    assert "unknown_sources" not in metrics_of(run)["seen_in_training"]


def without_record(path: Path) -> None:
    """As version 0.1.0 wrote it."""
    content = read_checkpoint(path)
    del content["trained_on"]
    torch.save(content, path)


def test_an_old_checkpoint_is_known_by_the_split_beside_it(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        without_record(run / name)
    assert go_on("--trainer.max_epochs", "2", "--data.seed", "7") == 2
    assert "was trained on other images" in capsys.readouterr().err
    assert main(["test", "--ckpt_path", str(run / "best.ckpt")]) == 0
    assert metrics_of(run / "test-clean")["seen_in_training"]["images"] == 0
    assert go_on("--trainer.max_epochs", "2", "--data.seed", "7", "--new_data") == 0
    assert metrics_of(run)["seen_in_training"]["images"] > 0


def test_the_middle_of_an_epoch_keeps_its_batches(run: Path, refused: Callable[..., str], finished: Path) -> None:
    content = read_checkpoint(run / "last.ckpt")
    content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
    shutil.copytree(run, "middle")
    torch.save(content, "middle/last.ckpt")
    more = ("fit", "--ckpt_path", "middle/last.ckpt", "--trainer.max_epochs", "2")
    assert "data.batch_size: 16 before, got 32" in refused(*more, "--data.batch_size", "32")
    assert "stands in the middle of epoch" in refused(*more, "--data.seed", "7", "--new_data")


# Whose folder


def test_another_fit_into_a_folder_that_holds_a_run_is_refused_with_what_can_be_done(
    refused: Callable[..., str], run: Path
) -> None:
    said = refused("fit", *SMALL, "--output_dir", str(RUN))
    assert "run holds a run already" in said and f"fit --ckpt_path {LAST}" in said and "--overwrite" in said


def test_overwriting_begins_anew(run: Path) -> None:
    Path("run/notes.txt").write_text("mine")
    assert main(["fit", *SMALL, "--output_dir", str(RUN), "--overwrite", "--data.seed", "7"]) == 0
    assert [entry["asked"]["seed"] for entry in read_checkpoint(run / "last.ckpt")["trained_on"]] == [7]
    assert Path("run/notes.txt").read_text() == "mine" and not (run / ".lock").exists()


def test_a_run_does_not_go_on_into_the_folder_of_another(refused: Callable[..., str], run: Path) -> None:
    shutil.copytree(run, "other")
    said = refused("fit", "--ckpt_path", "other/last.ckpt", "--output_dir", str(RUN), "--trainer.max_epochs", "2")
    assert "run holds a run already" in said
    shutil.copy("other/last.ckpt", "other/kept.ckpt")
    said = refused("fit", "--ckpt_path", "other/kept.ckpt", "--trainer.max_epochs", "2")
    assert "whose last.ckpt is another checkpoint" in said


def test_a_folder_in_use_is_not_gone_on_in(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    other = RunFolder(run, resumed=True)
    other.claim()
    assert go_on("--trainer.max_epochs", "2") == 2
    assert "run is in use by another process that writes into it" in capsys.readouterr().err
    other.release()
    assert contents(run) == before
    assert go_on("--trainer.max_epochs", "2") == 0


def test_two_runs_that_are_started_together_keep_and_report_their_own(workplace: Path, warm: Any) -> None:
    seeds = ("1", "2")
    asked = [{"arguments": ["fit", *SMALL, "--seed_everything", seed], "folder": str(workplace)} for seed in seeds]
    ran = warm.together(*asked)
    assert [process.returncode for process in ran] == [0, 0], ran
    runs = workplace / "checkpoints" / "demo"
    assert sorted(path.name for path in runs.iterdir()) == ["1", "2"]
    assert {str(metrics_of(path)["seed"]) for path in runs.iterdir()} == set(seeds)
    for path in runs.iterdir():
        import hashlib

        best = hashlib.sha256((path / "best.ckpt").read_bytes()).hexdigest()
        assert metrics_of(path)["checkpoint_sha256"] == best
        assert config_of(path)["seed_everything"] == metrics_of(path)["seed"]


def test_weights_that_another_process_put_there_are_not_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_cifake.training.callbacks import EpochSummary

    best = (run / "best.ckpt").read_bytes()

    def replace(self: Any, trainer: Any, module: Any) -> None:
        Path("new/best.ckpt").write_bytes(best)

    monkeypatch.setattr(EpochSummary, "on_train_end", replace)
    assert main(["fit", *SMALL, "--output_dir", "new"]) == 2
    assert "new/best.ckpt is not what this run wrote" in capsys.readouterr().err


def test_a_checkpoint_that_is_replaced_while_it_is_measured_is_not_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    from lightning_cifake.training.classifier import FakeImageClassifier

    Path("measured").mkdir()
    shutil.copy(run / "best.ckpt", "measured/best.ckpt")
    ended = FakeImageClassifier.on_test_epoch_end

    def replace(self: FakeImageClassifier) -> None:
        shutil.copy(run / "last.ckpt", "measured/best.ckpt")
        ended(self)

    monkeypatch.setattr(FakeImageClassifier, "on_test_epoch_end", replace)
    said = refused("test", "--ckpt_path", "measured/best.ckpt", "--data.sample", "128")
    assert "measured/best.ckpt was replaced while it was measured" in said
    assert not Path("measured/test-clean").exists()


def test_two_measurements_do_not_write_into_one_folder(refused: Callable[..., str], run: Path) -> None:
    other = RunFolder(run / "test-clean", resumed=True)
    other.claim()
    assert "test-clean is in use by another process" in refused("test", "--ckpt_path", str(RUN / "best.ckpt"))
    other.release()
    assert main(["test", "--ckpt_path", str(RUN / "best.ckpt")]) == 0
    assert not (run / "test-clean" / ".lock").exists()


# What a checkpoint and a folder say


def test_a_module_that_the_runs_configuration_names_is_not_imported(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Path.cwd() / "ran"
    Path("evil.py").write_text(
        f"import lightning as L\nfrom pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "class Callback(L.Callback): pass\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["trainer"]["callbacks"] = [{"class_path": "evil.Callback"}]
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    assert go_on("--trainer.max_epochs", "2") == 2
    assert "trainer.callbacks" in capsys.readouterr().err and not ran.exists()
    assert go_on("--trainer.max_epochs", "2", "--config", str(run / "config.yaml")) == 0
    assert ran.exists()


@pytest.mark.parametrize(
    "content", [b"", b"- 1\n", b"2026-11-25\n", b"data: \xff\n", b"a: [1", b"x" * 2**21], ids=range(6)
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_configuration_that_is_none_is_one_line(run: Path, command: str, content: bytes, capsys: Any) -> None:
    (run / "config.yaml").write_bytes(content)
    assert main([command, "--ckpt_path", LAST]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "config.yaml" in said and "--config" in said


def changes() -> dict[str, Callable[[dict[str, Any]], None]]:
    def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
        *path, last, value = keys

        def change(content: dict[str, Any]) -> None:
            for key in path:
                content = content[key]
            content[last] = value

        return change

    moments = ("optimizer_states", 0, "state", 0)
    return {
        "hyper-parameters are a list": put("hyper_parameters", [1]),
        "no hyper-parameters": put("hyper_parameters", None),
        "an unknown hyper-parameter": put("hyper_parameters", "depth", 3),
        "a rate in words": put("hyper_parameters", "learning_rate", "fast"),
        "a rate that is no number": put("hyper_parameters", "learning_rate", float("nan")),
        "weights of other shapes": put("state_dict", "network.layers.0.weight", torch.zeros(2, 2)),
        "weights too many": put("state_dict", "more", torch.zeros(2)),
        "a history that is none": put("history", 5),
        "a history of words": put("history", [{"epoch": "one"}]),
        "sums of another shape": put("train_sums", torch.zeros(7)),
        "sums that are none": put("train_sums", "sums"),
        "generators of nothing": put("generators", {}),
        "generators of another size": put("generators", "torch", torch.zeros(3, dtype=torch.uint8)),
        "generators of words": put("generators", "python", "words"),
        "moments of another shape": put(*moments, "exp_avg", torch.zeros(1, 2)),
        "moments that are no numbers": put(*moments, "exp_avg", torch.full((8, 3, 3, 3), float("nan"))),
        "no moments": put("optimizer_states", 0, "state", None),
        "moments that are gone": put("optimizer_states", 0, "state", {}),
        "no optimizer": put("optimizer_states", []),
        "an optimizer of words": put("optimizer_states", "adam"),
        "a schedule of nothing": put("lr_schedulers", [{}]),
        "a schedule of words": put("lr_schedulers", "slow"),
        "loops of nothing": put("loops", {}),
        "loops of words": put("loops", "fit_loop", "words"),
        "callbacks of words": put("callbacks", "words"),
        "a record that is none": put("trained_on", [{"names": 1}]),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_a_checkpoint_whose_state_is_none_is_one_line(refused: Callable[..., str], run: Path, name: str) -> None:
    shutil.copytree(run, "broken")
    content = read_checkpoint(run / "last.ckpt")
    changes()[name](content)
    torch.save(content, "broken/last.ckpt")
    before = contents(Path("broken"))
    refused("fit", "--ckpt_path", "broken/last.ckpt", "--trainer.max_epochs", "2")
    assert contents(Path("broken")) == before
