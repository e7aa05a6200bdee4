from typing import Any

import numpy as np
import pytest

from lightning_cifake.data.encodings import ENCODING, GIVEN_AWAY, describe_giveaway, encodings_of, giveaways
from lightning_cifake.data.image_file import read_image

LABELS = np.repeat([0, 1], 60)


def made(formats: Any = b"JPEG", modes: Any = b"RGB", widths: Any = 64, heights: Any = 64) -> np.ndarray:
    encodings = np.empty(len(LABELS), ENCODING)
    for name, values in zip(ENCODING.names or (), (formats, modes, widths, heights), strict=True):
        encodings[name] = values
    return encodings


def test_files_that_are_alike_give_nothing_away() -> None:
    assert giveaways(made(), LABELS) == {"format": 0.5, "mode": 0.5, "size": 0.5}


def test_what_separates_the_classes_is_seen() -> None:
    assert giveaways(made(np.where(LABELS, b"JPEG", b"PNG")), LABELS)["format"] == 1
    assert giveaways(made(modes=np.where(LABELS, b"RGB", b"RGBA")), LABELS)["mode"] == 1
    assert giveaways(made(widths=np.where(LABELS, 64, 128)), LABELS)["size"] == 1


def test_a_share_of_a_class_counts_as_a_share() -> None:
    half = np.where(np.arange(120) < 30, b"PNG", b"JPEG")  # half of the FAKE ones
    assert giveaways(made(half), LABELS)["format"] == 0.75


def test_sizes_that_are_all_different_give_nothing_away_by_being_so() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        encodings = made(widths=rng.integers(100, 4000, 120), heights=rng.integers(100, 4000, 120))
        assert giveaways(encodings, LABELS)["size"] < GIVEN_AWAY


@pytest.mark.parametrize("each", [20, 60])
def test_chance_alone_raises_no_alarm(each: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], each)
    alarms = 0
    for _ in range(200):
        encodings = np.zeros(2 * each, ENCODING)
        encodings["width"] = encodings["height"] = rng.choice([256, 512, 640, 768, 1024], 2 * each)
        encodings["format"] = rng.choice([b"PNG", b"JPEG", b"WEBP"], 2 * each)
        alarms += max(giveaways(encodings, labels).values()) >= GIVEN_AWAY
    assert alarms <= 4  # of 200


def test_one_size_against_many_and_large_against_small_are_seen() -> None:
    rng = np.random.default_rng(0)
    varied = np.where(LABELS, rng.integers(100, 4000, 120), 512)
    assert giveaways(made(widths=varied, heights=512), LABELS)["size"] > 0.9
    apart = np.where(LABELS, rng.integers(1000, 4000, 120), rng.integers(100, 900, 120))
    assert giveaways(made(widths=apart), LABELS)["size"] == 1


def test_without_files_or_with_one_class_nothing_is_told() -> None:
    assert max(giveaways(np.empty(0, ENCODING), LABELS).values()) == 0.5
    assert max(giveaways(made()[:60], LABELS[:60]).values()) == 0.5


def test_the_words_say_what_each_class_has_most_of(madedata: Any) -> None:
    encodings = made(np.where(LABELS, b"JPEG", b"PNG"), widths=np.where(LABELS, 64, 128))
    assert describe_giveaway("format", encodings, LABELS) == "FAKE: 60 of 60 PNG, REAL: 60 of 60 JPEG"
    assert describe_giveaway("size", encodings, LABELS) == "FAKE: 60 of 60 128x64, REAL: 60 of 60 64x64"
    read = encodings_of([read_image(madedata.encoded(1, "PNG", "RGBA", size=40))])
    assert read.tolist() == [(b"PNG", b"RGBA", 40, 40)]
