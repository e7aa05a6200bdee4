"""The same folder and seed give the same files, in the same order, with the same labels, cut at the same places."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data import protocols
from lightning_cifake.data.decode import ImageSet, load_images
from lightning_cifake.data.image_names import KERAS_SUFFIXES
from lightning_cifake.data.protocols import make_split, published_batches
from lightning_cifake.data.sources import open_source
from parity_tests import tolerances
from parity_tests.real_images import cifake

RUNG = "1 split"


def lengths_by_tensorflow(tf, batches):
    """(n, 3): the paper's take and skip on datasets of so many batches, each asked for its length; in one graph."""

    def lengths(asked):
        count, train_size, val_size, test_size = tf.unstack(asked)
        data = tf.data.Dataset.range(count)
        train = data.take(train_size)
        val = data.skip(train_size).take(val_size)
        test = data.skip(train_size + val_size).take(test_size)
        return tf.stack([part.cardinality() for part in (train, val, test)])

    asked = np.array([(n, int(n * 0.7), int(n * 0.2), int(n * 0.1) + 1) for n in batches], np.int64)
    return tf.function(lambda rows: tf.map_fn(lengths, rows))(asked).numpy()


def test_split_sizes_are_the_lengths_of_take_and_skip_for_every_number_of_batches(claim, tf):
    every = range(1, 5001)
    theirs = lengths_by_tensorflow(tf, every)
    ours = [published_batches(batches) for batches in every]
    claim.equal("split sizes for every n from 1 to 5,000 batches, three numbers each", np.array(ours), theirs)
    without_one_more = [(train, val, min(int(n * 0.1), n - train - val)) for n, (train, val, _) in enumerate(ours, 1)]
    rounded = [(round(n * 0.7), round(n * 0.2), n - round(n * 0.7) - round(n * 0.2)) for n in every]
    for fault, broken in (("int(n * .1) without the + 1", without_one_more), ("rounding instead of int", rounded)):
        claim.fault(f"split sizes by {fault}: numbers unequal", unequal(broken, theirs), tolerances.EXACT)


def unequal(ours, theirs):
    return np.count_nonzero(np.array(ours) != np.array(theirs))


def test_the_papers_625_batches_are_437_125_and_63(claim, tf):
    claim.equal("the paper's 625 batches: train, validation, test", published_batches(625), (437, 125, 63))
    of_625, of_all = lengths_by_tensorflow(tf, [625, 3750]).tolist()
    claim.equal("the paper's 625 batches by TensorFlow", of_625, [437, 125, 63])
    # 2,625 + 750 + 376 asked for, one more than there are
    claim.equal("all of CIFAKE, 3,750 batches", list(published_batches(3750)), of_all)


def png():
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


def make_folder(root: Path, files):
    for path in files:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png())  # whatever its name: TensorFlow looks at the content
    return root


def keras_files(keras, root, seed=None):
    """(paths relative to root, dataset) as the paper reads a folder; not shuffled without a seed."""
    data = keras.utils.image_dataset_from_directory(
        str(root), image_size=(32, 32), shuffle=seed is not None, seed=seed, verbose=False
    )
    return [str(Path(path).relative_to(root)) for path in data.file_paths], data


def our_files(entries, seed):
    """The order in which the published protocol trains on a source's images: shuffled, not yet batched."""
    black = ImageSet(
        np.zeros((len(entries), 1, 1, 3), np.uint8),
        [entry.path for entry in entries],
        np.array([entry.label for entry in entries], np.uint8),
        *(np.array([""] * len(entries)) for _ in range(3)),
        "",
        [],
        "made",
    )
    order = protocols._published(black, np.arange(len(black)), seed).train  # make_split refuses so few images
    return [black.paths[i] for i in order]


# not the ones that begin with a dot: the test below
LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
AWKWARD = [
    "1000 (5)",
    "0",
    "10",
    "2",
    "a",
    "A",
    "ä",
    "Ä",
    "ﬁ",
    "é",
    "e\u0301",
    "名",
    "a b",
    "a-b",
    "a.b",
    "a'b",
    "%20",
    "~",
]
STEMS = (st.sampled_from(AWKWARD) | st.text(LETTERS, min_size=1, max_size=8)).filter(
    lambda stem: not stem.startswith(".") and len(stem.encode()) < 200
)
ENDINGS = st.sampled_from([".jpg", ".JPG", ".jpeg", ".png", ".bmp", ".gif", ".Png", ".txt", ".webp", ".jpg.txt", ""])
FOLDERS = st.sampled_from(["", "", "", "a/", "a b/", "a/c/", "a-b/", "B/", "2/", "10/", "REAL/", "FAKE/"])
NAMES = st.lists(st.tuples(FOLDERS, STEMS, ENDINGS).map("".join), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES, NAMES, st.integers(0, 2**32 - 1))
def test_any_folder_lists_the_same_files_with_the_same_labels(claim, keras, module_folder, fake, real, seed):
    files = {f"FAKE/{name}" for name in [*fake, "last.jpg"]} | {f"REAL/{name}" for name in [*real, "last.jpg"]}
    files = {file for file in files if not any(other.startswith(f"{file}/") for other in files)}
    root = make_folder(module_folder("folder"), files)
    entries = open_source(root).entries
    known = [entry for entry in entries if entry.path.lower().endswith(KERAS_SUFFIXES)]
    theirs, data = keras_files(keras, root)
    claim.equal("files of made folders with awkward names, in order", [e.path for e in known], theirs)
    labels = np.concatenate([batch.numpy() for _, batch in data])
    claim.equal("labels of these files", np.array([entry.label for entry in known]), labels)
    shuffled, _ = keras_files(keras, root, seed)
    claim.equal("files of these folders after the shuffle, any seed", our_files(known, seed), shuffled)
    beyond = sorted({Path(entry.path).suffix.lower() for entry in entries} - set(KERAS_SUFFIXES) - {".webp"})
    claim.equal("kinds of files beyond TensorFlow's that are taken there, .webp apart", beyond, [])


def test_formats_beyond_tensorflows_and_folders_named_like_parts_are_taken_on_purpose(claim, keras, tmp_path):
    names = ["b.jpg", "a/c.jpg", "test/a.jpg", "z/d.jpg"]
    root = make_folder(tmp_path, [f"{label}/{name}" for label in CLASS_NAMES for name in [*names, "a.webp", "z.TIFF"]])
    theirs, _ = keras_files(keras, root)
    entries = open_source(root).entries
    ours = [entry.path for entry in entries]
    claim.equal("files beyond TensorFlow's in a folder with .webp and .tiff", sorted(set(ours) - set(theirs)), BEYOND)
    known = [path for path in ours if path in theirs]
    held_out_last = sorted(theirs, key=lambda path: (path[:4], "/test/" in path))
    claim.equal("files of this folder, those under test/ after the others of their class", known, held_out_last)
    claim.note(
        "Two more are meant. lightning_cifake takes files that TensorFlow's lister passes over, where Pillow decodes "
        "them (`.webp`, `.tiff`, `.avif`...). And a folder called `train`, `val` or `test` (and the like) names a part "
        "wherever it stands, also inside a class: its files are listed after the others of their class, and `published`"
        " and `clean` leave those of `test` out unless `--data.pool all` is given. In a folder without either, as the "
        "paper's, files and their order are TensorFlow's."
    )


BEYOND = ["FAKE/a.webp", "FAKE/z.TIFF", "REAL/a.webp", "REAL/z.TIFF"]


def test_files_that_begin_with_a_dot_are_left_out_on_purpose(claim, keras, tmp_path):
    """TensorFlow lists what macOS leaves beside each image, and fails when it comes to decode it."""
    root = make_folder(tmp_path, ["FAKE/a.jpg", "FAKE/._a.jpg", "FAKE/.trash/b.jpg", "REAL/a.jpg", ".git/a.jpg"])
    theirs, data = keras_files(keras, root)
    ours = [entry.path for entry in open_source(root).entries]
    claim.equal("files beyond ours in a folder with dot files", sorted(set(theirs) - set(ours)), DOT_FILES)
    claim.equal("folders beside the classes that begin with a dot", data.class_names, list(CLASS_NAMES))
    claim.note(
        "Three differences are meant. TensorFlow lists files whose names begin with a dot, and folders of that kind "
        "inside a class; lightning_cifake leaves both out, for they are what macOS puts beside an image. It follows "
        "links to folders inside a class, TensorFlow does not. And it knows the classes by their names in any case, "
        "where TensorFlow numbers folders by code point: of `REAL` and `fake` the first would be 0."
    )


DOT_FILES = ["FAKE/._a.jpg", "FAKE/.trash/b.jpg"]


@pytest.fixture(scope="module")
def real_folder(cifake_root, module_folder):
    """400 files of CIFAKE's training part, unpacked as the paper's folder: FAKE and REAL."""
    source = cifake(cifake_root)
    training = [entry for entry in source.entries if entry.part != "test"]
    root = module_folder("cifake")
    for number in np.random.default_rng(0).choice(len(training), 400, replace=False):
        entry = training[number]
        target = root / CLASS_NAMES[entry.label] / Path(entry.path).name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read(entry.path))
    return root


def test_a_folder_of_cifake_is_listed_shuffled_and_cut_the_same(claim, keras, real_folder, tmp_path):
    images = load_images(real_folder, cache_dir=tmp_path)
    theirs, data = keras_files(keras, real_folder)
    claim.equal("400 files of CIFAKE, in order", images.paths, theirs)
    labels = np.concatenate([batch.numpy() for _, batch in data])
    claim.equal("labels of 400 files of CIFAKE", images.labels, labels)
    for seed in (0, 1, 123):
        shuffled, data = keras_files(keras, real_folder, seed)
        split = make_split(images, "published", seed=seed, pool="all")
        claim.equal("400 files of CIFAKE after the shuffle, seeds 0, 1, 123", paths(images, split.train), shuffled)
        # 13 batches: 9, 2, and 2 of which the last is not full
        cut = [32 * sum(published_batches(len(data))[:part]) for part in (1, 2, 3)]
        of_val, of_test = shuffled[cut[0] : cut[1]], shuffled[cut[1] : cut[2]]
        claim.equal("validation and test files, seeds 0, 1, 123", paths(images, split.val), of_val)
        claim.equal("validation and test files, seeds 0, 1, 123", paths(images, split.test), of_test)
    generator = np.random.default_rng(0)
    other = paths(images, generator.permutation(len(images)))
    text = "shuffle by numpy's new Generator instead of RandomState: files in another place"
    claim.fault(text, unequal(other, keras_files(keras, real_folder, 0)[0]), tolerances.EXACT)


def paths(images, indices):
    return [images.paths[i] for i in indices]
