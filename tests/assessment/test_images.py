"""Labelled images: every form that a user has them in, each group and part that is known, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made import write_images

from lightning_cifake.assessment.images import OBJECTS, Asked, LabelledImages, open_images, seen_by
from lightning_cifake.data.protocols import spread
from lightning_cifake.errors import UserError


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def open_(root: str, **asked: object) -> LabelledImages:
        return open_images(Asked(root, **asked), 32, tmp_path / "cache")

    return open_


def refused(opened, root: str, **asked: object) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_of_a_folder_without_parts_is_meant_and_its_own_test_part_where_there_is_one(opened) -> None:
    write_images(Path("flat"), *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(6)))
    images = opened("flat")
    assert len(images) == 12 and images.labels.tolist() == [0] * 6 + [1] * 6 and images.about == "all images"
    assert images.groups == {} and images.copies == 0 and images.unreadable == ()
    parts = ("train", "val", "test")
    write_images(
        Path("cut"), *(f"{part}/{label}/{i}.png" for part in parts for label in ("FAKE", "REAL") for i in "12")
    )
    images = opened("cut")
    assert images.names == ["test/FAKE/1.png", "test/FAKE/2.png", "test/REAL/1.png", "test/REAL/2.png"]
    assert len(opened("cut", part="val")) == 4 and len(opened("cut", part="all")) == 12
    assert opened("cut", protocol="official").names == images.names
    assert [name.split("/")[1] for name in opened("cut", sample=2).names] == ["FAKE", "REAL"]


def test_a_sample_is_one_of_each_stretch_and_shows_what_all_of_them_show() -> None:
    """CIFAKE's test names count through ten objects: every tenth image is of the same one."""
    places, objects = np.arange(20_000), np.arange(20_000) % 10
    sample = spread(places, 2_000)
    assert (sample // 10 == np.arange(2_000)).all() and np.array_equal(sample, spread(places, 2_000))
    counts = np.bincount(objects[sample[:1000]], minlength=10)
    assert counts.min() > 65 and counts.max() < 140  # 100 of each but for chance; evenly spaced, 1,000 of one
    assert np.array_equal(spread(places, 30_000), places) and len(set(spread(places, 19_999).tolist())) == 19_999


def test_images_of_a_list_are_left_out_and_still_tell_what_was_trained_on(opened) -> None:
    write_images(
        Path("cut"),
        *(f"{part}/{label}/{i}.png" for part in ("train", "test") for label in ("FAKE", "REAL") for i in "12"),
    )
    shutil.copy("cut/train/FAKE/1.png", "cut/test/FAKE/1.png")
    Path("list.txt").write_text("# two\ntest/REAL/1.png\ntrain/FAKE/1.png\n")
    images = opened("cut", exclude=Path("list.txt"))
    assert images.names == ["test/FAKE/1.png", "test/FAKE/2.png", "test/REAL/2.png"]
    assert seen_by(None, {}, images).mask.tolist() == [True, False, False]
    assert len(opened("cut", exclude=Path("list.txt"), part="all")) == 6
    Path("list.txt").write_text("\n".join(opened("cut", part="all").names))
    assert "data.exclude leaves no image of cut" in refused(opened, "cut", exclude=Path("list.txt"))


def test_what_cifake_s_images_show_is_a_group_and_a_folder_of_numbers_shows_nothing(opened) -> None:
    names = [f"0{suffix}.jpg" for suffix in ["", *(f" ({n})" for n in range(2, 11))]]
    write_images(Path("cifake"), *(f"test/{label}/{name}" for label in ("FAKE", "REAL") for name in names))
    assert sorted(opened("cifake").groups["object"]) == sorted(OBJECTS * 2)
    write_images(Path("mine"), "FAKE/1.jpg", "FAKE/1 (2).jpg", "REAL/1.jpg")
    assert "object" not in opened("mine").groups


def test_generators_are_read_from_folders_above_and_below_the_classes(opened) -> None:
    write_images(Path("above"), "ddpm/FAKE/1.png", "wgan/FAKE/1.png", "wgan/REAL/2.png", "REAL/3.png")
    images = opened("above")
    found = dict(zip(images.names, images.groups["generator"], strict=True))
    assert found == {
        "ddpm/FAKE/1.png": "ddpm", "wgan/FAKE/1.png": "wgan", "wgan/REAL/2.png": "wgan", "REAL/3.png": "",
    }  # fmt: skip
    write_images(Path("below"), "FAKE/sd/1.png", "FAKE/mj/1.png", "FAKE/2.png", "REAL/flickr/1.png")
    assert opened("below").groups["generator"].tolist() == ["", "mj", "sd", ""]
    write_images(Path("objects"), "FAKE/cats/1.png", "REAL/cats/1.png", "FAKE/dogs/1.png", "REAL/dogs/1.png")
    assert opened("objects").groups == {}


def test_one_class_is_enough_and_labels_that_are_not_ours_are_named_and_mapped(opened) -> None:
    write_images(Path("one"), "FAKE/1.png", "FAKE/2.png")
    assert opened("one").labels.tolist() == [0, 0]
    write_images(Path("other"), "ai/1.png", "photo/1.png", "photo/2.png")
    assert "got photo/ (2 images), ai/ (1 image)" in refused(opened, "other")
    assert opened("other", labels="ai=FAKE,photo=REAL").labels.tolist() == [0, 1, 1]
    assert opened("other", classes="fake=ai,real=photo").labels.tolist() == [0, 1, 1]
    assert refused(opened, "one/FAKE").startswith("one/FAKE holds FAKE alone: expected the folder above it")
    write_images(Path("half"), "REAL/1.png", "generated/2.png")
    assert "generated/ (1 image)" in refused(opened, "half")
    assert opened("half", labels="generated=FAKE").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"labels": "ai"}, "--labels: expected LABEL=FAKE or LABEL=REAL"),
        ({"labels": "real=FAKE"}, "--labels: expected each label in one class, got real in both"),
        ({"labels": "ai=FAKE", "classes": "fake=a,real=b"}, "expected --data.classes or --labels, got both"),
        ({"part": "most"}, "--data.part: expected one of test, val, train, all, got most"),
        ({"sample": 0}, "--sample: expected at least 1, got 0"),
        ({"protocol": "clean", "split_file": Path("split.json")}, "expected --data.protocol or --data.split_file"),
    ],
)
def test_arguments_that_make_no_sense_are_one_line(opened, asked: dict[str, object], expected: str) -> None:
    write_images(Path("flat"), "FAKE/1.png", "REAL/1.png")
    assert expected in refused(opened, "flat", **asked)


def test_a_part_that_a_source_lacks_is_refused_with_those_that_it_has(opened) -> None:
    write_images(Path("cut"), *(f"{part}/{label}/1.png" for part in ("train", "val") for label in ("FAKE", "REAL")))
    assert refused(opened, "cut") == "cut has no test part: expected --data.part all, or one of its own: train, val"


def test_images_that_cannot_be_read_are_listed_of_the_part_and_the_rest_is_measured(opened) -> None:
    write_images(Path("cut"), *(f"{part}/{label}/1.png" for part in ("train", "test") for label in ("FAKE", "REAL")))
    for part in ("train", "test"):
        Path(f"cut/{part}/FAKE/bad.png").write_bytes(b"no image")
    images = opened("cut")
    assert [each.path for each in images.unreadable] == ["test/FAKE/bad.png"] and len(images) == 2
    assert len(opened("cut", part="all").unreadable) == 2
    write_images(Path("half"), "FAKE/1.png")
    Path("half/REAL").mkdir()
    Path("half/REAL/1.png").write_bytes(b"no image")
    images = opened("half")
    assert images.labels.tolist() == [0] and len(images.unreadable) == 1
    Path("half/FAKE/1.png").write_bytes(b"nor this")
    assert "none of the images under FAKE/ in half can be read (2 problems" in refused(opened, "half")


def test_a_csv_gives_paths_labels_and_generators_in_its_own_order(opened) -> None:
    write_images(Path(), "here/b.png", "here/a.png", "c.png")
    rows = ["Label,Path,note,generator", "real,here/b.png,x", "AI,here/a.png,,sd", f"FAKE,{Path('c.png').absolute()}"]
    Path("list.csv").write_text("\ufeff" + "\r\n".join([*rows, "fake,gone.png", ""]), encoding="utf-8")
    images = opened("list.csv")
    assert images.names == ["here/b.png", "here/a.png", str(Path("c.png").absolute())]
    assert images.labels.tolist() == [1, 0, 0] and images.groups["generator"].tolist() == ["", "sd", ""]
    assert [each.path for each in images.unreadable] == ["gone.png"]
    shutil.copy("c.png", "gone.png")
    assert len(opened("list.csv")) == 4  # it is there now
    Path("list.csv").write_text("path,label\nhere/b.png,0\nhere/a.png,1\n")
    said = refused(opened, "list.csv")
    assert "expected the labels FAKE and REAL, got 0 (1), 1 (1)" in said and "--labels 0=FAKE,1=REAL" in said
    assert opened("list.csv", labels="0=REAL,1=FAKE").labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected a first row that names the columns path and label, got nothing"),
        ("a.png,FAKE\n", "got a.png, fake"),
        ("path,label\n", "lists no images"),
        ("path,label\n,FAKE\n", "row 2: expected a path, got nothing"),
        ("path,label\na.png,FAKE\n\na.png,REAL\n", "row 4: expected each image once, got a.png again"),
        ("path,label\na.png,FAKE\n", "none of the images in"),
        (None, "cannot read list.csv: No such file or directory"),
    ],
)
def test_a_csv_that_cannot_be_used_is_one_line(opened, content: str | None, expected: str) -> None:
    if content is not None:
        Path("list.csv").write_text(content)
    assert expected in refused(opened, "list.csv")


def test_a_source_s_own_train_part_tells_which_test_images_have_a_twin_in_it(opened) -> None:
    write_images(
        Path("cut"), *(f"{part}/{label}/{part}.png" for part in ("train", "test") for label in ("FAKE", "REAL"))
    )
    shutil.copy("cut/train/FAKE/train.png", "cut/test/FAKE/again.png")
    images = opened("cut")
    found = seen_by(None, {}, images)
    assert dict(zip(images.names, found.mask, strict=True)) == {
        "test/FAKE/again.png": True, "test/FAKE/test.png": False, "test/REAL/test.png": False,
    }  # fmt: skip
    assert "that it was trained on is supposed" in found.how
    write_images(Path("flat"), "FAKE/1.png", "REAL/1.png")
    assert seen_by(None, {}, opened("flat")).mask is None


def test_an_exported_model_s_training_is_drawn_again_on_its_own_source_alone(opened) -> None:
    write_images(Path("flat"), *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(20)))
    images = opened("flat")
    test = opened("flat", protocol="clean")
    training = {"data_digest": images.source.digest, "protocol": "clean", "split_seed": 0}
    training["split_sizes"] = test.split.sizes()
    assert seen_by(None, training, images).mask.sum() == 28 and not seen_by(None, training, test).mask.any()
    assert seen_by(None, {**training, "split_sizes": {"train": 27, "val": 8, "test": 5}}, images).mask is None
    assert seen_by(None, {**training, "data_digest": "other"}, images).mask is None


def test_a_checkpoint_s_record_finds_its_training_images_in_any_folder(opened) -> None:
    from lightning_cifake.data import trained_on

    write_images(Path("flat"), *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(4)))
    source = opened("flat").source
    record = [trained_on.entry_of_images(source, np.array([0, 5]))]
    write_images(Path("mine"), "FAKE/new.png", "REAL/new.png")
    shutil.copy("flat/FAKE/0.png", "mine/FAKE/taken.png")
    images = opened("mine")
    found = seen_by([*record, trained_on.unknown_entry("imagenet.h5")], {}, images)
    assert [name for name, seen in zip(images.names, found.mask, strict=True) if seen] == ["FAKE/taken.png"]
    assert found.how == "the checkpoint's record of its training; what imagenet.h5 was trained on is not known"
