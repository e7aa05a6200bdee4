"""repeat: fit once a seed, no seed twice; what is stopped, fails or is of another configuration is said in a line."""

import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy.stats import t

from lightning_cifake.benchmark.leaderboard import make_rows
from lightning_cifake.benchmark.records import read_records
from lightning_cifake.commands import repeat
from lightning_cifake.commands.main import main
from lightning_cifake.files import read_json, sealed_json

FIT = ["fit", "--config", "clean", "--data.root", "somewhere/CIFAKE.zip"]
ACCURACIES = {0: 0.90, 1: 0.94, 2: 0.92}


class Fits:
    """In place of ``fit``: notes its arguments and leaves a run; exit codes by seed may be set."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.codes: dict[int, int] = {}

    def __call__(self, arguments: Sequence[str]) -> int:
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        self.asked.append(given)
        seed = int(given["--seed_everything"])
        folder = Path(given["--output_dir"]) if "--output_dir" in given else Path(given["--ckpt_path"]).parent
        code = self.codes.pop(seed, 0)
        if code == 2:
            return 2
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last.ckpt").touch()
        if code == 0:
            figures = {"accuracy": ACCURACIES[seed], "auroc": 0.99, "images": 2000, "seed": seed, "epochs": 3}
            (folder / "metrics.json").write_text(sealed_json(figures))
        return code

    @property
    def seeds(self) -> list[int]:
        return [int(given["--seed_everything"]) for given in self.asked]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fits:
    monkeypatch.chdir(tmp_path)
    made = Fits()
    monkeypatch.setattr(repeat, "run_fit", made)
    return made


def test_each_seed_is_trained_once_and_the_record_has_mean_spread_and_students_interval(fits, tmp_path, capsys):
    assert main(["repeat", "--seeds", "3", *FIT]) == 0
    assert fits.seeds == [0, 1, 2]
    assert [given["--output_dir"] for given in fits.asked] == [f"checkpoints/clean/seed-{seed}" for seed in range(3)]
    assert all(given["--data.root"] == "somewhere/CIFAKE.zip" for given in fits.asked)
    record, sealed = read_json(tmp_path / "checkpoints/clean/repeat.json")
    assert sealed and list(record["runs"]) == ["0", "1", "2"]
    accuracy = record["figures"]["accuracy"]
    half = t.ppf(0.975, 2) * 0.02 / 3**0.5  # .90, .92, .94: a standard deviation of .02
    assert accuracy["mean"] == pytest.approx(0.92) and accuracy["deviation"] == pytest.approx(0.02)
    assert accuracy["interval"] == pytest.approx([0.92 - half, 0.92 + half])
    assert record["figures"]["precision"] is None  # not in these runs
    assert "somewhere" not in json.dumps(record)
    out = capsys.readouterr().out
    assert "92.00" in out and f"{100 * half:.2f}" in out and "3 of 3 seeds are done" in out


def test_it_is_one_row_of_the_leaderboard_with_the_same_mean_and_interval(fits, tmp_path):
    main(["repeat", "--seeds", "3", *FIT])
    record, _ = read_json(tmp_path / "checkpoints/clean/repeat.json")
    (row,) = make_rows(read_records([tmp_path / "checkpoints"]))
    assert (row["name"], row["runs"]) == ("clean", 3)
    assert row["accuracy"] == record["figures"]["accuracy"]["mean"]
    assert row["interval"] == record["figures"]["accuracy"]["interval"]


def test_called_again_it_trains_nothing_and_with_more_seeds_only_those(fits, tmp_path):
    main(["repeat", "--seeds", "2", *FIT])
    first = (tmp_path / "checkpoints/clean/repeat.json").read_bytes()
    assert main(["repeat", "--seeds", "2", *FIT]) == 0
    assert fits.seeds == [0, 1] and (tmp_path / "checkpoints/clean/repeat.json").read_bytes() == first
    assert main(["repeat", "--seeds", "3", *FIT]) == 0
    assert fits.seeds == [0, 1, 2]
    assert main(["repeat", "--seeds", "1", *FIT]) == 0  # fewer: the others stay in the record
    assert list(read_json(tmp_path / "checkpoints/clean/repeat.json")[0]["runs"]) == ["0", "1", "2"]


def test_a_stopped_run_ends_it_with_what_is_done_and_is_resumed_by_the_same_command(fits, tmp_path, capsys):
    fits.codes[1] = 128 + signal.SIGINT
    assert main(["repeat", "--seeds", "3", *FIT]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "stopped by SIGINT: 1 of 3 seeds are done; the same command does the others"
    record, _ = read_json(tmp_path / "checkpoints/clean/repeat.json")
    assert (list(record["runs"]), record["unfinished"]) == (["0"], [1])
    assert main(["repeat", "--seeds", "3", *FIT]) == 0
    assert fits.seeds == [0, 1, 1, 2]
    assert fits.asked[2]["--ckpt_path"] == "checkpoints/clean/seed-1/last.ckpt" and "--output_dir" not in fits.asked[2]


@pytest.mark.parametrize(
    ("code", "why"),
    [(-9, "fit was killed by signal 9"), (1, "fit failed (exit code 1)"), (2, "fit ended with the error above")],
)
def test_a_seed_that_fails_is_a_line_and_the_others_are_trained(fits, tmp_path, capsys, code, why):
    fits.codes[1] = code
    assert main(["repeat", "--seeds", "3", *FIT]) == 1
    assert fits.seeds == [0, 1, 2]
    captured = capsys.readouterr()
    assert f"seed 1: {why}" in captured.err.splitlines() and "2 of 3 seeds are done" in captured.out
    assert list(read_json(tmp_path / "checkpoints/clean/repeat.json")[0]["runs"]) == ["0", "2"]


def test_a_mistake_that_every_seed_would_make_is_made_once_and_leaves_nothing(fits, tmp_path, capsys):
    fits.codes[0] = 2
    assert main(["repeat", *FIT]) == 2
    assert fits.seeds == [0] and list(tmp_path.iterdir()) == []
    assert "error" not in capsys.readouterr().err  # fit itself has said it


def test_seeds_of_another_configuration_are_refused_but_not_of_the_same_on_other_threads(fits, tmp_path, capsys):
    main(["repeat", "--seeds", "1", *FIT])
    assert main(["repeat", "--seeds", "1", *FIT, "--threads", "1"]) == 0
    capsys.readouterr()
    for other in ([*FIT, "--model.learning_rate", "0.1"], [*FIT[:3], "--data.root", "other.zip"]):
        assert main(["repeat", *other]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected the seeds of one configuration, got another: " in line and "--output_dir" in line
    assert main(["repeat", "--seeds", "1", "--output_dir", "mine", *FIT, "--model.learning_rate", "0.1"]) == 0
    assert fits.asked[-1]["--output_dir"] == "mine/seed-0"


def test_a_damaged_record_of_a_seed_is_measured_again(fits, tmp_path):
    main(["repeat", "--seeds", "2", *FIT])
    metrics = tmp_path / "checkpoints/clean/seed-1/metrics.json"
    metrics.write_text(metrics.read_text().replace("0.94", "0.99"))
    assert main(["repeat", "--seeds", "2", *FIT]) == 0
    assert fits.seeds == [0, 1, 1] and json.loads(metrics.read_text())["accuracy"] == 0.94


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "repeat: expected fit and its arguments, as in: repeat --seeds 5 fit --config clean"),
        (["test"], "repeat: expected fit and its arguments, got test, as in:"),
        (["--seeds", "0", "fit"], "expected at least 1, got 0"),
        (["fit", "--seed_everything=3"], "repeat: expected fit without --seed_everything: repeat gives each run"),
        (["fit", "--output_dir", "x"], "--output_dir stands before fit"),
        (["fit", "--ckpt_path", "x"], "repeat resumes each run that has begun by itself"),
        (["fit", "--config", "cleen"], "did you mean clean"),
    ],
)
def test_what_is_no_repetition_is_one_line(fits, tmp_path, capsys, arguments, message):
    assert main(["repeat", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert fits.asked == [] and list(tmp_path.iterdir()) == []


def test_ctrl_c_waits_until_the_run_in_progress_has_ended(tmp_path, monkeypatch, capsys):
    """The run is a script in Python's place, which takes its time to end."""
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\ntrap 'sleep .2; touch ended; exit 130' INT\ntouch began\nwhile :; do sleep .02; done\n"
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))

    def press() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    assert main(["repeat", *FIT]) == 130
    pressing.join()
    assert (tmp_path / "ended").exists()
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGINT"  # and nothing of seeds: none has begun
