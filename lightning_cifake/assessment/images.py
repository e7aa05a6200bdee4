"""Labelled images to measure models on: CIFAKE by its protocols, any folder or zip with REAL/ and FAKE/, a CSV.

    images = open_images(Asked("photos/"), image_size=32)
    images.pixels(slice(0, 256)), images.labels, images.names, images.groups["generator"], images.unreadable

They are decoded once, by the cache that training has (:mod:`lightning_cifake.data.decode`), to the size of the model
and as ``predict`` prepares them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lightning_cifake.assessment.listed import is_csv, listed_images
from lightning_cifake.classes import CLASS_NAMES, FAKE, REAL
from lightning_cifake.data.cifake_pixels import SIZE, cifake_pixels
from lightning_cifake.data.decode import ImageSet, Origin, is_demo, load_origin, origin_of
from lightning_cifake.data.exclude import EXCLUDED, read_exclusion, without
from lightning_cifake.data.layout import Classes, NotOneDataset, parse_classes, part_of_folder
from lightning_cifake.data.protocols import Protocol, Split, make_split, read_split, spread
from lightning_cifake.data.sources import Problem, Source
from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user
from lightning_cifake.text import printable

Part = Literal["test", "val", "train", "all"]
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What CIFAKE's images show, in the order of its file names' numbers."""
DEMO_SIZE = 32  # the demo's images have one size
MOST_GENERATORS = 100  # sub-folders that stand for one each; of more, as a folder for each video, the outermost counts
LABELS = {"fake": FAKE, "ai": FAKE, "real": REAL}
"""What a label in a CSV may be, in small letters. Not 0 and 1: data sets do not agree on which is which."""


class Asked(NamedTuple):
    """Which images, in the words of the command line.

    Attributes:
        root: a folder, a zip, ``demo``, or a .csv with columns path and label.
        classes: the names of the class folders, ``fake=ai,real=nature``.
        labels: the same the other way round, and of a CSV's labels too: ``ai=FAKE,photo=REAL``.
        protocol: by which a part is cut; the source's own parts where none is named.
        split_file: a run's split.json, which says the parts.
        part: which one; of a source without parts all of it.
        sample: so many of these, as :func:`spread` takes them.
        exclude: a file with names of images to leave out, one a line, as ``audit`` writes it.
    """

    root: str
    classes: str | None = None
    labels: str | None = None
    protocol: Protocol | None = None
    split_file: Path | None = None
    part: Part = "test"
    sample: int | None = None
    exclude: Path | None = None


@dataclass(frozen=True)
class LabelledImages:
    """N images at one size, and what is known of them.

    Attributes:
        source: all images of the source, those of other parts too.
        indices: (N,) int64, which of them are meant, in the source's order.
        split: of the whole source, where a protocol or a split file was named.
        about: which part this is, in words.
        groups: ``object`` and ``generator``, as far as they are known -> (N,) text, "" for none.
        unreadable: images of this part that cannot be decoded; they are not among the N.
        files: the source itself, listed when it is called; None where the images have no files.
    """

    source: ImageSet
    indices: np.ndarray
    split: Split | None
    about: str
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    unreadable: tuple[Problem, ...] = ()
    files: Callable[[], Source] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def names(self) -> list[str]:
        """Paths, relative to the source; a CSV's as they stand in it."""
        return [self.source.paths[at] for at in self.indices]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, FAKE = 0, REAL = 1."""
        return self.source.labels[self.indices].astype(np.int64)

    @property
    def image_size(self) -> int:
        return int(self.source.images.shape[1])

    def pixels(self, at: slice | np.ndarray = slice(None)) -> np.ndarray:
        """(n, S, S, 3) uint8 of some of the N: a slice, or (n,) places."""
        return self.source.images[self.indices[at]]

    @property
    def copies(self) -> int:
        """How many of the N have the pixels of one before them."""
        return len(self) - len(np.unique(self.source.groups[self.indices]))

    def take(self, places: np.ndarray) -> "LabelledImages":
        """Some of the N, (n,) int64 places."""
        groups = {name: values[places] for name, values in self.groups.items()}
        return replace(self, indices=self.indices[places], groups=groups)


def open_images(asked: Asked, image_size: int, cache_dir: Path | str | None = None) -> LabelledImages:
    """Decodes the images to (S, S), or opens them as they were decoded before.

    Raises:
        UserError: no such source, labels that are not ours, no image that can be read, a part that it does not have.
    """
    if asked.part not in get_args(Part):
        raise UserError(f"--data.part: expected one of {', '.join(get_args(Part))}, got {printable(asked.part)}")
    if asked.sample is not None and asked.sample < 1:
        raise UserError(f"--sample: expected at least 1, got {asked.sample}")
    if asked.protocol is not None and asked.split_file is not None:
        raise UserError("expected --data.protocol or --data.split_file, got both")
    mapping = parse_labels(asked.labels)
    image_size = DEMO_SIZE if is_demo(asked.root) else image_size
    if is_csv(asked.root):
        if asked.classes is not None:
            raise UserError("--data.classes is for folders: of a CSV's labels say --labels ai=FAKE,photo=REAL")
        origin, of_path = listed_images(expand_user(asked.root), {**LABELS, **mapping})
        source = load_origin(origin, image_size, cache_dir)
        generators = np.array([of_path[path] for path in source.paths])
    else:
        classes = class_folders(asked.classes, mapping)
        origin, source = _load_folder(asked.root, image_size, cache_dir, classes)
        generators = generators_of(source.paths, source.labels, classes)
    # what is left out may have been trained on: the source itself keeps its parts
    kept = source if asked.exclude is None else without(source, read_exclusion(asked.exclude, source))
    indices, split, about = _chosen(kept, asked)
    indices = spread(indices, asked.sample)
    groups = {"object": objects_of(source)[indices], "generator": generators[indices]}
    return LabelledImages(
        source,
        indices,
        split,
        about,
        {name: values for name, values in groups.items() if (values != "").any()},
        tuple(each for each in source.problems if _is_of_part(each.path, source, asked)),
        origin.open,
    )


def _load_folder(root: str, image_size: int, cache_dir: Path | str | None, classes: Classes) -> tuple[Origin, ImageSet]:
    origin = origin_of(root, classes)
    try:
        return origin, load_origin(origin, image_size, cache_dir)
    except NotOneDataset:  # nothing to train on; to be measured on, one class is enough, and several sets are welcome
        origin = origin_of(root, classes, one_dataset=False)
    try:
        return origin, load_origin(origin, image_size, cache_dir)
    except NotOneDataset as error:
        if (label := classes.label(expand_user(root).resolve().name)) is None:
            raise
        raise UserError(
            f"{printable(root)} holds {CLASS_NAMES[label]} alone: expected the folder above it, where its name counts"
        ) from error


def parse_labels(text: str | None) -> dict[str, int]:
    """``ai=FAKE,photo=REAL`` -> {"ai": 0, "photo": 1}, in small letters.

    Raises:
        UserError: not of that form, or one of ours turned round.
    """
    found: dict[str, int] = {}
    for item in (text or "").split(",") if text else []:
        name, equals, label = (part.strip() for part in item.rpartition("="))
        name, known = name.casefold(), LABELS.get(label.casefold())
        if not equals or not name or known is None or "/" in name:
            raise UserError(f"--labels: expected LABEL=FAKE or LABEL=REAL, several by commas, got {printable(text)}")
        if found.get(name, known) != known or LABELS.get(name, known) != known:
            raise UserError(f"--labels: expected each label in one class, got {printable(name)} in both")
        found[name] = known
    return found


def class_folders(classes: str | None, mapping: Mapping[str, int]) -> Classes:
    """The names of the class folders, from ``--data.classes`` or from ``--labels``, which leaves FAKE and REAL known.

    Raises:
        UserError: both are given.
    """
    if classes is not None and mapping:
        raise UserError("expected --data.classes or --labels, got both")
    if not mapping:
        return parse_classes(classes)
    named = {label: tuple(name for name, its in mapping.items() if its == label) for label in (FAKE, REAL)}
    plain = Classes()
    return Classes((*plain.fake, *named[FAKE]), (*plain.real, *named[REAL]))


def _chosen(source: ImageSet, asked: Asked) -> tuple[np.ndarray, Split | None, str]:
    """The places of the part that is asked for, in the source's order, and what it is."""
    part, everything = asked.part, np.flatnonzero(source.parts != EXCLUDED)
    if not len(everything):
        raise UserError(f"data.exclude leaves no image of {printable(source.name)}")
    if asked.protocol is not None or asked.split_file is not None:
        if asked.split_file is not None:
            split, of = read_split(expand_user(asked.split_file), source), f"by {asked.split_file.name}"
        else:
            assert asked.protocol is not None
            split, of = make_split(source, asked.protocol), f"of protocol {asked.protocol}"
        if part == "all":
            return everything, split, "all images"
        return np.sort(getattr(split, part)), split, f"the {part} images {of}"
    parts = sorted(set(source.parts) - {"", EXCLUDED})
    if part == "all" or not parts:
        return everything, None, "all images"
    indices = np.flatnonzero(source.parts == part)
    if not len(indices):
        raise UserError(
            f"{printable(source.name)} has no {part} part: expected --data.part all, or one of its own: "
            f"{', '.join(parts)}"
        )
    return indices, None, f"its own {part} part"


def _is_of_part(path: str, source: ImageSet, asked: Asked) -> bool:
    """Whether an unreadable image would have been among those that are asked for; where nothing tells, it is."""
    by_folder = asked.part != "all" and asked.protocol in (None, "official") and asked.split_file is None
    if not by_folder or not (source.parts != "").any():
        return True
    return asked.part in {part_of_folder(name) for name in path.split("/")[:-1]}


def objects_of(source: ImageSet) -> np.ndarray:
    """(M,) text: what each image of CIFAKE shows; "" where the names do not count as CIFAKE's do."""
    if set(range(1, 11)) - set(source.object_classes.tolist()):  # 1.jpg alone says nothing
        return np.full(len(source), "")
    return np.array(["", *OBJECTS])[source.object_classes]


def generators_of(paths: list[str], labels: np.ndarray, classes: Classes) -> np.ndarray:
    """(M,) text: by which generator each image was made, as far as folders say it; "" where they do not.

    ``sdxl/FAKE/1.png`` and ``sdxl/REAL/2.png`` are of sdxl, the photographs being the ones to compare with;
    ``FAKE/sdxl/1.png`` is, too, while photographs in ``REAL/flickr`` are for every generator. A folder below FAKE/ of
    whose name there is one below REAL/ too stands for what images show.
    """
    above, below = [], []
    for path in paths:
        folders = path.split("/")[:-1]
        at = next((i for i, name in enumerate(folders) if classes.label(name) is not None), len(folders))
        above.append([name for name in folders[:at] if not part_of_folder(name)])
        below.append([name for name in folders[at + 1 :] if not part_of_folder(name)])
    of_real = {tuple(names) for names, label in zip(below, labels, strict=True) if label == REAL}
    found = [
        [*over, *(under if label == FAKE and tuple(under) not in of_real else [])]
        for over, under, label in zip(above, below, labels, strict=True)
    ]
    if len({tuple(names) for names in found}) > MOST_GENERATORS:
        found = [names[:1] for names in found]
    if len({tuple(names) for names in found}) > MOST_GENERATORS:
        found = [[] for _ in found]
    return np.array(["/".join(names) for names in found])


class Seen(NamedTuple):
    """Which images a model was trained on, themselves or as a twin of the same pixels.

    Attributes:
        mask: (N,) bool; None where nothing tells.
        how: what this is known by, in words.
    """

    mask: np.ndarray | None
    how: str


def seen_by(record: list[dict[str, Any]] | None, training: Mapping[str, Any], images: LabelledImages) -> Seen:
    """What a model was trained on of these images, by the best that is known.

    A checkpoint carries a record of the pixels that it was trained on, which finds them in any source at the model's
    size. An exported model knows the data, protocol and seed of its training: where this is the source, the split is
    drawn again. Of a model that was trained on CIFAKE its images are known by their pixels in any source. Else, where
    the source has a train part of its own, images with a twin in it count as seen.

    Args:
        record: of :mod:`~lightning_cifake.data.trained_on`; None where the model carries none.
        training: what an exported model says of its training, as :class:`LoadedModel` has it.
        images: what is measured on.
    """
    source, indices = images.source, images.indices
    if record is not None:
        from lightning_cifake.data import trained_on  # torch

        if trained_on.covers(record, source):
            unknown = ", ".join(map(printable, trained_on.unknown_sources(record)))
            but = f"; what {unknown} was trained on is not known" if unknown else ""
            mask = trained_on.seen_in_training(record, source, indices)
            return Seen(mask, f"the checkpoint's record of its training{but}")
    if training.get("data_digest") == source.digest and (split := split_of_training(training, source)) is not None:
        return Seen(np.isin(source.groups[indices], source.groups[split.train]), "the training's split, drawn again")
    if training.get("data_digest") == (cifake := cifake_pixels()).data_digest and images.image_size == SIZE:
        pixels = list(images.pixels())
        if training.get("protocol") == "official":
            return Seen(
                cifake.in_train(pixels), "the pixels of CIFAKE's train part; that it was trained on all is supposed"
            )
        both = cifake.in_train(pixels) | cifake.in_test(pixels)
        return Seen(both, "the pixels of all of CIFAKE; that it was trained on all is supposed")
    train = source.parts == "train"
    if train.any():
        twins = np.isin(source.groups[indices], source.groups[train])
        return Seen(twins, "the source's own train part; that it was trained on is supposed")
    return Seen(None, "not known: the model says nothing of what it was trained on that could be found here")


def split_of_training(training: Mapping[str, Any], source: ImageSet) -> Split | None:
    """The split that a training on this very source names; None where it cannot be drawn, or comes out otherwise."""
    try:
        split = make_split(source, training["protocol"], training.get("split_seed", 0), training.get("sample"))
    except (KeyError, TypeError, UserError):
        return None
    return split if split.sizes() == training.get("split_sizes") else None
