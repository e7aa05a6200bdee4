"""Minutes to an accuracy are the log's own, to the first validation that has it; a log that is not whole is refused."""

import json
import queue
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made import write_images
from PIL import Image

from lightning_cifake.benchmark import minutes_callback, minutes_run
from lightning_cifake.benchmark.minutes import main
from lightning_cifake.benchmark.minutes_log import FORM, KIND, LogWriter, Stopwatch, read_log
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split
from lightning_cifake.errors import UserError
from lightning_cifake.files import read_json

HEADER = {
    "kind": KIND, "form": FORM, "system": "compact", "title": "made", "machine": {"processor": "A CPU", "cores": 2},
    "date": "2026-11-26", "seed": 0, "precision": "32-true", "epochs": 15, "train_images": 1000, "val_images": 100,
    "val_digest": "a" * 64, "training_began": 10.0,
}  # fmt: skip
# at 70 s: 60 s of training less 12 s of validation; an epoch's last pass took 4 s, the two within it 8 s
POINTS = (
    (30.0, 4.0, 4.0, 333, 0.80),
    (50.0, 8.0, 8.0, 666, 0.951),
    (70.0, 12.0, 8.0, 1000, 0.949),
    (100.0, 16.0, 12.0, 1333, 0.97),
)


def write(path: Path, points: Any = POINTS, ended: float | None = 120.0, **header: Any) -> Path:
    log = LogWriter(path)
    log.write({**HEADER, **header})
    for seconds, validating, extra, images, accuracy in points:
        log.write(
            {
                "seconds": seconds,
                "validating": validating,
                "extra": extra,
                "images": images,
                "epoch": images / 1000,
                "val_accuracy": accuracy,
            }
        )
    if ended is not None:
        log.write({"ended": "budget", "seconds": ended})
    log.close()
    return path


def test_an_accuracy_is_reached_by_the_first_pass_that_has_it_and_nothing_is_interpolated(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "log"))
    assert log.minutes_to(0.90, "wall") == log.minutes_to(0.95, "wall") == 50 / 60
    assert log.minutes_to(0.951, "wall") == 50 / 60  # that it fell again counts for nothing
    assert log.minutes_to(0.97, "wall") == 100 / 60
    assert log.minutes_to(0.9701) is None


def test_each_clock_leaves_out_what_it_says(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "log"))
    assert log.course("wall")[2] == (70 / 60, 0.949)
    assert log.course("paid")[2] == ((70 - 8) / 60, 0.949)  # without the passes within the epoch
    assert log.course("training")[2] == ((70 - 10 - 12) / 60, 0.949)  # without the start and all passes
    assert log.minutes_to(0.97) == (100 - 12) / 60
    assert log.images_per_second == 1333 / (100 - 10 - 16)
    assert [log.minutes(clock) for clock in ("wall", "paid", "training")] == [120 / 60, 108 / 60, 94 / 60]


def test_a_pass_without_a_finite_loss_reaches_nothing(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "log", [(30.0, 4.0, 4.0, 333, None), *POINTS[1:]]))
    assert len(log.course()) == 3 and log.minutes_to(0.1, "wall") == 50 / 60


def test_a_killed_run_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "log", ended=None))
    assert log.ended is None and log.minutes("wall") == 100 / 60


def test_a_pass_takes_until_training_goes_on_and_only_passes_within_an_epoch_are_extra() -> None:
    watch = Stopwatch(began=100.0)
    watch.resumed(110.0)  # training begins: no pass before it
    assert watch.passed(130.0, 133.0, extra=True) == {"seconds": 33.0, "validating": 3.0, "extra": 3.0}
    watch.resumed(135.0)  # a checkpoint of 2 s hung on it
    assert watch.passed(150.0, 153.0, extra=False) == {"seconds": 53.0, "validating": 8.0, "extra": 5.0}
    watch.resumed(154.0)
    watch.resumed(160.0)
    assert watch.passed(170.0, 173.0, extra=True) == {"seconds": 73.0, "validating": 12.0, "extra": 8.0}


def lines_of(path: Path, change: Callable[[list[str]], Any]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_text(""), "is empty: expected a log that `minutes run` wrote"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is no log of minutes"),
        (lambda path: path.write_text('{"a": 1}\n'), "line 1: expected a line as `minutes run` wrote it"),
        (lambda path: path.write_text("[" * 100_000), "line 1: expected a line"),
        (lambda path: path.write_text(path.read_text().replace("0.951", "0.961")), "line 3: expected a line"),
        (lambda path: lines_of(path, lambda lines: lines.pop(2)), "line 3: expected a line"),
        (lambda path: lines_of(path, lambda lines: lines.pop(0)), "line 1: expected a line"),
        (lambda path: lines_of(path, lambda lines: lines.insert(2, lines.pop(1))), "line 2: expected a line"),
        (lambda path: path.write_text(path.read_text()[:-20]), "line 6: expected a line"),
        (lambda path: lines_of(path, lambda lines: lines.__delitem__(slice(1, None))), "expected at least one pass"),
        (lambda path: (path.unlink(), write(path, kind="other")), "expected a log of minutes in form 1"),
        (lambda path: (path.unlink(), write(path, form=2)), "expected a log of minutes in form 1"),
        (lambda path: (path.unlink(), write(path, val_digest=None)), "got one without its val_digest"),
        (lambda path: (path.unlink(), write(path, machine={})), "got one without its machine"),
    ],
)
def test_a_damaged_empty_or_foreign_log_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], Any], line: str
) -> None:
    damage(write(tmp_path / "log.jsonl"))
    assert main(["page", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "page")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and line in said.err, said.err
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"val_digest": "b" * 64, "seed": 1}, "expected logs of the same images, got"),
        ({"train_images": 999}, "expected logs of the same images, got"),
        ({}, "expected each run once, got made, seed 0 on A CPU, 2 cores twice"),
    ],
)
def test_logs_that_are_not_to_be_compared_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: dict[str, Any], line: str
) -> None:
    logs = [str(write(tmp_path / "one")), str(write(tmp_path / "two", **header))]
    assert main(["page", *logs]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and line in said.err


def test_the_page_has_a_table_a_machine_the_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = {"machine": {"processor": "Other", "cores": 16, "gpu": "A GPU"}, "training_began": 0.1}
    logs = [
        write(tmp_path / "fast"),
        write(tmp_path / "gpu", [(p[0] / 60, 0.01, 0.01, *p[3:]) for p in POINTS], 2.5, **gpu),
        write(tmp_path / "slow", [(*p[:4], p[4] - 0.15) for p in POINTS], 600.0, title="made | slow"),
    ]
    assert main(["page", *map(str, logs), "--output", str(tmp_path / "page")]) == 0
    said = capsys.readouterr().out
    first, _, second = said.partition("**A GPU, 16 cores**")
    assert "**A CPU, 2 cores**, 2026-11-26:" in first and "|  | 90 % after | 95 % after | 97 % after |" in first
    assert "| made | 0.70 min | 0.70 min | 1.5 min | 97.00 % | 18 | 1.3 of 15 | 32-true |" in first
    assert "| made \\| slow | not in 9.8 min | not in 9.8 min | not in 9.8 min | 82.00 %" in first
    assert "| made | 0.01 min | 0.01 min | 0.03 min |" in second
    record, sealed = read_json(tmp_path / "page" / "minutes.json")
    assert sealed and record["runs"][0]["to"]["training"]["95"] == (50 - 10 - 8) / 60
    assert [run["label"] for run in record["runs"]] == ["made", "made | slow", "made"]  # machine by machine
    with Image.open(tmp_path / "page" / "minutes.png") as picture:
        assert min(picture.size) > 800 and picture.convert("L").getextrema() == (0, 255)


MODULE = """
import json, sys, time
def tell(**told): print(json.dumps(told), flush=True)
tell(event="training", at=time.monotonic(), precision="32-true", epochs=2)
for number, accuracy in enumerate((0.5, float(sys.argv[1]))):
    now = time.monotonic()
    tell(event="pass", began=now, ended=now, images=50 * number + 50, val_accuracy=accuracy, extra=False)
    tell(event="training", at=time.monotonic())
"""


def watched(folder: Path, then: str, accuracy: float = 0.96, **plan: Any) -> tuple[str, list[dict[str, Any]]]:
    """A made training, watched: why it ended, and its log."""
    (folder / "made_training.py").write_text(MODULE + then)
    header = {**HEADER, "train_images": 100}
    why = minutes_run._watch(
        ["made_training", str(accuracy)],
        {"PYTHONPATH": str(folder)},
        minutes_run.Plan("compact", "none", **plan),
        header,
        folder / "log",
        lambda line: None,
    )
    return why, [json.loads(line) for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("then", "plan", "why", "passes"),
    [
        ("time.sleep(60)", {"until": 0.96}, "until", 2),
        ("time.sleep(60)", {"until": 0.4}, "until", 1),
        ("print('a last word', file=sys.stderr)", {}, "epochs", 2),
    ],
)
def test_a_training_ends_with_its_accuracy_or_its_epochs(
    tmp_path: Path, then: str, plan: dict[str, Any], why: str, passes: int
) -> None:
    ended, lines = watched(tmp_path, then, **plan)
    assert ended == why == lines[-1]["ended"]
    log = read_log(tmp_path / "log")
    assert len(log.points) == passes and log.ended == why
    assert 0 < log.header["training_began"] <= log.points[0].seconds <= lines[-1]["seconds"] < 30
    assert log.points[-1].epoch == passes / 2 and log.header["precision"] == "32-true"


def test_what_is_not_told_within_the_budget_does_not_count() -> None:
    waited = []

    def nothing(seconds: float) -> Any:
        waited.append(seconds)
        raise queue.Empty

    record = SimpleNamespace(began=time.monotonic() - 50)
    plan = minutes_run.Plan("compact", "none", budget=1.0)
    assert minutes_run._follow(SimpleNamespace(next=nothing), record, plan) == "budget"  # type: ignore[arg-type]
    assert len(waited) == 1 and 0 < waited[0] <= 10
    record.began -= 20
    assert minutes_run._follow(SimpleNamespace(next=nothing), record, plan) == "budget"  # type: ignore[arg-type]
    assert len(waited) == 1  # what lies ready by then is not even looked at


def test_float32_s_nearest_to_a_target_reaches_it(tmp_path: Path) -> None:
    assert watched(tmp_path, "time.sleep(60)", 0.9599999785423279, until=0.96)[0] == "until"


def test_a_training_that_fails_says_its_last_line_and_its_log_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compact ended: no memory left"):
        watched(tmp_path, "sys.exit('error: no memory left')")
    assert read_log(tmp_path / "log").ended == "failed"


def test_a_training_without_a_pass_in_its_budget_leaves_no_log(tmp_path: Path) -> None:
    (tmp_path / "made_training.py").write_text("import time; time.sleep(60)")
    plan = minutes_run.Plan("compact", "none", budget=0.005)
    with pytest.raises(UserError, match="not enough: expected a first validation"):
        minutes_run._watch(
            ["made_training"], {"PYTHONPATH": str(tmp_path)}, plan, {**HEADER}, tmp_path / "log", lambda line: None
        )
    assert not (tmp_path / "log").exists()


def test_keras_has_the_same_files_unpacked_from_an_archive_and_a_folder_s_own(tmp_path: Path) -> None:
    places = [f"{part}/{name}" for part in ("train", "test") for name in ("FAKE", "REAL")]
    data = write_images(tmp_path / "data", *(f"{place}/{number}.png" for place in places for number in range(10)))
    archive = Path(shutil.make_archive(str(tmp_path / "data"), "zip", data))
    found = {}
    for root in (data, archive):
        images = load_images(str(root), cache_dir=tmp_path / "cache")
        split = make_split(images, "official")
        scratch = tmp_path / f"scratch-{root.suffix}"
        scratch.mkdir()
        module, spec = minutes_run._keras(minutes_run.Plan("keras", str(root)), images, split, scratch)
        assert module == "tf_reference.minutes"
        folder, listed = Path(json.loads(spec)["data"]), json.loads((scratch / "split.json").read_text())
        assert {part: len(names) for part, names in listed.items()} == {"train": 18, "val": 2, "test": 2}
        assert all(Path(name).parent.name in ("FAKE", "REAL") for name in listed["train"])
        found[root] = {
            part: [(Path(n).parent.name, (folder / n).read_bytes()) for n in listed[part]] for part in listed
        }
    assert found[data] == found[archive]


def test_a_log_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "log").read_bytes()
    assert main(["run", "compact", "--data.root", "anywhere", "--output", str(tmp_path / "log")]) == 2
    assert "is there already: expected a new file" in capsys.readouterr().err
    assert (tmp_path / "log").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["run", "compact", "--data.root", "demo"], "expected CIFAKE, a folder or a zip with train/ and test/ in it"),
        (["run", "keras", "--data.root", "x", "--", "--data.crop", "2"], "--data.crop: expected no further arguments"),
    ],
)
def test_a_user_s_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("error: ") and line in said.err
    assert list(tmp_path.iterdir()) == []


def test_fit_s_callback_tells_of_every_validation_and_which_an_epoch_would_have_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(minutes_callback, "Replies", lambda: SimpleNamespace(send=told.append))
    callback = minutes_callback.MinutesCallback()
    figures = {"val_loss": 0.3, "val_accuracy": 0.75}
    trainer = SimpleNamespace(
        precision="32-true", max_epochs=2, datamodule=SimpleNamespace(batch_size=8), callback_metrics=figures,
        sanity_checking=False, val_check_batch=2, num_training_batches=7,
    )  # fmt: skip
    module = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    for step in range(7):
        callback.on_train_batch_start(trainer, module, None, step)
        callback.on_train_batch_end(trainer, module, None, SimpleNamespace(labels=range(8)), step)
        if step % 2:
            callback.on_validation_start(trainer, module)
            callback.on_validation_end(trainer, module)
            figures["val_loss"] = float("nan") if step == 3 else 0.3
    assert [each["event"] for each in told] == ["training", "pass"] * 3 + ["training"]
    passes = [each for each in told if each["event"] == "pass"]
    assert [each["images"] for each in passes] == [16, 32, 48]
    assert [each["extra"] for each in passes] == [True, True, False]
    assert [each["val_accuracy"] for each in passes] == [0.75, 0.75, None]
    assert told[0]["epochs"] == 2 and "epochs" not in told[2]
    assert all(each["began"] <= each["ended"] for each in passes)


@pytest.mark.long
@pytest.mark.parametrize(("system", "more"), [("keras", []), ("compact", ["--", "--data.batch_size", "32"])])
def test_a_system_trains_as_its_user_starts_it_and_ends_with_its_accuracy(
    tmp_path: Path, system: str, more: list[str]
) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 4)):
        for name, level in (("FAKE", 40), ("REAL", 200)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(level, level + 50, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number:04d}.jpg")
    log = tmp_path / "log"
    arguments = ["--data.root", str(tmp_path / "data"), "--output", str(log), "--budget", "5", "--until", "0.4"]
    assert main(["run", system, *arguments, *more]) == 0
    found = read_log(log)
    assert found.ended == "until" and found.header["train_images"] == 144 and found.header["val_images"] == 16
    assert found.points[0].extra > 0 and 0 < found.points[0].images < 144
