"""The leaderboard says what records say, tells what a mean is of, and names a record that it cannot read."""

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.stats import norm

from lightning_cifake.benchmark.leaderboard import make_rows
from lightning_cifake.benchmark.leaderboard_pictures import cost_of, draw_costs
from lightning_cifake.benchmark.leaderboard_table import cells, markdown_table
from lightning_cifake.benchmark.records import course_of, minutes_to, read_records
from lightning_cifake.commands.main import main
from lightning_cifake.evaluation.intervals import seeds_interval, wilson_interval
from lightning_cifake.files import read_json, sealed_json
from lightning_cifake.networks.compact import CompactCNN
from lightning_cifake.networks.costs import costs_of

ROOT = Path(__file__).resolve().parents[2]
GPU = {"processor": "AMD EPYC", "cores": 16, "gpu": "NVIDIA H100"}


def metrics(accuracy: float, **others: Any) -> dict[str, Any]:
    """What a run's test wrote, as far as the table reads it."""
    return {
        "accuracy": accuracy,
        "auroc": 0.99,
        "images": 1000,
        "stage": "test",
        "protocol": "official",
        "data_digest": "d",
        "seen_in_training": {"images": 100, "accuracy_without": accuracy - 0.01, "auroc_without": 0.98},
        "model": {"network": {"class_path": "mine.Net", "init_args": {}}},
        "parameters": 141_217,
        "multiply_adds": 4_400_000,
        "epochs": 2,
        "seed": 0,
        "seconds": {"fit": 90.0},
        "machine": GPU,
        "checkpoint_sha256": "c",
        **others,
    }


def write_run(folder: Path, content: dict[str, Any], history: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(sealed_json(content))
    if history:
        (folder / "history.csv").write_text(history)


def write_export(path: Path, precision: str, accuracy: float, checkpoint: str = "c", **others: Any) -> None:
    real = {"protocol": "official", "images": 1000, "data_digest": "d"}
    real["onnxruntime"] = {"accuracy": accuracy, "auroc": 0.97}
    model = {"sha256": "s", "bytes": 2_500_000, "precision": precision, "checkpoint_sha256": checkpoint, **others}
    path.write_text(sealed_json({"real": real, "model": model}))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    history = "epoch,val_accuracy,train_seconds\n0,0.90,60\n1,0.98,60\n"
    write_run(folder / "one", metrics(0.95, seconds={"fit": 30.0}), history)
    for seed, accuracy in enumerate((0.97, 0.98, 0.99)):
        others = {"seed": seed, "seen_in_training": None, "checkpoint_sha256": f"s{seed}"}
        write_run(folder / "three" / f"seed-{seed}", metrics(accuracy, **others))
    write_export(folder / "one" / "a.json", "float32", 0.95)
    write_export(folder / "one" / "b.json", "int8", 0.94)
    return folder


def test_the_table_says_what_the_records_say(records: Path) -> None:
    speed = {"rows": {"one": {"training": {"median": 1234.4}, "answering": {"median": 9999.6}}}}
    found = read_records([records])
    assert found.problems == []
    assert markdown_table(make_rows(found, speed)).splitlines() == [
        "| run | network | accuracy, % | AUROC | without twins, % | AUROC | parameters | multiply-adds | "
        "training, images/s | inference, images/s | minutes of training | file, MB |",
        "| " + " | ".join(["---"] * 12) + " |",
        "| `three`, 3 seeds | Net | 98.00 ± 2.48 | 0.9900 |  |  | 141 k | 4.4 M |  |  | "
        "1.5 (NVIDIA H100, 16 cores) |  |",
        r"| `one` | Net | 95.00 \[93.47, 96.19\] | 0.9900 | 94.00 \[92.25, 95.37\] (900) | 0.9800 | 141 k | 4.4 M | "
        "1,234 | 10,000 | 2.0 (NVIDIA H100, 16 cores) | 2.5 |",
        r"| `one in int8` | Net | 94.00 \[92.35, 95.31\] | 0.9700 |  |  | 141 k | 4.4 M |  |  | "
        "2.0 (NVIDIA H100, 16 cores) | 2.5 |",
    ]


def test_a_run_s_interval_is_wilson_s_and_that_of_seeds_is_student_s() -> None:
    z = norm.ppf(0.975)
    for right, images in ((18524, 20000), (20000, 20000), (0, 7), (5, 9)):
        share = right / images
        middle = (share + z * z / (2 * images)) / (1 + z * z / images)
        half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2)) / (1 + z * z / images)
        expected = (max(0.0, middle - half), min(1.0, middle + half))
        assert wilson_interval(right, images) == pytest.approx(expected, abs=1e-12)
    # statsmodels 0.15.0: proportion_confint(18524, 20000, method="wilson"), DescrStatsW(values).tconfint_mean()
    assert wilson_interval(18524, 20000) == pytest.approx((0.92249, 0.92975), abs=1e-5)
    assert seeds_interval([0.97, 0.98, 0.99]) == pytest.approx((0.9551586, 1.0048414), abs=1e-7)


def test_a_run_that_was_tested_on_the_official_images_too_counts_with_these(tmp_path: Path) -> None:
    write_run(tmp_path / "clean" / "1", metrics(0.99, protocol="clean", images=50))
    write_run(tmp_path / "clean" / "1" / "test-official", metrics(0.9))
    write_run(tmp_path / "other", metrics(0.8))
    rows = make_rows(read_records([tmp_path]))
    assert [(row["name"], row["accuracy"]) for row in rows] == [("clean/1", 0.9), ("other", 0.8)]
    assert "tested on" not in cells(rows)[0]


def test_a_checkpoint_that_was_tested_alone_is_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "ensemble" / "test-official", metrics(0.9))
    write_run(tmp_path / "other" / "test-clean", metrics(0.8))
    write_run(tmp_path / "one" / "validate-official", metrics(0.7, stage="validate"))
    found = read_records([tmp_path])
    assert [(row["name"], row["accuracy"]) for row in make_rows(found)] == [("ensemble", 0.9), ("other", 0.8)]
    assert found.problems == []


def test_an_exported_model_has_the_figures_of_its_evaluation_and_its_network_s_costs(tmp_path: Path) -> None:
    members = [{"network": "lightning_cifake.networks.CompactCNN", "arguments": {"width": 4}, "flips": True}] * 2
    network = {"class_path": "lightning_cifake.networks.Ensemble", "init_args": {"members": members}}
    write_export(tmp_path / "best.json", "float16", 0.95, network=network)
    part = {
        "images": 1000,
        "figures": {"accuracy": {"value": 0.95, "interval": [0.93, 0.97]}, "auroc": {"value": 0.98}},
    }
    unseen = {"images": 990, "figures": {"accuracy": {"value": 0.94, "interval": [0.92, 0.96]}}}
    evaluation = {
        "kind": "evaluation",
        "data": {"digest": "d"},
        "models": [{"sha256": "s", "all": part, "unseen": unseen}],
    }
    write_run(tmp_path / "evaluated", evaluation)
    found = read_records([tmp_path])
    assert found.problems == [] and found.runs == []
    (row,) = make_rows(found)
    alone = costs_of(CompactCNN(width=4), 32)
    assert (row["network"], row["parameters"]) == ("ensemble", 2 * (alone.parameters or 0))
    assert row["multiply_adds"] == 4 * (alone.multiply_adds or 0)  # each member looks at the image and at its mirror
    assert (row["accuracy"], row["interval"], row["auroc"]) == (0.95, [0.93, 0.97], 0.98)
    assert row["without_twins"] == {
        "images": 990, "left_out": 10, "accuracy": 0.94, "interval": [0.92, 0.96], "interval_of": "images",
        "auroc": None,
    }  # fmt: skip
    write_run(tmp_path / "evaluated", {**evaluation, "data": {"digest": "other images"}})
    (row,) = make_rows(read_records([tmp_path]))
    assert row["without_twins"] is None and row["auroc"] == 0.97


def test_a_course_names_its_machine_where_there_are_several() -> None:
    from lightning_cifake.commands.leaderboard import _with_machine

    rows = [{"name": "a", "machine": "NVIDIA H100 80GB HBM3, 16 cores"}, {"name": "b", "machine": None}]
    assert [_with_machine(row, rows) for row in rows] == ["a", "b"]
    rows.append({"name": "c", "machine": "cpu"})
    assert [_with_machine(row, rows) for row in rows] == ["a (NVIDIA H100)", "b", "c (cpu)"]


def test_rows_of_other_test_images_come_last_and_say_so(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", metrics(0.99, protocol="clean", images=50))
    for name in ("a", "b"):
        write_run(tmp_path / name, metrics(0.9))
    header, lines = cells(make_rows(read_records([tmp_path])))
    assert header[-1] == "tested on"
    assert [(line[0], line[-1]) for line in lines] == [
        ("a", "official, 1,000"), ("b", "official, 1,000"), ("mine", "clean, 50"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("bad/metrics.json", '{"accuracy": 0.9', "bad/metrics.json is damaged, or no JSON: "),
        ("bad/metrics.json", "flipped", "bad/metrics.json is damaged: it is not what was written"),
        ("bad/metrics.json", '{"accuracy": 1.5, "images": 2}', "bad/metrics.json: expected the accuracy (0 to 1)"),
        ("bad/metrics.json", '{"accuracy": 1, "images": 2, "stage": "validate"}', "expected the figures of a test"),
        ("bad/config.yaml", "model: {}", "bad: expected metrics.json, got none: the run has not ended"),
        ("one/history.csv", "epoch,val_loss\n0,soon\n", "one/history.csv is damaged: expected a row of numbers"),
        ("one/x.json", "{", "one/x.json is damaged, or no JSON"),
        (
            "e/metrics.json",
            '{"kind": "evaluation", "models": [{}]}',
            "e/metrics.json: expected the accuracy of each model",
        ),
    ],
)
def test_a_damaged_or_missing_record_is_one_line_and_the_others_are_shown(
    records: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, line: str
) -> None:
    path = records / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(sealed_json(metrics(0.9)).replace("0.9,", "0.8,") if content == "flipped" else content)
    assert main(["leaderboard", str(records)]) == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith(f"left out: {records}/") and line in said.err
    assert "three, 3 seeds" in said.out and "95.00 [93.47, 96.19]" in said.out and "Traceback" not in said.err


def test_the_command_writes_the_rows_and_both_pictures(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = records.parent / "table"
    assert main(["leaderboard", str(records), "--output", str(output)]) == 0
    rows, sealed = read_json(output / "leaderboard.json")
    assert sealed and [row["name"] for row in rows["rows"]] == ["three", "one", "one in int8"]
    assert rows["rows"][1]["minutes_to_target"] == 2.0
    for name in ("leaderboard.png", "courses.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 800 and picture.convert("L").getextrema() == (0, 255)
    assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["nowhere"], "expected a folder with runs in it, or a manifest, got nowhere"),
        (["."], "no recorded run below .: expected a metrics.json"),
        ([".", "--speed", "a", "--measure", "b"], "--measure and --speed: expected one of them"),
    ],
)
def test_what_no_table_can_be_made_of_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", *given]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and line in said.err


def test_no_name_stands_on_another_or_on_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_cifake.benchmark import leaderboard_pictures as pictures

    boxes: list[Any] = []
    label = pictures._label

    def placed(figure: Any, *given: Any) -> Any:
        made = label(figure, *given)
        boxes.extend(pictures.Annotation.get_window_extent(each).extents for each in made)
        return made

    monkeypatch.setattr(pictures, "_label", placed)
    costs = (1e6, 1.1e6, 8e7, 8e7, 8e7, 8e7, 9e7, 2e9)
    shares = (0.9, 0.901, 0.92, 0.921, 0.922, 0.98, 0.9801, 0.99)
    rows = [
        {"name": f"a network's name {n}", "multiply_adds": cost, "accuracy": share, "precision": None, "speed": None,
         "interval": [share - 0.002, share + 0.002]}
        for n, (cost, share) in enumerate(zip(costs, shares, strict=True))
    ]  # fmt: skip
    assert draw_costs(rows, tmp_path / "a.png")
    pairs = [(a, b) for at, a in enumerate(boxes) for b in boxes[at + 1 :]]
    assert len(boxes) == 8 and sum(pictures._overlap(a, b) for a, b in pairs) == 0


def test_the_cost_is_measured_time_where_all_were_measured() -> None:
    rows = [{"multiply_adds": 5, "speed": {"answering": {"median": 500}}}, {"multiply_adds": 7, "speed": None}]
    assert cost_of(rows) == ("multiply-adds an image", [5, 7])
    rows[1]["speed"] = {"answering": {"median": 2000}}
    assert cost_of(rows) == ("milliseconds an image, in batches of 32", [2, 0.5])


def test_a_course_counts_minutes_of_training() -> None:
    course = course_of(
        [{"train_seconds": 60, "val_accuracy": 0.9}, {"train_seconds": 30}, {"train_seconds": 30, "val_accuracy": 0.97}]
    )
    assert course == [(1, 0.9), (2, 0.97)]
    assert minutes_to(course, 0.97) == 2 and minutes_to(course, 0.98) is None


def test_the_page_s_rows_are_those_of_the_records() -> None:
    speed = ROOT / "docs" / "results" / "speed.json"
    recorded, _ = read_json(ROOT / "docs" / "leaderboard" / "leaderboard.json")
    docs = [ROOT / "docs" / name for name in ("results", "evaluations")]
    found = read_records([*docs, *sorted((ROOT / "checkpoints").glob("*.json"))])
    rows = make_rows(found, read_json(speed)[0] if speed.exists() else None)
    assert found.problems == []
    assert cells(rows) == cells(recorded["rows"]), "docs/leaderboard.md says how it is made again"
