"""Which class and which part a path stands for."""

import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cifake.data.decode import ImageSet
from lightning_cifake.data.layout import Classes, Layout, arrange, parse_classes, part_of_folder
from lightning_cifake.data.protocols import make_split
from lightning_cifake.data.sources import list_source, open_source
from lightning_cifake.errors import UserError

ROOT = Path("somewhere")


def laid(*paths: str, classes: str | None = None) -> Layout:
    return arrange(ROOT, paths, parse_classes(classes))


def found(*paths: str, classes: str | None = None) -> set[tuple[str, str]]:
    """(class and part, path) of each."""
    entries = laid(*paths, classes=classes).entries
    return {(f"{('FAKE', 'REAL')[entry.label]} {entry.part}".strip(), entry.path) for entry in entries}


def both(pattern: str) -> list[str]:
    return [pattern.replace("CLASS", name) for name in ("REAL", "FAKE")]


def refused(*paths: str, classes: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        laid(*paths, classes=classes)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message
    return message


# how the folders of one image of a class, a part ("" for none) and a folder below may stand
LAYOUTS: dict[str, Callable[[str, str, str], list[str]]] = {
    "train/REAL/cats": lambda label, part, below: [part, label, below],
    "REAL/train/cats": lambda label, part, below: [label, part, below],
    "REAL/cats/train": lambda label, part, below: [label, below, part],
    "data/train/images/REAL/cats": lambda label, part, below: ["data", part, "images", label, below],
    "data/images/REAL/train/cats": lambda label, part, below: ["data", "images", label, part, below],
    "test/train/REAL/cats": lambda label, part, below: ["test", "v1", part, label, below],
}
SPELLINGS = {
    "train": ["train", "Train", "TRAINING", "training_set", "train-data"],
    "val": ["val", "Valid", "validation", "Validation_Set"],
    "test": ["test", "Testing", "tests", "TEST", "test set"],
}
NAMES = st.tuples(
    st.sampled_from(["", "", "a", "a-b", "B", "é"]), st.sampled_from(["1.jpg", "10.jpg", "2.PNG", "x.webp"])
)
FILES = st.lists(st.tuples(st.sampled_from(["REAL", "FAKE"]), st.sampled_from(list(SPELLINGS)), NAMES), max_size=30)


def files_in_parts(drawn: list[Any], extra: int = 40) -> dict[tuple[str, str, str, str], int]:
    """(class, part, folder, name) -> a number, the same in each layout; some of each class in each part."""
    files = [(label, part, below, name) for label, part, (below, name) in drawn]
    for label in ("REAL", "FAKE"):
        files += [(label, part, "", f"{i}.jpg") for part in SPELLINGS for i in range(extra)]
    return {file: number for number, file in enumerate(sorted(set(files)))}


@settings(max_examples=40, deadline=None)
@given(FILES, st.sampled_from(list(LAYOUTS)), st.integers(0, 2**32))
def test_layouts_of_the_same_files_give_the_same_parts_labels_and_splits(drawn: Any, name: str, seed: int) -> None:
    random = Random(seed)
    files = files_in_parts(drawn)

    def of_layout(layout: str, spelled: dict[str, str]) -> tuple[list[Any], ImageSet]:
        paths = {}
        for file in files:
            label, part, below, stem = file
            folders = LAYOUTS[layout](label, spelled[part], below)
            paths["/".join(each for each in [*folders, stem] if each)] = file
        shuffled = random.sample(list(paths), len(paths))
        got = arrange(ROOT, shuffled)
        entries = [(files[paths[got.prefix + entry.path]], entry.label, entry.part) for entry in got.entries]
        n = len(entries)
        images = ImageSet(
            np.zeros((n, 1, 1, 3), np.uint8),
            [entry.path for entry in got.entries],
            np.array([entry.label for entry in got.entries], np.uint8),
            np.array([entry.part for entry in got.entries]),
            np.zeros(n, np.uint8),
            np.arange(n),
            "",
            [],
            "",
        )
        return entries, images

    plain, images = of_layout("train/REAL/cats", {part: part for part in SPELLINGS})
    spelled = {part: random.choice(names) for part, names in SPELLINGS.items()}
    other, others = of_layout(name, spelled)
    assert plain == other
    by_number = {number: file for file, number in files.items()}
    assert all(by_number[number][:2] == (("FAKE", "REAL")[label], part) for number, label, part in plain)
    for protocol in ("clean", "official"):
        one, two = make_split(images, protocol, 3), make_split(others, protocol, 3)  # type: ignore[arg-type]
        for part in ("train", "val", "test"):
            numbers = [[each[0] for each in entries] for entries in (plain, other)]
            assert [numbers[0][i] for i in getattr(one, part)] == [numbers[1][i] for i in getattr(two, part)]


def test_nothing_of_a_test_folder_is_trained_on_wherever_it_stands() -> None:
    paths = [
        path
        for part in ("train", "test")
        for i in range(40)
        for path in both(f"CLASS/photos/{part.title()}ing/{i}.jpg")
    ]
    entries = laid(*paths).entries
    assert {entry.part for entry in entries} == {"train", "test"}
    assert all(("Testing" in entry.path) == (entry.part == "test") for entry in entries)


@pytest.mark.parametrize("part", SPELLINGS)
def test_parts_are_known_by_all_their_usual_names(part: str) -> None:
    assert {part_of_folder(name) for name in SPELLINGS[part]} == {part}
    for name in ("trainer", "tested", "value", "evaluation", "REAL", "", "training images of 2019"):
        assert part_of_folder(name) == ""


def test_of_two_parts_in_a_path_the_one_held_out_further_counts_and_a_note_says_so() -> None:
    paths = [*both("train/CLASS/a.jpg"), *both("train/CLASS/test/b.jpg"), *both("train/CLASS/val/c.jpg")]
    layout = laid(*paths, *both("test/CLASS/train/d.jpg"))
    assert {entry.path[-5:]: entry.part for entry in layout.entries} == {
        "a.jpg"[-5:]: "train",
        "b.jpg": "test",
        "c.jpg": "val",
        "d.jpg": "test",
    }
    (note,) = layout.notes
    assert note.startswith("6 images under two parts") and "test/FAKE/train/ is taken for test" in note


def test_an_archive_that_is_called_like_a_part_is_none() -> None:
    wrapped = found(*both("test/train/CLASS/1.jpg"), *both("test/val/CLASS/1.jpg"))
    assert wrapped == found(*both("train/CLASS/1.jpg"), *both("val/CLASS/1.jpg"))
    assert found(*both("test/CLASS/1.jpg")) == {("FAKE test", "test/FAKE/1.jpg"), ("REAL test", "test/REAL/1.jpg")}


def test_folders_between_a_part_and_a_class_are_no_datasets_of_their_own() -> None:
    layout = laid(*both("x/train/images/CLASS/1.jpg"), *both("x/test/images/CLASS/1.jpg"))
    assert layout.prefix == "x/" and {entry.part for entry in layout.entries} == {"train", "test"}
    message = refused(*both("sd/train/CLASS/1.jpg"), *both("gan/train/CLASS/1.jpg"))
    assert "holds 2 datasets: expected one, got gan/ (2 images), sd/ (2 images); name one of them" in message


def test_images_outside_the_class_folders_are_counted_and_files_of_other_kinds_by_suffix() -> None:
    layout = laid(*both("CLASS/1.jpg"), "unsure/a.jpg", "unsure/b.png", "c.jpg", "REAL/d.HEIC2", "REAL/e.txt", "n.txt")
    assert layout.notes == ["3 images in no class folder, left out: unsure/ (2 images), no folder (1 image)"]
    assert layout.skipped == {".heic2": 1, ".txt": 1}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("0_real", "1_fake"), "fake=1_fake,real=0_real"),
        (("ai", "nature"), "fake=ai,real=nature"),
        (("real", "ai_generated"), "fake=ai_generated,real=real"),
        (("AiArtData", "RealArt"), "fake=AiArtData,real=RealArt"),
        (("FAKE", "photographs"), "fake=FAKE,real=photographs"),
        (("REAL", "stuff"), "fake=stuff,real=REAL"),
        (("one", "two"), "fake=FOLDER,real=FOLDER"),
        (("my ai", "my photos"), "'fake=my ai,real=my photos'"),
        (("a+ai", "real"), "fake=FOLDER,real=FOLDER"),
    ],
)
@pytest.mark.parametrize("pattern", ["CLASS/{}.jpg", "train/CLASS/{}.jpg", "ai-data/x/CLASS/test/{}.jpg"])
def test_other_names_are_refused_with_what_was_found_and_the_flag_to_copy(
    folders: tuple[str, str], expected: str, pattern: str
) -> None:
    paths = [
        pattern.replace("CLASS", name).format(i) for name, n in zip(folders, (3, 2), strict=True) for i in range(n)
    ]
    message = refused(*paths)
    assert all(f"{name}/ ({n} images)" in message for name, n in zip(folders, (3, 2), strict=True))
    assert message.endswith(f"--data.classes {expected}")
    if "FOLDER" not in expected:
        (classes,) = shlex.split(expected)
        assert len(laid(*paths, classes=classes).entries) == 5  # what it says works


def test_the_folders_of_every_generator_are_suggested_together() -> None:
    paths = [
        f"{gan}/{each}/{label}/1.png" for gan in ("progan", "sgan") for each in "ab" for label in ("0_real", "1_fake")
    ]
    assert refused(*paths).endswith("--data.classes fake=1_fake,real=0_real")


def test_named_classes_are_mapped_and_others_are_not() -> None:
    assert found("ai/1.jpg", "nature/1.jpg", classes="fake=ai,real=nature") == {
        ("FAKE", "ai/1.jpg"),
        ("REAL", "nature/1.jpg"),
    }
    several = ["ddpm/1.jpg", "WGAN/1.jpg", "photos/1.jpg", "FAKE/1.jpg"]
    layout = laid(*several, classes="fake=ddpm+wgan,real=Photos")
    assert [entry.path for entry in layout.entries] == ["WGAN/1.jpg", "ddpm/1.jpg", "photos/1.jpg"]
    assert layout.notes == ["1 image in no class folder, left out: FAKE/ (1 image)"]


@pytest.mark.parametrize(
    "text", ["fake=ddpm+wgan,real=photos", "real=photos,fake=ddpm,fake=WGAN", " fake=wgan + ddpm , real=photos/"]
)
def test_forms_that_mean_the_same_are_the_same(text: str) -> None:
    assert str(parse_classes(text)) == "fake=ddpm+wgan,real=photos"
    assert str(parse_classes(str(parse_classes(text)))) == str(parse_classes(text))


def test_without_a_mapping_the_classes_are_fake_and_real() -> None:
    assert parse_classes(None) == parse_classes("") == Classes() == parse_classes("fake=FAKE,real=REAL")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ai,nature", "expected fake=FOLDER,real=FOLDER"),
        ("fake=ai", "folders for both fake and real"),
        ("fake=ai,real=", "expected fake=FOLDER"),
        ("fake=ai,real=ai", "ai in both"),
        ("fake=a/b,real=c", "names of folders"),
        ("fake=a,real=b,other=c", "got fake=a,real=b,other=c"),
        ("fake=\x1b[31m", r"\x1b[31m"),
    ],
)
def test_a_mapping_that_is_none_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_classes(text)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_what_strangers_call_folders_and_files_reaches_no_terminal() -> None:
    evil = "\x1b]0;title\x07\u202e\n"
    for message in (
        refused(f"{evil}/1.jpg", f"b{evil}/1.jpg"),
        refused(*both(f"{evil}/CLASS/1.jpg"), *both(f"a{evil}/CLASS/1.jpg")),
        refused(f"REAL/a.x{evil}"),
    ):
        assert message.isprintable(), message
    layout = laid(*both("train/CLASS/1.jpg"), *both(f"train/CLASS/test/{evil}/1.jpg"), f"{evil}/1.jpg")
    assert len(layout.notes) == 2 and all(note.isprintable() for note in layout.notes)


@pytest.mark.parametrize("system", [0, 3])
def test_a_zip_with_backslashes_is_read_as_windows_meant_it(madedata: Any, tmp_path: Path, system: int) -> None:
    files = madedata.files("kaggle")
    plain = open_source(madedata.folder(tmp_path / "plain", files))
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train\\REAL\\", *files):
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            info.create_system = system
            archive.writestr(info, files.get(name, b""))
    assert b"train\\REAL\\0000.jpg" in path.read_bytes()
    source = open_source(path)
    assert source.entries == plain.entries
    assert all(source.read(entry.path) == plain.read(entry.path) for entry in plain.entries)


def test_a_backslash_in_a_name_of_unix_is_a_letter(madedata: Any, tmp_path: Path) -> None:
    files = {**madedata.files("flat"), "REAL/a\\b.jpg": madedata.encoded(1)}
    source = open_source(madedata.zip(tmp_path / "a.zip", files))
    assert source.entries == open_source(madedata.folder(tmp_path / "b", files)).entries
    assert source.read("REAL/a\\b.jpg") == files["REAL/a\\b.jpg"]


def test_a_folder_is_walked_once_and_opened_from_that(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = madedata.folder(tmp_path / "data", madedata.files("kaggle"))
    listing = list_source(root)
    plain = open_source(root)
    monkeypatch.setattr("lightning_cifake.data.sources.walk", lambda root: pytest.fail("walked again"))
    assert open_source(listing).entries == plain.entries


def test_a_walk_that_takes_long_is_told_of(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = madedata.folder(tmp_path, {f"{label}/{i}.jpg": b"" for label in ("REAL", "FAKE") for i in range(1100)})
    caplog.set_level("INFO", "lightning_cifake")
    list_source(root)
    assert not caplog.messages
    monkeypatch.setattr("lightning_cifake.data.sources._QUIET_SECONDS", -1.0)
    list_source(root)
    assert "1,000 files so far" in caplog.messages[0] and "2,200 files in" in caplog.messages[-1]
    assert len(caplog.messages) == 2


def test_a_path_that_begins_with_a_tilde_is_in_the_home_folder(
    madedata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    madedata.folder(tmp_path / "data", madedata.files("flat"))
    assert len(open_source("~/data").entries) == 6
    assert list_source(Path("~/data")).key == list_source(tmp_path / "data").key
