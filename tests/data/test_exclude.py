"""data.exclude: the images of a list are of no part; what is wrong with a list is one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.data.decode import ImageSet
from lightning_cifake.data.exclude import read_exclusion, without
from lightning_cifake.data.protocols import make_split, read_split, write_split
from lightning_cifake.data.sources import Problem
from lightning_cifake.data.trained_on import description_of
from lightning_cifake.errors import UserError

Make = Callable[..., ImageSet]


@pytest.fixture
def images(imageset: Make) -> ImageSet:
    """120 images in train and test, and one that cannot be read."""
    made = imageset([0, 1] * 60, parts=["train"] * 80 + ["test"] * 40)
    return replace(made, problems=[Problem("FAKE/broken.png", "empty file")])


def listed(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "settings",
    [("official", None, "train"), ("clean", None, "all"), ("clean", 40, "train")],
)
def test_excluded_images_are_of_no_part(images: ImageSet, tmp_path: Path, settings: tuple[Any, ...]) -> None:
    protocol, sample, pool = settings
    left_out = [*images.paths[:9], *images.paths[100:105]]
    kept = without(images, read_exclusion(listed(tmp_path, *left_out), images))
    split = make_split(kept, protocol, 0, sample, pool)
    used = {kept.paths[i] for part in (split.train, split.val, split.test) for i in part}
    assert used.isdisjoint(left_out) and len(used) == (sample or len(images) - len(left_out))
    assert kept.images is images.images and kept.digest == images.digest


def test_a_list_has_comments_empty_lines_windows_lines_and_unreadable_images(images: ImageSet, tmp_path: Path) -> None:
    path = listed(tmp_path, "# exact duplicates\r", f"{images.paths[3]}\r", "\r", "FAKE/broken.png", images.paths[3])
    found = read_exclusion(path, images)
    assert found.names == tuple(sorted(["FAKE/broken.png", images.paths[3]]))
    other = read_exclusion(listed(tmp_path, images.paths[3], "FAKE/broken.png"), images)
    assert str(found) == str(other) and str(found).startswith("list.txt (2 images, ")
    assert read_exclusion(listed(tmp_path, images.paths[4]), images).sha256 != found.sha256
    assert read_exclusion(listed(tmp_path, "# nothing was found"), images).names == ()


def test_an_image_whose_name_begins_like_a_comment_can_be_listed(images: ImageSet, tmp_path: Path) -> None:
    named = replace(images, paths=["#1/FAKE/0.png", *images.paths[1:]])
    assert read_exclusion(listed(tmp_path, "#1/FAKE/0.png", "#2"), named).names == ("#1/FAKE/0.png",)


def test_a_missing_and_a_misspelt_name_are_one_line(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"list\.txt names 2 images that made does not have, first FAKE/00\.png"
    ) as said:
        read_exclusion(listed(tmp_path, images.paths[5], "FAKE/00.png", "train/REAL/1.png"), images)
    assert "did you mean FAKE/" in str(said.value) and "\n" not in str(said.value)
    with pytest.raises(UserError, match=r"did you mean REAL/1\.png\?"):
        read_exclusion(listed(tmp_path, "train/REAL/1.png"), images)
    with pytest.raises(UserError, match=r"none\.txt is not there: expected a file with the name"):
        read_exclusion(tmp_path / "none.txt", images)
    with pytest.raises(UserError, match=r"cannot be read"):
        read_exclusion(tmp_path, images)
    (tmp_path / "list.txt").write_text(images.paths[0], encoding="utf-16")
    with pytest.raises(UserError, match=r"another kind of file"):
        read_exclusion(tmp_path / "list.txt", images)


def test_a_split_file_is_taken_without_what_is_excluded(images: ImageSet, tmp_path: Path) -> None:
    split = make_split(images, "official")
    write_split(tmp_path / "split.json", images, split)
    left_out = [images.paths[split.train[0]], images.paths[split.test[2]]]
    again = read_split(tmp_path / "split.json", without(images, read_exclusion(listed(tmp_path, *left_out), images)))
    assert again.train.tolist() == split.train[1:].tolist()
    assert again.test.tolist() == np.delete(split.test, 2).tolist()
    everything = without(images, read_exclusion(listed(tmp_path, *(images.paths[i] for i in split.val)), images))
    with pytest.raises(UserError, match=r"data\.exclude leaves its val part without an image"):
        read_split(tmp_path / "split.json", everything)


def test_a_list_that_leaves_one_class_is_refused(images: ImageSet, tmp_path: Path) -> None:
    real = [path for path in images.paths if path.startswith("REAL")]
    with pytest.raises(UserError, match="expected both classes; give more images than 60"):
        make_split(without(images, read_exclusion(listed(tmp_path, *real), images)), "clean")


def test_a_list_is_in_the_record_and_in_the_facts(madedata: Any, demo_cache: Path, tmp_path: Path) -> None:
    source = madedata.zip(tmp_path / "made.zip", madedata.files("kaggle", 20))
    plain, other = (
        CIFAKEDataModule(str(source), "official", val_fraction=0.5, cache_dir=str(demo_cache)) for _ in range(2)
    )
    other.exclude = str(listed(tmp_path, "train/FAKE/0.jpg", "test/REAL/0000.jpg"))
    for data in (plain, other):
        data.setup()
    before, after = description_of(plain), description_of(other)
    assert before["split"] != after["split"] and before["data_digest"] == after["data_digest"]
    assert before["asked"]["exclude"] is None and after["asked"]["exclude"].startswith("list.txt (2 images, ")
    assert other.facts()["excluded"] == after["asked"]["exclude"] and "excluded" not in plain.facts()
    assert sum(other.facts()["split_sizes"].values()) == 78
    assert str(tmp_path) not in str(after)
