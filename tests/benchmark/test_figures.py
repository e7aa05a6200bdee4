"""The benchmark's arithmetic, on made timings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.benchmark.figures import (
    SHOWN,
    agreement,
    answer_rates,
    inference,
    max_disagreement,
    pairwise,
    spread,
    training,
)


def turn(seconds, images=320, waiting=0.0):
    return {"steps": 10, "images": images, "seconds": seconds, "waiting": waiting}


def test_a_figure_is_a_median_and_carries_its_lowest_and_highest():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "all": [3.0, 1.0, 2.0]}
    assert spread([4.0, 2.0])["median"] == 3.0
    assert spread([]) is None


def test_ratios_are_taken_round_by_round_so_that_a_slow_minute_hits_both():
    # the machine is twice as slow in the second round; a is always 1.5 times b
    found = pairwise({"a": [300.0, 150.0, 300.0], "b": [200.0, 100.0, 200.0]})
    assert found["a"]["b"] == {"median": 1.5, "low": 1.5, "high": 1.5, "all": [1.5, 1.5, 1.5]}
    assert set(found) == {"a", "b"} and set(found["a"]) == {"b"}


rates = st.lists(st.floats(1.0, 1e4), min_size=1, max_size=9)


@given(rates, rates)
def test_each_ratio_is_the_others_inverse_and_is_over_the_rounds_that_both_had(ours, theirs):
    found = pairwise({"a": ours, "b": theirs, "gone": []})
    assert "gone" not in found and "gone" not in found["a"]
    there, back = found["a"]["b"], found["b"]["a"]
    assert len(there["all"]) == min(len(ours), len(theirs))
    assert there["low"] == pytest.approx(1 / back["high"])


def test_training_is_images_over_seconds_of_each_turn_and_the_share_that_was_waited():
    raw = {
        "first_step": [9.0, 7.0, 8.0],
        "first_epoch": [20.0],
        "turns": [turn(2.0, waiting=0.04), turn(4.0, waiting=0.04)],
        "peak_mib": 5.0,
    }
    found = training(raw)
    assert found["start_to_first_step_s"]["median"] == 8.0
    assert found["images_per_second"]["all"] == [160.0, 80.0]
    assert found["waiting_share"]["all"] == pytest.approx([0.02, 0.01])
    assert found["first_epoch_s"]["median"] == 20.0 and found["peak_mib"] == 5.0


def test_a_framework_that_does_not_tell_what_it_waited_has_no_share():
    assert training({"turns": [turn(2.0, waiting=None)]})["waiting_share"] is None


def test_percentiles_are_over_the_single_images_of_all_rounds():
    raw = {"seconds": {"1": [[0.001] * 50, [0.001] * 49 + [0.1]], "32": [[0.4, 0.1, 0.2], [0.1]], "256": [[1.0]]}}
    found = inference(raw)
    assert found["one_image_ms"]["p50"] == found["one_image_ms"]["p95"] == pytest.approx(1.0)
    assert 1.0 < found["one_image_ms"]["p99"] < 100.0
    assert answer_rates(raw, 32) == pytest.approx([160.0, 320.0])  # of the median repeat of each round
    assert found["images_per_second"]["256"]["median"] == 256.0


def test_an_engine_that_fell_out_has_no_figures():
    assert training({})["images_per_second"] is None
    found = inference({})
    assert found["one_image_ms"] is None and found["images_per_second"]["32"] is None


def test_the_two_that_differ_most_are_named():
    probabilities = {"a": np.array([0.1, 0.9]), "b": np.array([0.1, 0.8]), "c": np.array([0.4, 0.9])}
    first, second, difference = max_disagreement(probabilities)
    assert {first, second} in ({"a", "c"}, {"b", "c"}) and difference == pytest.approx(0.3)
    assert max_disagreement({"alone": np.array([0.5])}) is None


def test_accuracy_and_every_image_that_is_not_decided_alike():
    labels = np.array([0, 0, 1, 1])
    probabilities = {"a": np.array([0.2, 0.6, 0.7, 0.4]), "b": np.array([0.2, 0.4, 0.7, 0.5])}
    found = agreement(probabilities, labels, ["w", "x", "y", "z"])
    assert found["accuracy"] == {"a": 0.5, "b": 0.75}  # 0.5 itself is not REAL
    assert found["disagreeing"] == 1
    assert found["listed"] == [{"path": "x", "label": "FAKE", "prob_real": {"a": 0.6, "b": 0.4}}]


def test_a_long_list_is_counted_whole_and_shown_in_part():
    count = SHOWN + 5
    probabilities = {"a": np.zeros(count), "b": np.ones(count)}
    found = agreement(probabilities, np.zeros(count), [str(at) for at in range(count)])
    assert found["disagreeing"] == count and len(found["listed"]) == SHOWN
