"""The arithmetic of the equivalence test, and its verdict on the recorded runs (equivalence.py, verdict.py)."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity_tests import equivalence
from parity_tests.verdict import FOLDER, FRAMEWORKS, equivalence_test, mcnemar, read_runs, render, seeds_needed, verdict

RUNG = "9 statistics"


def test_close_runs_are_equivalent_and_far_ones_different_and_wide_ones_neither():
    tight = [0.900, 0.901, 0.899, 0.902, 0.898]
    assert equivalence_test(tight, [x + 0.002 for x in tight])["verdict"] == "equivalent"
    assert equivalence_test(tight, [x + 0.02 for x in tight])["verdict"] == "different"
    assert equivalence_test([0.80, 0.90, 0.85, 0.70, 0.95], [0.82, 0.88, 0.79, 0.91, 0.75])["verdict"] == "inconclusive"


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


def test_the_seeds_that_are_said_to_be_needed_give_the_power_that_is_said():
    deviation, rng = 0.01, np.random.default_rng(0)
    runs = seeds_needed(2 * deviation**2, margin=0.015)
    trials = rng.normal(0.9, deviation, (600, 2, runs))
    found = np.mean([equivalence_test(*trial)["verdict"] == "equivalent" for trial in trials])
    assert 0.74 < found < 0.88
    assert seeds_needed(8 * deviation**2) > runs > seeds_needed(deviation**2 / 2)


def test_mcnemar_counts_the_images_that_one_alone_has_right():
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0], bool)
    theirs, ours = labels.copy(), labels.copy()
    ours[:9] = ~ours[:9]
    theirs[11] = ~theirs[11]
    found = mcnemar(theirs, ours, labels)
    assert (found["only_theirs_right"], found["only_ours_right"]) == (9, 1)
    assert found["p"] == pytest.approx(2 * (1 + 10) / 2**10)  # the two tails of ten coins
    assert mcnemar(labels, labels, labels)["p"] == 1.0


def test_what_is_collected_is_read_back_and_judged(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    right = {}
    for framework in FRAMEWORKS:
        for seed in range(3):
            folder = tmp_path / "work" / f"{framework}-{seed}"
            (folder / "official").mkdir(parents=True)
            prob = np.clip(labels + rng.normal(0, 0.4, 40), 0, 1).astype(np.float32)
            right[f"{framework}-{seed}"] = np.mean((prob > 0.5) == labels)
            with (folder / "official" / "predictions.csv").open("w") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label", "prob_real"])
                for i in rng.permutation(40):  # each in an order of its own, and with names of its own
                    name = f"{('FAKE', 'REAL')[labels[i]]}/{i:02}.jpg"
                    row = [f"/a/test/{name}", labels[i]] if framework == "tensorflow" else [f"test/{name}", name[:4]]
                    writer.writerow([*row, f"{prob[i]:.9g}"])
            if framework == "tensorflow":
                history = {"val_loss": [0.7, 0.6], "val_accuracy": [0.5, 0.6]}
                (folder / "history.json").write_text(json.dumps(history))
            else:
                (folder / "history.csv").write_text("val_loss,val_accuracy\n0.7,0.5\n0.6,0.6\n")
            (folder / "done.json").write_text(json.dumps({"seconds": 1.0, "date": "2026-11-24"}))
    plan = {
        "sample": 40,
        "epochs": 2,
        "lr_decay": 0.5,
        "split_seed": 0,
        "threads": 1,
        "processor": "one",
        "versions": {},
    }
    equivalence.collect(tmp_path / "work", plan, tmp_path / "out")
    rows, decisions, read = read_runs(tmp_path / "out")
    assert read.sum() == 20 and len(rows) == 6
    for row in rows:
        name = f"{row['framework']}-{row['seed']}"
        assert row["accuracy"] == pytest.approx(right[name])
        assert np.mean(decisions[name] == read) == pytest.approx(right[name])
    judged = verdict(tmp_path / "out")
    assert judged["images"] == 40 and len(judged["mcnemar"]) == 3
    assert judged["accuracy"]["verdict"] in ("equivalent", "inconclusive", "different")
    assert [pair["pairs"] for pair in judged["pairs"].values()] == [3, 3, 9]
    page = render(tmp_path / "out")
    assert f"accuracy: **{judged['accuracy']['verdict']}**" in page and "| tensorflow | 2 |" in page


def test_the_verdict_on_the_recorded_runs(claim):
    """Of docs/parity/equivalence, which `python -m parity_tests.equivalence train` writes."""
    if not (FOLDER / "runs.csv").is_file():
        pytest.skip("no runs are recorded yet: python -m parity_tests.equivalence train writes docs/parity/equivalence")
    rows, decisions, labels = read_runs()
    figures = verdict()
    assert (FOLDER / "README.md").read_text() == render(), "the page is of other runs"
    for row in rows:
        right = np.mean(decisions[f"{row['framework']}-{row['seed']}"] == labels)
        assert right == pytest.approx(row["accuracy"], abs=1e-9)
        assert right > 0.55, "a system that learned nothing proves nothing"
    for measure in ("accuracy", "auroc"):
        found = figures[measure]
        assert min(found["ours"]["runs"], found["theirs"]["runs"]) >= 5
        claim.figure(f"{measure}: ours less TensorFlow's, means over seeds", found["difference"])
        claim.figure(f"{measure}: p of the two one-sided tests, margin {found['margin']}", found["p"])
        claim.note(
            f"{measure}: **{found['verdict']}** at a margin of {found['margin']}; {found['theirs']['runs']} trainings "
            f"of TensorFlow and {found['ours']['runs']} of Lightning. "
            "[The runs, the tests, McNemar](equivalence/README.md)"
        )
