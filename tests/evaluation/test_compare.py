"""Two models compared: McNemar's textbook values, differences of the same resamples, and which images."""

import json

import numpy as np
import pytest
from scipy.stats import chi2

from lightning_cifake.evaluation.compare import FEW, compare, mcnemar
from lightning_cifake.evaluation.figures import drawn_figures, percentile_interval
from lightning_cifake.evaluation.predictions import Predictions

LABELS = np.repeat([0, 1], 600)
NAMES = [f"{n}.png" for n in range(len(LABELS))]


def answers(model: str, seed: int, *, like: Predictions | None = None, apart: float = 1.5) -> Predictions:
    """Right more often than not; or another model's answers with a little noise."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(apart * (2 * LABELS - 1), 1.5) if like is None else like.logits
    noise = 0 if like is None else generator.normal(0, 0.4, len(LABELS))
    return Predictions(model, NAMES, LABELS, np.float32(logits + noise))


def test_mcnemars_test_has_the_textbooks_values():
    # two diagnostic treatments, 121 and 59 discordant pairs: chi-square 21.35, and 20.67 with Edwards's correction
    assert mcnemar(121, 59) == {
        "test": "chi-square",
        "statistic": pytest.approx(61**2 / 180),
        "p_value": pytest.approx(5.45e-6, rel=2e-3),
    }
    # nine of ten pairs one way: 2 (C(10, 0) + C(10, 1)) / 2 ** 10
    assert mcnemar(9, 1) == {"test": "exact", "statistic": None, "p_value": pytest.approx(22 / 1024)}
    assert mcnemar(1, 9) == mcnemar(9, 1)


def test_the_two_forms_of_mcnemars_test_meet_where_one_takes_over():
    assert mcnemar(0, 0)["p_value"] == 1 and mcnemar(13, 12)["p_value"] == 1
    exact, approximate = mcnemar(FEW - 8, 7), mcnemar(FEW - 7, 7)
    assert (exact["test"], approximate["test"]) == ("exact", "chi-square")
    corrected = chi2.sf((FEW - 15 - 1) ** 2 / (FEW - 1), 1)
    assert exact["p_value"] == pytest.approx(corrected, abs=0.005)


def test_every_image_is_counted_once_and_those_that_differ_are_named_the_farthest_apart_first():
    labels = np.array([0, 0, 0, 1, 1, 1])
    one = Predictions("one", list("uvwxyz"), labels, np.float32([-2, -2, 1, 2, -1, 3]))
    other = Predictions("other", list("uvwxyz"), labels, np.float32([-1, 1, 2, 2, 4, 3]))
    told = compare(one, other, draws=20)
    counts = [told[name] for name in ("both_right", "only_a", "only_b", "both_wrong")]
    assert (told["models"], counts, told["agreement"]) == (["one", "other"], [3, 1, 1, 1], pytest.approx(4 / 6))
    assert [(each["name"], each["label"]) for each in told["images"]] == [("y", "REAL"), ("v", "FAKE")]
    assert told["images"][0]["prob_real"] == pytest.approx([0.2689, 0.9820], abs=1e-4)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_each_model_is_asked_with_the_threshold_of_its_own():
    one = Predictions("one", ["x"], np.array([1]), np.float32([1]), threshold=0.9)
    told = compare(one, Predictions("other", ["x"], np.array([1]), np.float32([1])), draws=0)
    assert (told["only_a"], told["only_b"]) == (0, 1)


def test_a_difference_is_resampled_in_pairs_and_so_is_known_better_than_its_parts():
    a = answers("a", 0)
    b = answers("b", 1, like=a)
    accuracy = compare(a, b, draws=400)["differences"]["auroc"]
    low, high = accuracy["interval"]
    assert low < accuracy["value"] < high
    alone, unpaired = (drawn_figures(each, draws=400, seed=seed)["auroc"] for each, seed in ((a, 0), (b, 1)))
    wide = percentile_interval(alone - unpaired)
    assert high - low < (wide[1] - wide[0]) / 2


def test_what_is_drawn_already_gives_the_same_comparison():
    a, b = answers("a", 0), answers("b", 1)
    drawn = (drawn_figures(a, draws=30, seed=2), drawn_figures(b, draws=30, seed=2))
    assert compare(a, b, drawn=drawn) == compare(a, b, draws=30, seed=2)


def test_the_worse_model_is_known_to_be_worse_and_by_the_sign():
    told = compare(answers("good", 0, apart=2.5), answers("bad", 1, apart=0.5), draws=200)
    assert told["differences"]["accuracy"]["interval"][0] > 0
    assert told["differences"]["log_loss"]["interval"][1] < 0
    assert told["mcnemar"]["p_value"] < 1e-6
    assert told["differences"]["recall_fake_at_1"]["value"] > 0
    assert told["differences"]["recall_fake_at_1"]["interval"] is None  # of 600 images of REAL
    assert told["differences"]["recall_fake_at_01"] == {"value": None, "interval": None}


def test_a_model_does_not_differ_from_itself():
    a = answers("a", 0)
    told = compare(a, a, draws=20)
    assert (told["agreement"], told["images"], told["mcnemar"]["p_value"]) == (1, [], 1)
    assert told["differences"]["accuracy"] == {"value": 0, "interval": None}


@pytest.mark.parametrize("empty", [np.arange(0), np.arange(3)])
def test_of_no_image_or_one_class_there_is_a_comparison_without_what_is_undefined(empty):
    a = answers("a", 0).take(empty)
    told = compare(a, a, draws=5)
    assert told["both_right"] + told["both_wrong"] == len(empty)
    assert told["differences"]["auroc"] == {"value": None, "interval": None}


def test_answers_about_other_images_are_refused():
    a = answers("a", 0)
    with pytest.raises(ValueError, match="expected answers about the same images, got others of a and of a"):
        compare(a, a.take(np.arange(3)))
