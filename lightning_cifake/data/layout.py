"""Which class and which part a path stands for: the folders that say so are found wherever they stand in it.

`train/REAL/1.jpg`, `REAL/train/1.jpg` and `data/Training/photos/real/1.jpg` are the same image of the same part.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.data.image_names import count_by_suffix, image_suffixes, is_image_name, suffix_of
from lightning_cifake.errors import UserError
from lightning_cifake.text import plural, printable

UNKNOWN_CLASS = 0
_CIFAKE_NAME = re.compile(r"\d{1,4}(?: \((\d{1,2})\))?\.jpg")

# a folder's name in small letters, without what separates its words -> the part that it holds
_PARTS = {
    **dict.fromkeys(("train", "trains", "training", "trainset", "trainingset", "traindata", "trainingdata"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validate", "validation", "valset", "validset", "validationset", "valdata"), "val"
    ),
    **dict.fromkeys(("validationdata", "dev", "devset"), "val"),
    **dict.fromkeys(("test", "tests", "testing", "testset", "testingset", "testdata", "testingdata"), "test"),
}
_HELD_OUT_FIRST = ("test", "val", "train")  # of two parts in one path, the one that is kept from training further
_LISTED = 8  # folders that a message names before it counts

# words of folders' names that people use for the classes: only ever to suggest what could be meant
_FAKE_WORDS = {"fake", "fakes", "ai", "aigenerated", "generated", "gen", "synthetic", "synth", "artificial", "deepfake"}
_FAKE_WORDS |= {"deepfakes", "gan", "diffusion", "sd", "dalle", "midjourney", "forged", "manipulated"}
_REAL_WORDS = {"real", "reals", "nature", "natural", "human", "humans", "photo", "photos", "photograph", "photographs"}
_REAL_WORDS |= {"authentic", "original", "originals", "genuine", "camera", "true"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source.

    Attributes:
        path: relative to the source, behind any common prefix, with forward slashes: ``train/FAKE/0 (2).jpg``.
        label: FAKE (0) or REAL (1).
        part: ``train``, ``val`` or ``test`` where the source says so, otherwise ``""``.
        object_class: 1 to 10 as CIFAKE's file names count (1 airplane ... 10 truck), 0 where the name does not say.
    """

    path: str
    label: int
    part: str
    object_class: int


class Layout(NamedTuple):
    """Paths in order.

    Attributes:
        entries: FAKE before REAL, then by part, folder and name, each by code point: the same order, whether parts
            stand above the classes or below them; without parts, that of image_dataset_from_directory.
        prefix: what all paths begin with that stands neither for a class nor for a part; entries leave it out.
        skipped: files in the class folders that are not named like images, counted by suffix.
        notes: remarks on the paths, a line each.
    """

    entries: list[Entry]
    prefix: str
    skipped: Counter[str]
    notes: list[str]


class Classes(NamedTuple):
    """The names of the folders, in small letters, that hold each class."""

    fake: tuple[str, ...] = ("fake",)
    real: tuple[str, ...] = ("real",)

    def label(self, folder: str) -> int | None:
        """FAKE, REAL, or None where a folder's name is of neither; large or small letters are alike."""
        name = folder.casefold()
        return FAKE if name in self.fake else REAL if name in self.real else None

    def __str__(self) -> str:
        """In the form that :func:`parse_classes` reads; of two that mean the same, the same."""
        return ",".join(
            f"{name}={'+'.join(sorted(set(names)))}" for name, names in zip(self._fields, self, strict=True)
        )


def parse_classes(text: str | None) -> Classes:
    """``fake=ai,real=nature`` as on the command line: class=folder, several folders joined by + or given one by one.

    Raises:
        UserError: not of that form, a class without a folder, or a folder for both.
    """
    if not text:
        return Classes()
    named: dict[str, list[str]] = {"fake": [], "real": []}
    for item in text.split(","):
        name, equals, folders = item.partition("=")
        found = [folder.strip().strip("/").casefold() for folder in folders.split("+")]
        if name.strip().lower() not in named or not equals or not all(found) or any("/" in each for each in found):
            raise UserError(
                "data.classes: expected fake=FOLDER,real=FOLDER, with the names of folders (several of one class "
                f"joined by +), got {printable(text)}"
            )
        named[name.strip().lower()] += found
    if not all(named.values()):
        raise UserError(f"data.classes: expected folders for both fake and real, got {printable(text)}")
    if both := set(named["fake"]) & set(named["real"]):
        raise UserError(f"data.classes: expected each folder in one class, got {printable(min(both))} in both")
    return Classes(tuple(named["fake"]), tuple(named["real"]))


class _Folder(NamedTuple):
    """What one folder's path says, before it is held against the others'."""

    names: tuple[str, ...]
    label: int
    class_at: int
    parts: tuple[int, ...]  # places of the names that stand for a part


def part_of_folder(name: str) -> str:
    """``train``, ``val`` or ``test`` where a folder is called so (``Training``, ``test_set``), otherwise ``""``."""
    return _PARTS.get(name.lower().replace("_", "").replace("-", "").replace(" ", ""), "")


class NotOneDataset(UserError):
    """Images of one class only, or of several data sets side by side: nothing to train on, but to measure."""


def arrange(root: Path, paths: Iterable[str], classes: Classes | None = None, one_dataset: bool = True) -> Layout:
    """Sorts paths of files by what their folders say.

    The outermost folder that is named like a class is the class. Folders named like a part may stand above or below it,
    with others between; of two different ones in a path, the image belongs to the one that is held out further.

    Args:
        root: the source, for messages.
        paths: of all files in it that are not hidden, relative, with forward slashes.
        classes: the names of the class folders; FAKE and REAL by default.
        one_dataset: refuses what is not one data set of both classes.

    Raises:
        NotOneDataset: none of one class, or more than one dataset; the message lists the folders found.
        UserError: no images, or none in a folder of either class.
    """
    classes = classes or Classes()
    images: dict[str, list[str]] = {}  # folder -> names
    others: dict[str, Counter[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if is_image_name(name):
            images.setdefault(folder, []).append(name)
        else:
            others.setdefault(folder, Counter())[suffix_of(name)] += 1
    known = {folder: found for folder in images if (found := _read_folder(folder, classes))}
    counts = {folder: len(names) for folder, names in images.items()}
    if one_dataset or not known or len(known) < len(images):  # what lies elsewhere may be the missing class
        _require_both(root, classes, known, counts, others)
    common, wrapped = _common_prefix(list(known.values()))
    if one_dataset:
        _require_one(root, known, counts, common)
    prefix = "".join(f"{name}/" for name in next(iter(known.values())).names[:common])

    keyed = []
    conflicts: list[tuple[str, str, int]] = []
    for folder, found in known.items():
        at = [i for i in found.parts if i >= wrapped]
        parts = {part_of_folder(found.names[i]) for i in at}
        part = next((each for each in _HELD_OUT_FIRST if each in parts), "")
        if len(parts) > 1:
            conflicts.append((folder, part, counts[folder]))
        rest = "/".join(name for i, name in enumerate(found.names) if i > found.class_at and i not in at)
        keyed.append(((found.label, part, found.names[found.class_at], rest, folder), found.label, part))
    entries = [
        Entry(f"{key[-1]}/{name}"[len(prefix) :], label, part, _object_class(name))
        for key, label, part in sorted(keyed)
        for name in sorted(images[key[-1]])
    ]
    skipped = sum((each for folder, each in others.items() if _read_folder(folder, classes)), Counter[str]())
    return Layout(entries, prefix, skipped, _notes_on(counts, known, conflicts))


def _read_folder(folder: str, classes: Classes) -> _Folder | None:
    names = tuple(folder.split("/"))
    for at, name in enumerate(names):
        label = classes.label(name)
        if label is not None:
            parts = tuple(i for i, each in enumerate(names) if i != at and part_of_folder(each))
            return _Folder(names, label, at, parts)
    return None


def _common_prefix(folders: list[_Folder]) -> tuple[int, int]:
    """How many names all begin with that say nothing, and from which on a part's name counts.

    A part's name that all of them begin with says nothing where each has another one behind it: the archive is called
    ``test``.
    """
    common = min(folder.class_at for folder in folders)
    first = folders[0].names
    for folder in folders:
        common = next((i for i in range(common) if folder.names[i] != first[i]), common)
    if all(any(i >= common for i in folder.parts) for folder in folders):
        return common, common
    return min([common, *(i for i in range(common) if part_of_folder(first[i]))]), 0


def _require_both(
    root: Path,
    classes: Classes,
    known: dict[str, _Folder],
    counts: dict[str, int],
    others: dict[str, Counter[str]],
) -> None:
    shown = printable(root)
    if not counts:
        skipped = sum(others.values(), Counter[str]())
        raise UserError(
            f"no images in {shown}: expected files in class folders, as REAL/ and FAKE/, that end in "
            f"{' '.join(image_suffixes())}, got {count_by_suffix(skipped) or 'no files'}"
        )
    labels = {folder.label for folder in known.values()}
    missing = [name for label, name in enumerate(CLASS_NAMES) if label not in labels]
    if not missing:
        return
    names = [" or ".join(printable(each) for each in named) for named in classes]
    if classes == Classes():
        names = list(CLASS_NAMES)
    expected = f"expected images in folders named {names[FAKE]} and {names[REAL]}"
    skipped = sum((each for folder, each in others.items() if _read_folder(folder, classes)), Counter[str]())
    beside = f", and {count_by_suffix(skipped)} that are not read as images" if skipped else ""
    raise NotOneDataset(
        f"{shown} has no image under {' or '.join(names[CLASS_NAMES.index(each)] for each in missing)}: {expected}, "
        f"got {_list_folders(_candidates(counts)[0])}{beside}; name the folders of each class with --data.classes "
        f"{_suggestion(counts)}"
    )


def _require_one(root: Path, known: dict[str, _Folder], counts: dict[str, int], common: int) -> None:
    datasets: Counter[str] = Counter()
    for folder, found in known.items():
        above = [name for i, name in enumerate(found.names[: found.class_at]) if i >= common and i not in found.parts]
        datasets["/".join([*found.names[:common], *above])] += counts[folder]
    if len(datasets) > 1:
        raise NotOneDataset(
            f"{printable(root)} holds {len(datasets)} datasets: expected one, got {_list_folders(datasets)}; name "
            "one of them"
        )


def _notes_on(counts: dict[str, int], known: dict[str, _Folder], conflicts: list[tuple[str, str, int]]) -> list[str]:
    notes = []
    outside = Counter({folder: count for folder, count in counts.items() if folder not in known})
    if outside:
        notes.append(f"{plural(outside.total(), 'image')} in no class folder, left out: {_list_folders(outside)}")
    if conflicts:
        folder, part, _ = min(conflicts)
        images = plural(sum(count for _, _, count in conflicts), "image")
        notes.append(
            f"{images} under two parts, counted as of the one that is "
            f"held out further: {printable(folder)}/ is taken for {part}"
        )
    return notes


def _list_folders(folders: Counter[str]) -> str:
    """``ai/ (60 images), nature/ (58 images)``."""
    most = sorted(folders.items(), key=lambda each: (-each[1], each[0]))[:_LISTED]
    parts = [
        f"{printable(folder) + '/' if folder else 'no folder'} ({count:,} image{'s' * (count != 1)})"
        for folder, count in most
    ]
    rest = len(folders) - len(most)
    return ", ".join([*parts, f"and {rest:,} more folders"] if rest else parts)


def _candidates(counts: dict[str, int]) -> tuple[Counter[str], dict[str, list[str]]]:
    """The folders that could stand for the classes, with how many images each holds, and what is below all images
    together: each folder's names from there on. Parts are left out."""
    split = {folder: [name for name in folder.split("/") if name and not part_of_folder(name)] for folder in counts}
    depth = 0
    while all(len(names) > depth + 1 for names in split.values()) and len({n[depth] for n in split.values()}) == 1:
        depth += 1
    found: Counter[str] = Counter()
    for folder, names in split.items():
        found["/".join(names[: depth + 1])] += counts[folder]
    return found, {folder: names[depth:] for folder, names in split.items()}


def _suggestion(counts: dict[str, int]) -> str:
    """What to give for ``--data.classes``, as far as it can be guessed from the folders' names."""
    guessed: dict[int, set[str]] = {FAKE: set(), REAL: set()}
    _, below = _candidates(counts)
    for names in below.values():
        label, name = next(((label, name) for name in names if (label := _guess_class(name)) is not None), (None, ""))
        if label is not None:
            guessed[label].add(name)
    if not guessed[FAKE] or not guessed[REAL]:
        # of two folders, the one that is not guessed is the other class
        first = {names[0] for names in below.values() if names}
        rest = first - guessed[FAKE] - guessed[REAL]
        if len(first) == 2 and len(rest) == 1:
            guessed[FAKE if guessed[REAL] else REAL] |= rest
    sides = ["+".join(sorted(guessed[label])) or "FOLDER" for label in (FAKE, REAL)]
    if any(letter in name for names in guessed.values() for name in names for letter in "+,="):
        sides = ["FOLDER", "FOLDER"]  # cannot be written: the folder has to be renamed
    return shlex.quote(printable(f"fake={sides[0]},real={sides[1]}"))


def _guess_class(name: str) -> int | None:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    joined = "".join(re.findall(r"[a-z]+", name.lower()))
    fake, real = bool((words | {joined}) & _FAKE_WORDS), bool((words | {joined}) & _REAL_WORDS)
    return None if fake == real else FAKE if fake else REAL


def _object_class(name: str) -> int:
    match = _CIFAKE_NAME.fullmatch(name)
    if not match:
        return UNKNOWN_CLASS
    number = int(match[1] or 1)
    return number if 1 <= number <= 10 else UNKNOWN_CLASS
