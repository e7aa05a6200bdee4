"""The arithmetic of the equivalence test, its plan, and its verdict on the recorded runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cifake.evaluation.metrics import binary_metrics
from parity_tests import equivalence, tolerances
from parity_tests.verdict import (
    FOLDER,
    FRAMEWORKS,
    HALF,
    LEVELS,
    MEASURES,
    PAGE,
    PILOT,
    PLAN,
    RUNS,
    equivalence_test,
    half_verdict,
    mcnemar,
    missing_runs,
    power_of,
    precision_verdict,
    read_plan,
    read_predictions,
    read_runs,
    seeds_needed,
    systems_of,
    verdict,
)
from parity_tests.verdict_page import page_of, render, render_half

RUNG = "9 statistics"
MARGIN = 0.01


def test_close_runs_are_equivalent_and_far_ones_different_and_wide_ones_neither():
    tight = [0.900, 0.901, 0.899, 0.902, 0.898]
    assert equivalence_test(tight, [x + 0.002 for x in tight], MARGIN)["verdict"] == "equivalent"
    assert equivalence_test(tight, [x + 0.02 for x in tight], MARGIN)["verdict"] == "different"
    wide = ([0.80, 0.90, 0.85, 0.70, 0.95], [0.82, 0.88, 0.79, 0.91, 0.75])
    assert equivalence_test(*wide, MARGIN)["verdict"] == "inconclusive"


@given(
    st.lists(st.floats(0.5, 1), min_size=3, max_size=8, unique=True),
    st.lists(st.floats(0.5, 1), min_size=3, max_size=8, unique=True),
)
@settings(deadline=None)
def test_equivalent_is_when_the_90_percent_interval_lies_within_the_margin(theirs, ours):
    if min(np.std(theirs), np.std(ours)) < 1e-6:
        return
    found = equivalence_test(theirs, ours, margin=0.1)
    low, high = found["interval_90"]
    assert (found["verdict"] == "equivalent") == (low > -0.1 and high < 0.1)
    assert low <= found["difference"] <= high
    turned = equivalence_test(ours, theirs, margin=0.1)
    assert turned["verdict"] == found["verdict"] and turned["p"] == pytest.approx(found["p"], abs=1e-9)


@pytest.mark.parametrize("difference", [0.0, 0.004])
def test_the_power_that_is_planned_is_how_often_made_runs_are_called_equivalent(difference):
    deviations, runs, margin, rng = (0.009, 0.005), 12, 0.01, np.random.default_rng(0)
    means = (0.8, 0.8 + difference)
    trials = [equivalence_test(*map(rng.normal, means, deviations, (runs, runs)), margin) for _ in range(400)]
    found = np.mean([trial["verdict"] == "equivalent" for trial in trials])
    expected = power_of(deviations, runs, margin, difference)
    assert 0.3 < expected < 0.97
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 400) + 0.02)


def test_the_seeds_that_are_said_to_be_needed_are_the_fewest_that_give_the_power():
    runs = seeds_needed((0.01, 0.01), margin=0.015)
    assert power_of((0.01, 0.01), runs, 0.015) >= 0.8 > power_of((0.01, 0.01), runs - 1, 0.015)
    assert seeds_needed((0.02, 0.02), 0.015) > runs > seeds_needed((0.005, 0.005), 0.015)
    assert power_of((0.0, 0.0), 5, 0.01, 0.005) == 1 and power_of((0.0, 0.0), 5, 0.01, 0.02) == 0


def test_mcnemar_counts_the_images_that_one_alone_has_right():
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0], bool)
    theirs, ours = labels.copy(), labels.copy()
    ours[:9] = ~ours[:9]
    theirs[11] = ~theirs[11]
    found = mcnemar(theirs, ours, labels)
    assert (found["only_theirs_right"], found["only_ours_right"]) == (9, 1)
    assert found["p"] == pytest.approx(2 * (1 + 10) / 2**10)  # the two tails of ten coins
    assert mcnemar(labels, labels, labels)["p"] == 1.0


MADE_PLAN = {
    "margin": 0.015, "seeds": [0, 1, 2], "sample": 40, "epochs": 2, "lr_decay": 0.5, "split_seed": 0, "threads": 1,
    "protocol": "clean",
}  # fmt: skip


def make_run(work, framework, seed, labels, rng):
    """A folder as a training leaves it; returns its share of right answers."""
    folder = work / f"{framework}-{seed}"
    (folder / "official").mkdir(parents=True)
    prob = np.clip(labels + rng.normal(0, 0.4, 40), 0, 1).astype(np.float32)
    with (folder / "official" / "predictions.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "prob_real"])
        for i in rng.permutation(40):  # each in an order of its own, and with names of its own
            name = f"{('FAKE', 'REAL')[labels[i]]}/{i:02}.jpg"
            row = [f"/a/test/{name}", labels[i]] if framework == "tensorflow" else [f"test/{name}", name[:4]]
            writer.writerow([*row, f"{prob[i]:.9g}"])
    if framework == "tensorflow":
        (folder / "history.json").write_text(json.dumps({"val_loss": [0.7, 0.6], "val_accuracy": [0.5, 0.6]}))
    else:
        (folder / "history.csv").write_text("val_loss,val_accuracy\n0.7,0.5\n0.6,0.6\n")
    (folder / "done.json").write_text(json.dumps({"seconds": 1.0, "date": "2026-11-24", "where": "one; python 3"}))
    return np.mean((prob > 0.5) == labels)


def test_what_is_collected_is_read_back_and_judged_when_all_of_the_plan_is_there(tmp_path):
    rng, labels = np.random.default_rng(1), np.arange(40) % 2
    out = tmp_path / "out"
    out.mkdir()
    (out / PLAN).write_text(json.dumps(MADE_PLAN))
    right = {}
    for place, seeds in (("first", (0, 1)), ("later, elsewhere", (2,))):
        for framework in FRAMEWORKS:
            for seed in seeds:
                right[f"{framework}-{seed}"] = make_run(tmp_path / place, framework, seed, labels, rng)
        equivalence.collect(tmp_path / place, out)
        missing = missing_runs(out)
        assert missing == [] if 2 in seeds else missing == [(framework, 2) for framework in FRAMEWORKS]
        if missing:
            page = render(out)
            assert "**Under way: 2 of 3 trainings of TensorFlow" in page and "equivalent" not in page.split("##")[-1]
    rows, decisions, read = read_runs(out)
    assert read.sum() == 20 and len(rows) == 6
    for row in rows:
        name = f"{row['framework']}-{row['seed']}"
        assert row["accuracy"] == pytest.approx(right[name])
        assert np.mean(decisions[name] == read) == pytest.approx(right[name])
    judged = verdict(out)
    assert judged["images"] == 40 and len(judged["mcnemar"]) == 3
    assert judged["accuracy"]["verdict"] in ("equivalent", "inconclusive", "different")
    assert [pair["pairs"] for pair in judged["pairs"].values()] == [3, 3, 9]
    page = render(out)
    assert f"accuracy: **{judged['accuracy']['verdict']}**" in page and "| tensorflow | 2 |" in page


def test_a_probability_is_kept_on_the_side_of_one_half_that_it_was_on(tmp_path):
    labels, rng = np.arange(40) % 2, np.random.default_rng(2)
    make_run(tmp_path / "work", "tensorflow", 0, labels, rng)
    half = np.float32(0.5)
    given = [half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0)), 0.0, 1.0]
    lines = [f"a/FAKE/{i:02}.jpg,FAKE,{value:.9g}" for i, value in enumerate(given)]
    path = tmp_path / "work" / "tensorflow-0" / "official" / "predictions.csv"
    path.write_text("\n".join(["path,label,prob_real", *lines]) + "\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PLAN).write_text(json.dumps(MADE_PLAN))
    with pytest.MonkeyPatch.context() as patch:  # of one class alone there is no area
        patch.setattr(equivalence, "binary_metrics", lambda *_: {"accuracy": 1.0, "auroc": 1.0})
        equivalence.collect(tmp_path / "work", tmp_path / "out")
    values, _ = read_predictions(tmp_path / "out")
    # half itself is not real; the float next to it is nearer to half than to the next of the levels
    assert values["tensorflow-0"].tolist() == [LEVELS // 2, LEVELS // 2 + 1, LEVELS // 2, 0, LEVELS]


def test_the_plan_tells_the_power_by_the_pilots_deviations():
    plan = equivalence.make_plan(list(equivalence.SEEDS), equivalence.MARGIN)
    assert not set(plan["seeds"]) & set(read_plan(PILOT)["seeds"])  # nothing that gave the plan is counted by it
    rows = read_runs(PILOT)[0]
    for measure in MEASURES:
        theirs, ours = ([row[measure] for row in rows if row["framework"] == name] for name in FRAMEWORKS)
        found = plan["power"][measure]
        assert found["deviations"] == pytest.approx([np.std(theirs, ddof=1), np.std(ours, ddof=1)])
        shares = list(found["by_difference"].values())
        assert shares == sorted(shares, reverse=True) and shares[0] > 0.9


def test_a_gpus_system_is_judged_when_its_own_runs_are_there(tmp_path):
    rng, labels = np.random.default_rng(3), np.arange(40) % 2
    both, half = tmp_path / "both", tmp_path / "half"
    plans = {both: MADE_PLAN, half: {**MADE_PLAN, "systems": {"fp16": ["--a", "b"], "float32": []}}}
    for folder, plan in plans.items():
        folder.mkdir()
        (folder / PLAN).write_text(json.dumps(plan))
    assert missing_runs(half) == [(name, seed) for name in ("fp16", "float32") for seed in (0, 1, 2)]
    for seed in (0, 1, 2):
        for framework in FRAMEWORKS:
            make_run(tmp_path / "work", framework, seed, labels, rng)
        make_run(tmp_path / "work", "fp16", seed, labels, rng)
    equivalence.collect(tmp_path / "work", half)
    assert half_verdict(half, both) == {} and precision_verdict(half, both) == {}  # nothing of TensorFlow's yet
    equivalence.collect(tmp_path / "work", both)
    judged = half_verdict(half, both)
    assert list(judged) == ["fp16"] and judged["fp16"]["auroc"]["ours"]["runs"] == 3
    assert precision_verdict(half, both) == {}
    page = render_half(half, both)
    assert "3 of 3 in fp16, 0 of 3 in float32" in page and "| fp16: accuracy |" in page and "float32: acc" not in page
    for seed in (0, 1, 2):
        make_run(tmp_path / "work", "float32", seed, labels, rng)
    equivalence.collect(tmp_path / "work", half)
    assert list(half_verdict(half, both)) == ["fp16", "float32"]
    theirs = [row["accuracy"] for row in read_runs(half)[0] if row["framework"] == "float32"]
    ours = [row["accuracy"] for row in read_runs(half)[0] if row["framework"] == "fp16"]
    found = precision_verdict(half, both)["fp16 against float32, both on the GPU"]["accuracy"]
    assert found == equivalence_test(theirs, ours, MADE_PLAN["margin"])
    assert "| fp16 against float32, both on the GPU: accuracy |" in render_half(half, both)


def test_a_gpus_commands_are_the_cpus_with_its_precision():
    plan = {**MADE_PLAN, "systems": equivalence.SYSTEMS}
    given = (Path("work"), "CIFAKE.zip", Path("split.json"), Path("files"))
    on_cpu = equivalence._commands("lightning", 5, *given, MADE_PLAN)
    for system, precision in (("fp16", "16-mixed"), ("float32", "32-true"), ("bf16", "bf16-mixed")):
        more = ["--trainer.accelerator", "gpu", "--trainer.precision", precision]
        on_gpu = equivalence._commands(system, 5, *given, plan)
        assert on_gpu == [(module, [*arguments, *more]) for module, arguments in on_cpu]


def test_a_gpus_trainings_without_a_gpu_are_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        equivalence.main(["train", "--half", "--data.root", ".", "--work", str(tmp_path / "work")])
    assert ended.value.code == 2 and "--half: torch finds no GPU" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("folder", [FOLDER, HALF], ids=["both frameworks", "on a GPU"])
def test_the_recorded_runs_are_those_of_the_plan_written_before_them(folder):
    """Of docs/parity/equivalence, which `python -m parity_tests.equivalence` writes."""
    plan = read_plan(folder)
    expected = equivalence.make_plan(plan["seeds"], plan["margin"], half=folder == HALF)
    assert {**plan, "written": ""} == {**expected, "written": ""}
    assert (folder / PAGE).read_text() == page_of(folder) and (PILOT / PAGE).read_text() == page_of(PILOT)
    if not (folder / RUNS).is_file():
        assert len(missing_runs(folder)) == len(systems_of(plan)) * len(plan["seeds"])
        return
    rows, _, labels = read_runs(folder)
    values, _ = read_predictions(folder)
    assert {row["date"] >= plan["written"] for row in rows} == {True}
    assert {int(row["seed"]) for row in rows} <= set(plan["seeds"])
    for row in rows:
        found = binary_metrics(values[f"{row['framework']}-{row['seed']}"] / np.float32(LEVELS), labels)
        assert found["auroc"] == pytest.approx(row["auroc"], abs=tolerances.KEPT_PROBABILITY)


def test_a_gpus_runs_were_asked_about_the_same_images_in_the_same_order():
    """The labels are; and what chance alone would not give: answers that agree image by image with the CPU's."""
    (ours, labels), (both, expected) = read_predictions(HALF), read_predictions(FOLDER)
    assert np.array_equal(labels, expected)
    for name, values in ours.items():
        on_cpu = both[f"lightning-{name.split('-')[1]}"]
        assert np.corrcoef(values[labels], on_cpu[labels])[0, 1] > 0.5, name


def test_the_verdict_on_the_recorded_runs(claim):
    assert not missing_runs(FOLDER)  # to look early is no test
    rows, decisions, labels = read_runs(FOLDER)
    figures = verdict(FOLDER)
    for row in rows:
        right = np.mean(decisions[f"{row['framework']}-{row['seed']}"] == labels)
        assert right == pytest.approx(row["accuracy"], abs=1e-9)
        assert right > 0.55, "a system that learned nothing proves nothing"
    for measure in MEASURES:
        found = figures[measure]
        assert min(found["ours"]["runs"], found["theirs"]["runs"]) >= 5
        claim.figure(f"{measure}: ours less TensorFlow's, means over seeds", found["difference"])
        claim.figure(f"{measure}: p of the two one-sided tests, margin {found['margin']}", found["p"])
        claim.note(
            f"{measure}: **{found['verdict']}** at a margin of {found['margin']}; {found['theirs']['runs']} trainings "
            f"of TensorFlow and {found['ours']['runs']} of Lightning. "
            f"[The runs, the tests, McNemar]({FOLDER.name}/README.md)"
        )


def test_the_verdict_on_the_runs_in_half_precision_on_a_gpu(claim):
    assert not missing_runs(HALF)
    for system, tests in half_verdict().items():
        for measure, found in tests.items():
            assert found["ours"]["runs"] == found["theirs"]["runs"] == 20
            what = f"{measure}: Lightning in {system} on a GPU less TensorFlow in float32 on a CPU, means over seeds"
            claim.figure(what, found["difference"])
            claim.note(
                f"{measure}, Lightning in {system} on a GPU against TensorFlow in float32 on a CPU: "
                f"**{found['verdict']}** at a margin of {found['margin']}; {found['theirs']['runs']} trainings each. "
                f"[The runs and the tests]({HALF.relative_to(FOLDER.parent)}/README.md)"
            )
    for system in ("fp16", "bf16"):
        for measure, found in precision_verdict()[f"{system} against float32, both on the GPU"].items():
            what = f"{measure}: Lightning in {system} against float32, both on a GPU: p of the two one-sided tests"
            claim.figure(f"{what}, margin {found['margin']}", found["p"])
