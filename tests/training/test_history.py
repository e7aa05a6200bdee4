"""What a run reports of its epochs is what happened: the rate they trained at, each once, as patience counts them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn
from tiny import NETWORK

from lightning_cifake.commands.main import main
from lightning_cifake.training.early_stopping import KerasEarlyStopping

STEPS = 6  # an epoch's: 89 training images in batches of 16
FIT = ["fit", *NETWORK, "--data.sample", "128", "--data.batch_size", "16", "--trainer.precision", "32-true",
       "--trainer.accelerator", "cpu", "--trainer.logger", "false", "--test_at_end", "false"]  # fmt: skip


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        (["--trainer.max_epochs", "2"], 2),
        (["--trainer.max_epochs", "2", "--trainer.val_check_interval", "0.5"], 2),
        (["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"], 2),
        (["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"], 2),
        (["--trainer.max_epochs", "5", "--trainer.max_steps", str(STEPS + 2)], 2),  # the second is cut short
        (["--trainer.max_epochs", "5", "--trainer.max_steps", "2"], 1),
        (["--trainer.max_epochs", "2", "--trainer.accumulate_grad_batches", "4"], 2),
    ],
)
def test_the_learning_rate_in_the_history_is_what_the_epoch_trained_at(
    workplace: Path, tiny_network: type, monkeypatch: pytest.MonkeyPatch, given: list[str], epochs: int
) -> None:
    from lightning_cifake.training.classifier import FakeImageClassifier

    trained: dict[int, set[float]] = {}
    step = FakeImageClassifier.training_step

    def noted(self: Any, batch: Any, batch_idx: int) -> Any:
        trained.setdefault(self.current_epoch, set()).add(self.optimizers().param_groups[0]["lr"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FakeImageClassifier, "training_step", noted)
    assert main([*FIT, *given]) == 0
    found = {int(row["epoch"]): {float(row["lr"])} for row in rows(workplace / "checkpoints/demo/1")}
    assert found == trained and len(found) == epochs
    assert found[0] == {1e-3 * 0.95}


def test_a_run_that_was_cut_short_in_an_epoch_and_goes_on_has_each_epoch_once(
    workplace: Path, tiny_network: type
) -> None:
    run = workplace / "checkpoints/demo/1"
    assert main([*FIT, "--trainer.max_epochs", "2", "--trainer.max_steps", str(STEPS + 2)]) == 0
    cut = rows(run)
    more = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "3"]
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), *more]) == 0
    whole = rows(run)
    assert [row["epoch"] for row in cut] == ["0", "1"] and [row["epoch"] for row in whole] == ["0", "1", "2"]
    assert cut[0] == whole[0]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_the_epoch_line_names_no_end_where_there_is_none(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.max_epochs", "-1", "--trainer.max_steps", "2"]) == 0
    assert capsys.readouterr().out.startswith("epoch 1  train_loss")


class Recorder:
    """What KerasEarlyStopping looks at of a Trainer."""

    def __init__(self) -> None:
        self.callback_metrics: dict[str, Any] = {}
        self.should_stop, self.current_epoch, self.fast_dev_run, self.sanity_checking = False, 0, False, False
        self.state = type("State", (), {"fn": TrainerFn.FITTING})()
        self.strategy = type("S", (), {"reduce_boolean_decision": staticmethod(lambda decision, all=True: decision)})()
        self.world_size = 1


@pytest.mark.parametrize(("an_epoch", "patience", "stops_after"), [(1, 3, 4), (2, 3, 5), (4, 3, 7)])
def test_patience_counts_validations_from_the_second_epoch_on_as_its_help_says(
    an_epoch: int, patience: int, stops_after: int
) -> None:
    import torch

    trainer, stopper = Recorder(), KerasEarlyStopping(patience)
    validations = 0
    while not trainer.should_stop:
        trainer.current_epoch = validations // an_epoch
        trainer.callback_metrics = {"val_loss": torch.tensor(0.5)}  # the first is the best, and none is lower
        stopper.on_validation_end(trainer, None)  # type: ignore[arg-type]
        validations += 1
    assert validations == stops_after


def test_the_help_of_patience_says_what_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--patience PATIENCE fit: validations in a row without a lower val_loss before it stops" in said
    assert "(type: int, default: 3)" in said.rpartition("--patience PATIENCE")[2][:400]


def test_a_run_that_goes_on_with_nothing_to_train_says_so(
    workplace: Path, tiny_network: type, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    caplog.clear()
    last = "checkpoints/demo/1/last.ckpt"
    assert main(["fit", "--ckpt_path", last, "--test_at_end", "true"]) == 0
    assert "nothing was left to train: 1 epochs are behind this run" in caplog.text
    assert json.loads((workplace / "checkpoints/demo/1/metrics.json").read_text())["epochs"] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--trainer.log_every_n_steps", "4"], [4, 6, 8, 12]),  # an epoch's last too
        (["--trainer.log_every_n_steps", "0"], [6, 12]),
        (["--trainer.enable_progress_bar", "true"], list(range(1, 13))),
    ],
)
def test_the_loss_of_a_step_is_logged_where_somebody_looks_at_it(
    workplace: Path, tiny_network: type, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: list[int]
) -> None:
    from lightning_cifake.training.classifier import FakeImageClassifier

    steps: list[int] = []
    log = FakeImageClassifier.log

    def noted(self: Any, name: str, *args: Any, **named: Any) -> None:
        if name == "loss":
            steps.append(self.trainer.global_step + 1)
        log(self, name, *args, **named)

    monkeypatch.setattr(FakeImageClassifier, "log", noted)
    assert main([*FIT, "--trainer.max_epochs", "2", *given]) == 0
    assert steps == expected
