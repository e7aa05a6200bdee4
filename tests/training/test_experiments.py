"""docs/experiments.csv and its like: a run's row says what was expected and what came; what people wrote stays."""

import csv
import json
import multiprocessing
from pathlib import Path

import pytest
from tiny import NETWORK

from lightning_cifake.commands.experiment_row import configuration_of
from lightning_cifake.commands.main import main
from lightning_cifake.errors import UserError
from lightning_cifake.training.experiments import COLUMNS, append_experiment, best_figures, read_experiments

FIT = ["fit", *NETWORK, "--data.sample", "128", "--data.batch_size", "16", "--trainer.precision", "32-true",
       "--trainer.accelerator", "cpu", "--trainer.logger", "false", "--test_at_end", "false"]  # fmt: skip


def test_a_run_adds_a_row_with_its_prediction_and_the_figures_of_its_best_epoch(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    table = workplace / "records" / "experiments.csv"
    asked = ["--experiments", str(table), "--prediction", "width 4 loses, a point or more", "--model.network.width=4"]
    asked += ["--trainer.max_epochs", "2", "--seed_everything", "3", "--test_at_end", "true"]
    assert main([*FIT, *asked]) == 0
    (row,) = read_experiments(table)
    with (workplace / "checkpoints/demo/1/history.csv").open(newline="") as file:
        best = min(csv.DictReader(file), key=lambda epoch: float(epoch["val_loss"]))
    assert tuple(row) == COLUMNS
    assert row["prediction"] == "width 4 loses, a point or more" and row["learned"] == ""
    assert "--config demo" in row["configuration"] and "--model.network.width 4" in row["configuration"]
    assert str(workplace) not in row["configuration"] and row["machine"].endswith(" cores")
    assert (row["seed"], row["epochs"], row["best_epoch"]) == ("3", "2", str(int(best["epoch"]) + 1))
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auroc"):
        assert float(row[name]) == pytest.approx(float(best[name]), rel=1e-5)
    config = (workplace / "checkpoints/demo/1/config.yaml").read_text()
    assert "experiments" not in config and "prediction" not in config  # of this run alone, not of one that resumes it
    capsys.readouterr()
    assert main(["leaderboard"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "demo/1" in line]
    parameters = sum(parameter.numel() for parameter in tiny_network(width=4).parameters())
    assert "TinyNetwork" in line and f" {parameters} " in line and f"({row['machine']})" in line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--experiments", "e.csv"], "--experiments: expected --prediction TEXT beside it"),
        (["--prediction", "better"], "--prediction: expected --experiments FILE beside it"),
        (["--experiments", "no.csv", "--prediction", "better"], "no.csv is no table of experiments: expected the col"),
    ],
)
def test_what_could_not_be_written_down_is_refused_before_anything_is_trained(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    (workplace / "no.csv").write_text("a,b\n1,2\n")
    assert main([*FIT, *given]) == 2
    said = capsys.readouterr()
    assert line in said.err and not (workplace / "checkpoints").exists()


def test_what_people_wrote_into_a_table_stays_byte_for_byte(tmp_path: Path) -> None:
    table = tmp_path / "experiments.csv"
    append_experiment(table, {"prediction": "one", "val_accuracy": 0.97123456789})
    assert read_experiments(table)[0]["val_accuracy"] == "0.971235"
    edited = table.read_bytes().rstrip(b"\n") + '"less is more,\nand ""two"" lines: \xe9"'.encode("latin-1")
    table.write_bytes(edited)
    append_experiment(table, {"prediction": "two\nlines"})
    assert table.read_bytes().startswith(edited + b"\n")
    first, second = read_experiments(table)
    assert first["learned"].startswith('less is more,\nand "two" lines') and second["prediction"] == "two lines"


def test_columns_of_a_table_may_be_moved_and_added(tmp_path: Path) -> None:
    table = tmp_path / "experiments.csv"
    table.write_text(",".join(["mine", *reversed(COLUMNS)]) + "\n")
    append_experiment(table, {"prediction": "one", "seed": 0, "learned": None})
    (row,) = read_experiments(table)
    assert (row["mine"], row["prediction"], row["seed"], row["learned"]) == ("", "one", "0", "")


def _append(table: Path, number: int) -> None:
    for at in range(5):
        append_experiment(table, {"prediction": f"{number} {at}"})


def test_processes_that_write_at_once_lose_no_row(tmp_path: Path) -> None:
    table = tmp_path / "experiments.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(table, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = sorted(row["prediction"] for row in read_experiments(table))
    assert found == sorted(f"{number} {at}" for number in range(4) for at in range(5))
    assert [path.name for path in tmp_path.iterdir()] == ["experiments.csv"]


def test_a_damaged_table_is_refused_and_stays(tmp_path: Path) -> None:
    table = tmp_path / "experiments.csv"
    append_experiment(table, {"prediction": "one"})
    damaged = table.read_text() + "a,row,that,is,short\n"
    table.write_text(damaged)
    with pytest.raises(UserError, match=r"experiments.csv, row 2: expected 14 cells, got 5"):
        append_experiment(table, {"prediction": "two"})
    assert table.read_text() == damaged
    with pytest.raises(ValueError, match=r"expected columns of .*, got accuracy"):
        append_experiment(table, {"accuracy": 1})


def test_a_configuration_names_no_folder_and_nothing_that_has_its_own_column() -> None:
    given = [
        *("--config", json.dumps({"model": 1}), "--config", "official", "-c", "/home/me/mine.yaml"),
        *("--data.root=/home/me/CIFAKE.zip", "--seed_everything", "1", "--experiments", "e.csv", "--prediction", "x y"),
        *("--overwrite", "--model.learning_rate", "-1", "--model.weights", "/home/me/a b.ckpt", "--trainer.max_time=1"),
        *("--ckpt_path", "/home/me/checkpoints/official/1/last.ckpt"),
    ]
    assert configuration_of(given) == (
        "--config official --config mine --model.learning_rate -1 --model.weights 'a b.ckpt' --trainer.max_time 1 "
        "--ckpt_path official/1/last.ckpt"
    )


def test_the_figures_are_of_the_best_epoch_or_of_the_last() -> None:
    history = [{"epoch": 0, "val_loss": 0.1, "lr": 1}, {"epoch": 1, "val_loss": 0.2}]
    assert best_figures(history, 0)["val_loss"] == 0.1 and best_figures(history, 0)["best_epoch"] == 1
    assert best_figures(history, None)["val_loss"] == 0.2 and best_figures([], None) == {"epochs": 0}
