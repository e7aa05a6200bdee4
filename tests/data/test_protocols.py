import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cifake.data.decode import ImageSet
from lightning_cifake.data.protocols import (
    Split,
    leak_audit,
    load_split,
    make_split,
    published_batches,
    read_split,
    seen_in_training,
    stratified_parts,
    take_sample,
    write_split,
)
from lightning_cifake.errors import UserError

Make = Callable[..., ImageSet]
seeds = st.integers(0, 2**32 - 1)


def checksum(*parts: np.ndarray) -> str:
    return hashlib.sha256(b"|".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:16]


def parts_of(split: Split) -> tuple[np.ndarray, ...]:
    return split.train, split.val, split.test


@st.composite
def sources(draw: st.DrawFn, twins_alike: bool = False, least: int = 60) -> dict[str, list[Any]]:
    """Labels, object classes, groups and parts of a source; with ``twins_alike`` a group has one label and class."""
    count = draw(st.integers(least, least + 240))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    classes = draw(st.integers(1, 10))
    labels = np.arange(count) % 2
    object_classes = rng.integers(0, classes, count)
    groups = np.arange(count)
    for _ in range(draw(st.integers(0, 20))):
        one, other = rng.integers(0, count, 2)
        if not twins_alike or (labels[one], object_classes[one]) == (labels[other], object_classes[other]):
            groups[groups == groups[one]] = groups[other]
    return {"labels": labels.tolist(), "classes": object_classes.tolist(), "groups": groups.tolist()}


def test_the_papers_batches_are_what_take_and_skip_give() -> None:
    """data.take(int(n * .7)), data.skip(train).take(int(n * .2)), data.skip(train + val).take(int(n * .1) + 1)."""
    for n in range(1, 5001):
        data = list(range(n))
        train_size, val_size, test_size = int(len(data) * 0.7), int(len(data) * 0.2), int(len(data) * 0.1) + 1
        train = data[:train_size]
        val = data[train_size:][:val_size]
        test = data[train_size + val_size :][:test_size]
        assert published_batches(n) == (len(train), len(val), len(test))
    assert published_batches(625) == (437, 125, 63)
    assert sum(published_batches(3750)) == 3750


@given(sources(least=400), seeds)
def test_published_trains_on_everything_and_validates_and_tests_on_cuts_that_follow(
    imageset: Make, source: dict[str, Any], seed: int
) -> None:
    images = imageset(**source)
    split = make_split(images, "published", seed)
    assert sorted(split.train) == list(range(len(images)))
    batches = [split.train[at : at + 32] for at in range(0, len(images), 32)]
    train, val, test = published_batches(len(batches))
    assert np.array_equal(split.val, np.concatenate(batches[train : train + val]))
    assert np.array_equal(split.test, np.concatenate(batches[train + val : train + val + test]))


def test_20000_images_make_20000_4000_and_2016(imageset: Make) -> None:
    split = make_split(imageset(np.arange(20_000) % 2), "published", 0)
    assert split.sizes() == {"train": 20_000, "val": 4_000, "test": 2_016}


@given(sources(least=300), seeds)
def test_clean_is_disjoint_and_complete_and_no_group_lies_on_two_sides(
    imageset: Make, source: dict[str, Any], seed: int
) -> None:
    images = imageset(**source)
    split = make_split(images, "clean", seed)
    assert sorted(np.concatenate(parts_of(split))) == list(range(len(images)))
    groups = [set(images.groups[part]) for part in parts_of(split)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert sum(leak_audit(images, split).values()) == 0
    assert all((np.diff(part) > 0).all() for part in parts_of(split))


@given(sources(twins_alike=True), seeds, st.lists(st.integers(1, 10), min_size=2, max_size=4))
def test_each_part_has_its_share_of_every_label_and_object_class(
    imageset: Make, source: dict[str, Any], seed: int, weights: list[int]
) -> None:
    images = imageset(**source)
    fractions = [weight / sum(weights) for weight in weights]
    parts = stratified_parts(images, np.arange(len(images)), fractions, seed)
    for stratum in set(zip(images.labels.tolist(), images.object_classes.tolist(), strict=True)):
        members = (images.labels == stratum[0]) & (images.object_classes == stratum[1])
        largest = max(Counter(images.groups[members].tolist()).values())
        moved = largest / 2 if largest > 1 else 0  # a group that a cut would halve goes to one side
        for number, (part, fraction) in enumerate(zip(parts, fractions, strict=True)):
            cuts = 1 if number in (0, len(parts) - 1) else 2
            error = abs(members[part].sum() - fraction * members.sum())
            assert error <= cuts * (0.5 + moved) + 1e-9


def test_clean_is_70_20_10_of_every_label_and_class_where_the_numbers_allow(imageset: Make) -> None:
    images = imageset(np.arange(2000) % 2, classes=np.arange(2000) // 2 % 10 + 1)
    split = make_split(images, "clean", 5)
    for part, count in zip(parts_of(split), (70, 20, 10), strict=True):
        strata = Counter(zip(images.labels[part].tolist(), images.object_classes[part].tolist(), strict=True))
        assert len(strata) == 20 and set(strata.values()) == {count}


@pytest.mark.parametrize("protocol", ["published", "clean", "official"])
def test_the_same_seed_gives_the_same_split_and_another_seed_another(imageset: Make, protocol: Any) -> None:
    images = imageset(np.arange(1000) % 2, parts=np.repeat(["train", "test"], [800, 200]))
    one, same, other = (make_split(images, protocol, seed, pool="all", sample=600) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(parts_of(one), parts_of(same), strict=True))
    assert not np.array_equal(one.train, other.train) and not np.array_equal(one.val, other.val)


@pytest.mark.parametrize(
    ("protocol", "sample", "expected"),
    [
        ("published", None, "2ae2d1a54209b1b1"),
        ("published", 600, "244bc0a094867218"),
        ("clean", None, "1f9932a93a82755e"),
        ("clean", 600, "fd89fb15e09b6959"),
        ("official", None, "6361e4868f690305"),
        ("official", 600, "588b883f03d852d2"),
    ],
)
def test_the_splits_are_the_ones_they_always_were(
    imageset: Make, protocol: Any, sample: int | None, expected: str
) -> None:
    """Frozen: a change here makes every published figure and saved checkpoint mean another split."""
    number = np.arange(1000)
    parts = np.where(number < 800, "train", "test")
    images = imageset(
        number % 2, classes=number // 2 % 10 + 1, groups=np.where(number % 9, number, number // 27), parts=parts
    )
    assert checksum(*parts_of(make_split(images, protocol, 1234, sample))) == expected


@given(sources(), seeds, st.integers(0, 60))
def test_official_tests_on_the_sources_test_and_carves_validation_from_train_alone(
    imageset: Make, source: dict[str, Any], seed: int, tests: int
) -> None:
    count = len(source["labels"])
    source["parts"] = ["test"] * (4 + tests % (count // 3)) + ["train"] * (count - 4 - tests % (count // 3))
    images = imageset(**source)
    try:
        split = make_split(images, "official", seed, val_fraction=0.25)
    except UserError as error:
        assert "val split" in str(error)  # all of a class's few groups went to train
        return
    assert np.array_equal(split.test, np.flatnonzero(images.parts == "test"))
    assert sorted(np.concatenate([split.train, split.val])) == np.flatnonzero(images.parts == "train").tolist()
    assert not set(images.groups[split.train]) & set(images.groups[split.val])


def test_official_takes_the_sources_own_val_where_there_is_one_and_the_fraction_where_not(imageset: Make) -> None:
    own = imageset(np.arange(100) % 2, parts=["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    split = make_split(own, "official", 3)
    assert [part.tolist() for part in parts_of(split)] == [list(range(60)), list(range(60, 80)), list(range(80, 100))]
    none = imageset(np.arange(100) % 2, parts=["train"] * 80 + ["test"] * 20)
    assert make_split(none, "official", 3, val_fraction=0.3).sizes() == {"train": 56, "val": 24, "test": 20}
    assert make_split(none, "official", 3, sample=40, val_fraction=0.1).sizes() == {"train": 36, "val": 4, "test": 20}
    for fraction in (0, 1, -1, 2.5):
        with pytest.raises(UserError, match=f"val_fraction: expected between 0 and 1, got {fraction}"):
            make_split(none, "official", val_fraction=fraction)


@pytest.mark.parametrize("parts", [[""] * 40, ["train"] * 40, ["test"] * 40, ["val"] * 20 + ["test"] * 20])
def test_official_without_train_and_test_is_a_user_error(imageset: Make, parts: list[str]) -> None:
    with pytest.raises(UserError, match=r"official needs train/ and test/.*--data\.protocol clean"):
        make_split(imageset(np.arange(40) % 2, parts=parts), "official")


@pytest.mark.parametrize("protocol", ["published", "clean"])
def test_the_pool_leaves_out_the_sources_test_unless_asked_for_all(imageset: Make, protocol: Any) -> None:
    images = imageset(np.arange(1000) % 2, parts=["train"] * 500 + ["val"] * 300 + ["test"] * 200)
    used = set(np.concatenate(parts_of(make_split(images, protocol, 0))).tolist())
    assert used == set(range(800))
    assert set(np.concatenate(parts_of(make_split(images, protocol, 0, pool="all"))).tolist()) == set(range(1000))


@given(sources(), seeds, st.integers(1, 30))
def test_a_sample_is_balanced_and_as_even_over_the_object_classes_as_can_be(
    imageset: Make, source: dict[str, Any], seed: int, half: int
) -> None:
    images = imageset(**source)
    chosen = np.flatnonzero(np.arange(len(images)) % 7)  # not all of it
    half = min(half, *np.bincount(images.labels[chosen]))
    taken = take_sample(images, chosen, 2 * half, seed)
    assert np.array_equal(taken, take_sample(images, chosen, 2 * half, seed))
    assert len(set(taken)) == len(taken) == 2 * half and set(taken) <= set(chosen) and (np.diff(taken) > 0).all()
    for label in (0, 1):
        there = Counter(images.object_classes[chosen[images.labels[chosen] == label]].tolist())
        got = Counter(images.object_classes[taken[images.labels[taken] == label]].tolist())
        assert got.total() == half
        unspent = [got[each] for each in there if got[each] < there[each]]  # classes with more to give
        assert not unspent or max(got.values()) - min(unspent) <= 1


def test_a_sample_of_cifakes_shape_has_the_same_number_of_every_class(imageset: Make) -> None:
    images = imageset(np.arange(4000) % 2, classes=np.arange(4000) // 2 % 10 + 1)
    counts = []
    for seed in (1, 2):
        taken = take_sample(images, np.arange(4000), 1004, seed)
        counts.append(Counter(zip(images.labels[taken].tolist(), images.object_classes[taken].tolist(), strict=True)))
        assert len(counts[-1]) == 20 and set(counts[-1].values()) == {50, 51}
    assert not np.array_equal(
        take_sample(images, np.arange(4000), 1000, 1), take_sample(images, np.arange(4000), 1000, 2)
    )


@pytest.mark.parametrize(
    ("sample", "message"), [(7, "even number"), (0, "even number"), (-2, "even number"), (102, "only 50 of FAKE")]
)
def test_a_sample_that_is_odd_or_too_large_is_a_user_error(imageset: Make, sample: int, message: str) -> None:
    images = imageset(np.arange(100) % 2, parts=["train"] * 80 + ["test"] * 20)
    with pytest.raises(UserError, match=message):
        make_split(images, "clean", sample=sample, pool="all")
    if sample > 0:
        with pytest.raises(UserError, match="even number" if sample % 2 else "only 40 of FAKE"):
            make_split(images, "official", sample=sample)


@pytest.mark.parametrize("protocol", ["published", "clean", "official"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_too_few_images_are_a_user_error_that_says_so(imageset: Make, protocol: Any, count: int) -> None:
    images = imageset(np.arange(count) % 2, parts=["train", "test"] * (count // 2))
    with pytest.raises(UserError, match=rf"(give more images than {count}|expected both classes)"):
        make_split(images, protocol, pool="all")


def test_an_unknown_protocol_or_pool_is_a_user_error_not_another_protocol(imageset: Make) -> None:
    images = imageset(np.arange(100) % 2)
    with pytest.raises(UserError, match="protocol: expected one of published, clean, official, got oficial"):
        make_split(images, "oficial")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pool: expected one of train, all, got everything"):
        make_split(images, "clean", pool="everything")  # type: ignore[arg-type]


@given(sources(), seeds, st.integers(0, 3))
def test_the_leak_audit_counts_what_brute_force_counts(
    imageset: Make, source: dict[str, Any], seed: int, overlap: int
) -> None:
    images = imageset(**source)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    third = len(order) // 3
    split = Split("x", 0, order[: third + overlap], order[third : 2 * third + overlap], order[2 * third :])
    train = set(split.train.tolist())
    trained_groups = [images.groups[i] for i in train]
    expected = {}
    for name, part in (("val", split.val.tolist()), ("test", split.test.tolist())):
        expected[f"{name}_images_in_train"] = sum(i in train for i in part)
        twins = sum(i not in train and images.groups[i] in trained_groups for i in part)
        expected[f"{name}_images_with_twin_in_train"] = twins
    assert leak_audit(images, split) == expected
    seen = seen_in_training(images, split, order)
    assert seen.tolist() == [images.groups[i] in trained_groups for i in order]


def test_a_split_comes_back_from_its_file_as_it_was(imageset: Make, tmp_path: Path) -> None:
    images = imageset(np.arange(1000) % 2)
    images.paths[3] = "REAL/odd ü \udcff.png"  # a name that is not UTF-8 on disk
    for protocol in ("published", "clean"):
        split = make_split(images, protocol, 7)
        write_split(tmp_path / "split.json", images, split)
        back = read_split(tmp_path / "split.json", images)
        assert all(np.array_equal(a, b) for a, b in zip(parts_of(split), parts_of(back), strict=True))
        assert (back.protocol, back.seed) == (protocol, 7)
    shuffled = imageset(np.arange(1000) % 2)
    shuffled.paths[:] = images.paths[::-1]
    again = read_split(tmp_path / "split.json", shuffled)
    assert [shuffled.paths[i] for i in again.val] == [images.paths[i] for i in split.val]
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"3", b"{}", b'{"train": [], "val": [], "test": []}', b'{"train": "abc"}']
    + [
        json.dumps({"protocol": "clean", "seed": 0, "train": ["FAKE/0.png"], "val": ["FAKE/2.png"], **more}).encode()
        for more in ({}, {"test": []}, {"test": "FAKE/4.png"}, {"test": [3]}, {"test": [["a"]]}, {"test": None})
    ]
    + [b'{"protocol": "clean", "seed": "x", "train": ["FAKE/0.png"], "val": ["FAKE/0.png"], "test": ["FAKE/0.png"]}'],
)
def test_a_foreign_file_is_a_user_error(imageset: Make, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a split file"):
        read_split(path, imageset(np.arange(100) % 2))


def test_a_missing_file_and_images_that_are_not_there_are_user_errors(imageset: Make, tmp_path: Path) -> None:
    images = imageset(np.arange(100) % 2)
    with pytest.raises(UserError, match="there is no"):
        read_split(tmp_path / "split.json", images)
    write_split(tmp_path / "split.json", images, make_split(images, "clean"))
    with pytest.raises(UserError, match="names 50 images that made does not have, first "):
        read_split(tmp_path / "split.json", imageset([0, 1] * 25))


def test_a_split_that_cannot_be_written_leaves_the_old_one(
    imageset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = imageset(np.arange(100) % 2)
    path = tmp_path / "split.json"
    write_split(path, images, make_split(images, "clean", 1))
    before = path.read_bytes()

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_split(path, images, make_split(images, "clean", 2))
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["split.json"]


def written(path: Path, **changed: Any) -> Path:
    """A split file of somebody else's: the images FAKE/0.png, REAL/1.png and so on."""
    content = {
        "protocol": "mine",
        "seed": 0,
        "data_digest": "",
        "train": ["FAKE/0.png", "REAL/1.png"],
        "val": ["FAKE/2.png", "REAL/3.png"],
        "test": ["FAKE/4.png", "REAL/5.png"],
    }
    path.write_text(json.dumps({**content, **changed}))
    return path


def test_every_flipped_byte_of_a_split_file_is_refused_or_changes_nothing(imageset: Make, tmp_path: Path) -> None:
    images = imageset(np.arange(40) % 2)
    path = tmp_path / "split.json"
    write_split(path, images, make_split(images, "clean", 7))
    whole, right = path.read_bytes(), load_split(path)
    assert right.sealed and right.data_digest == images.digest
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 + at % 255)]) + whole[at + 1 :])
        try:
            found = load_split(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert found._replace(sealed=True) == right
            assert found.sealed or b'"sha256"' not in path.read_bytes(), "only the digest's own key went"


def test_a_split_file_without_a_digest_is_read_and_said_to_be_unchecked(
    imageset: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = imageset(np.arange(6) % 2)
    split = read_split(written(tmp_path / "split.json"), images)
    assert split.sizes() == {"train": 2, "val": 2, "test": 2} and split.protocol == "mine"
    assert len(caplog.messages) == 1 and "carries no digest" in caplog.messages[0]
    caplog.clear()
    write_split(tmp_path / "sealed.json", images, split)
    read_split(tmp_path / "sealed.json", images)
    assert not caplog.messages


def test_a_split_of_other_images_by_the_same_names_is_used_and_that_is_said(
    imageset: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = imageset(np.arange(6) % 2)
    path = tmp_path / "split.json"
    write_split(path, images, read_split(written(tmp_path / "hand.json"), images))
    caplog.clear()
    read_split(path, images)
    assert not caplog.messages
    assert read_split(path, replace(images, digest="of compressed copies")).sizes() == {"train": 2, "val": 2, "test": 2}
    assert len(caplog.messages) == 1 and "was made for other images than those of made" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test": ["FAKE/0.png", "REAL/5.png"]}, r"train and test without .*got 1 in both, first FAKE/0\.png"),
        ({"test": ["FAKE/0.png", "REAL/1.png"]}, r"train and test without .*got 2 in both"),
        ({"val": ["REAL/1.png", "FAKE/2.png"]}, r"train and val without .*got 1 in both, first REAL/1\.png"),
        ({"val": ["FAKE/4.png", "REAL/3.png"]}, r"val and test without .*got 1 in both, first FAKE/4\.png"),
        ({"train": ["FAKE/0.png", "REAL/1.png", "FAKE/0.png"]}, r"each image once in train, got 1 repeated"),
        ({"test": ["FAKE/4.png"] * 200}, r"each image once in test, got 199 repeated, first FAKE/4\.png"),
        ({"seed": 1e400}, "is not a split file"),
        ({"seed": True}, "is not a split file"),
        ({"protocol": None}, "is not a split file"),
        ({"data_digest": 3}, "is not a split file"),
        ({"protocol": "published", "val": ["FAKE/4.png", "REAL/3.png"]}, r"val and test without"),
    ],
)
def test_a_split_that_measures_on_what_it_trained_on_or_twice_is_refused(
    imageset: Make, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "split.json", **changed)
    with pytest.raises(UserError, match=said) as caught:
        read_split(path, imageset(np.arange(6) % 2))
    assert "\n" not in str(caught.value)


def test_the_published_protocol_may_test_on_what_it_trains_on(imageset: Make, tmp_path: Path) -> None:
    every = ["FAKE/0.png", "REAL/1.png", "FAKE/2.png", "REAL/3.png", "FAKE/4.png", "REAL/5.png"]
    path = written(tmp_path / "split.json", protocol="published", train=every)
    assert read_split(path, imageset(np.arange(6) % 2)).sizes() == {"train": 6, "val": 2, "test": 2}


def test_a_name_that_moves_the_terminal_s_cursor_is_shown_escaped(imageset: Make, tmp_path: Path) -> None:
    path = written(tmp_path / "split.json", test=["FAKE/\x1b[31m.png", "REAL/5.png"])
    with pytest.raises(UserError, match=r"FAKE/\\x1b\[31m\.png"):
        read_split(path, imageset(np.arange(6) % 2))
