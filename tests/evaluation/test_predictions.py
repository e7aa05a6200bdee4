"""What an evaluation is computed of."""

import numpy as np
import pytest

from lightning_cifake.evaluation.predictions import Predictions


def made() -> Predictions:
    return Predictions(
        "a", ["x", "y", "z"], np.array([0, 1, 1]), np.array([-1.0, 0.0, 3.0], np.float32),
        groups={"generator": np.array(["g", "", ""])}, seen=np.array([False, True, False]),
    )  # fmt: skip


def test_a_probability_of_the_threshold_itself_is_called_fake():
    assert made().called_real.tolist() == [False, False, True]


@pytest.mark.parametrize("kept", [np.array([True, False, True]), np.array([0, 2])])
def test_some_images_are_taken_with_all_that_is_known_of_them(kept):
    some = made().take(kept)
    assert (list(some.names), some.labels.tolist(), some.logits.tolist()) == (["x", "z"], [0, 1], [-1.0, 3.0])
    assert some.groups["generator"].tolist() == ["g", ""]
    assert some.seen is not None and some.seen.tolist() == [False, False]


def test_entries_for_other_images_are_refused():
    with pytest.raises(ValueError, match=r"expected an entry for each image everywhere, got .*'labels': 2"):
        Predictions("a", ["x", "y", "z"], np.array([0, 1]), np.zeros(3))
