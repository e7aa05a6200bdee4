"""Images from a folder, the published split with its two leaks, the split without them, the augmentation.

Source: paper sections 10.3 and 10.6. The published code leaks twice:

1. ``train_augmented`` is made from ``data`` and not from ``train``: every validation and test image is trained on.
2. ``data`` shuffles anew, within a buffer of 256 images, each time it is read: ``take`` and ``skip`` cut other images
   each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 32  # the default of image_dataset_from_directory, which the paper takes
WHOLE_BATCH_SIZE = 256  # of a folder measured as a whole, which the paper does not do
SHUFFLE_BUFFER = 8 * BATCH_SIZE  # as image_dataset_from_directory shuffles
IMAGE_SIZE = 32
CLASS_NAMES = ("FAKE", "REAL")  # in the order in which Keras numbers folders


class InputError(Exception):
    """A user's mistake: says what was expected and what it got."""


def reason_of(error: Exception) -> str:
    """Why, as one line; a long one is cut in the middle, because libraries put the reason at the end."""
    line = " ".join(part.strip() for part in str(error).splitlines() if part.strip())
    return (line if len(line) <= 400 else f"{line[:150]} ... {line[-240:]}") or type(error).__name__


@dataclass(frozen=True)
class Splits:
    """Batches of (images (n, 32, 32, 3) float32 in [0, 1], labels (n,)), and the files where they stay the same."""

    train: tf.data.Dataset  # what is trained on: augmented
    cv: tf.data.Dataset
    test: tf.data.Dataset
    sizes: tuple[int, int, int]
    """Batches of (train, cv, test) as the paper prints them."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Of train, cv and test; empty where each reading cuts them anew."""


def split_sizes(batches: int) -> tuple[int, int, int]:
    """(train, cv, test) as the paper asks for them; at some sizes the three sum to one more than there are."""
    train_size = int(batches * 0.7)
    cv_size = int(batches * 0.2)
    test_size = int(batches * 0.1) + 1
    return train_size, cv_size, test_size


def load_data(directory: str, seed: int | None = None, decoder: str = "default") -> tf.data.Dataset:
    """The paper's ``data``: all images of a folder with FAKE/ and REAL/ in it, in batches, scaled to [0, 1].

    Args:
        directory: the folder.
        seed: of the shuffling; drawn where there is none, as in the paper.
        decoder: ``default``, TensorFlow's fast one, as published; or ``accurate``, libjpeg's and Pillow's.

    Raises:
        InputError: no such folder, or not these two classes in it.
    """
    data = _scaled(_read_folder(directory, seed, shuffle=True))
    if decoder == "default":
        return data
    files, labels = _files_and_labels(directory, seed)
    return _scaled(data_from_files(files, labels, decoder, shuffle=True, seed=seed))


def published(directory: str, seed: int | None = None, decoder: str = "default") -> Splits:
    """Train, validation and test as published, both leaks included."""
    data = load_data(directory, seed, decoder)
    train_size, cv_size, test_size = sizes = split_sizes(len(data))

    # train = data.take(train_size) is printed in the paper, and never trained on
    cv = data.skip(train_size).take(cv_size)
    test = data.skip(train_size + cv_size).take(test_size)
    train_augmented = data.map(augment_data)
    return Splits(train_augmented, cv, test, sizes)


def clean(directory: str, seed: int | None = None, decoder: str = "default") -> Splits:
    """The same cut with both leaks fixed, and nothing else.

    The files are shuffled once, as ``image_dataset_from_directory`` shuffles them, and cut once; the augmentation is
    mapped over ``train``, which alone shuffles anew each epoch.
    """
    files, labels = _files_and_labels(directory, seed)
    batches = -(-len(files) // BATCH_SIZE)
    train_size, cv_size, test_size = sizes = split_sizes(batches)
    ends = [BATCH_SIZE * n for n in (0, train_size, train_size + cv_size, train_size + cv_size + test_size)]
    parts = {}
    kept = {}
    for name, start, end in zip(("train", "cv", "test"), ends, ends[1:], strict=False):
        if not files[start:end]:
            raise InputError(f"{len(files)} images are too few: the {name} part would be empty")
        shuffled = name == "train"
        parts[name] = _scaled(data_from_files(files[start:end], labels[start:end], decoder, shuffled, seed))
        kept[name] = files[start:end]
    return Splits(parts["train"].map(augment_data), parts["cv"], parts["test"], sizes, kept)


def from_split(
    directory: str, split: dict[str, list[str]], seed: int | None = None, decoder: str = "default"
) -> Splits:
    """Train, validation and test from lists of files below ``directory``: the clean way with another's cut.

    ``split`` has ``train``, ``val`` and ``test``, each a list of paths as ``train/FAKE/1.jpg``.
    """
    parts = {}
    kept = {}
    for name, key in (("train", "train"), ("cv", "val"), ("test", "test")):
        files = [str(Path(directory) / path) for path in split[key]]
        missing = [path for path in files if not Path(path).is_file()]
        if missing or not files:
            raise InputError(
                f"the split's {key} names {len(missing)} of {len(files)} files that are not there: {missing[:1]}"
            )
        if name == "train":
            # a list sorted by class would go through the buffer of 256 images nearly as it is, in batches of one class
            np.random.RandomState(seed).shuffle(files)
        labels = [CLASS_NAMES.index(Path(path).parent.name) for path in files]
        parts[name] = _scaled(data_from_files(files, labels, decoder, name == "train", seed))
        kept[name] = files
    sizes = tuple(len(part) for part in parts.values())
    return Splits(parts["train"].map(augment_data), parts["cv"], parts["test"], sizes, kept)


def whole_folder(directory: str, decoder: str = "default") -> tuple[tf.data.Dataset, list[str]]:
    """All images of a folder, unshuffled, and their files."""
    files, labels = _files_and_labels(directory, seed=None, shuffle=False)
    return _scaled(data_from_files(files, labels, decoder, batch_size=WHOLE_BATCH_SIZE)), files


def data_from_files(
    files: Sequence[str],
    labels: Sequence[int],
    decoder: str = "default",
    shuffle: bool = False,
    seed: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> tf.data.Dataset:
    """What ``image_dataset_from_directory`` makes of a folder, of a list of files. Images in [0, 255]."""
    data = tf.data.Dataset.from_tensor_slices((list(files), tf.constant(labels, tf.int32)))
    if shuffle:
        data = data.shuffle(SHUFFLE_BUFFER, seed=seed)
    data = data.map(lambda path, label: (_load_image(path, decoder), label), num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def augment_data(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Paper section 10.6. Mapped after batching: flips are drawn for each image, the rest once for a batch."""
    x = tf.image.random_flip_left_right(x)
    x = tf.image.random_flip_up_down(x)
    x = tf.image.random_brightness(x, max_delta=0.1)
    x = tf.image.random_contrast(x, lower=0.9, upper=1.1)
    return x, y


def _scaled(data: tf.data.Dataset) -> tf.data.Dataset:
    return data.map(lambda x, y: (x / 255, y))


def _read_folder(directory: str, seed: int | None, shuffle: bool) -> tf.data.Dataset:
    if not Path(directory).is_dir():
        raise InputError(f"there is no folder {directory}: expected one with FAKE/ and REAL/ in it")
    try:
        data = keras.utils.image_dataset_from_directory(
            directory, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=BATCH_SIZE, shuffle=shuffle, seed=seed
        )
    except ValueError as error:  # no images at all
        raise InputError(f"{directory}: {reason_of(error)}") from error
    if tuple(data.class_names) != CLASS_NAMES:
        found = ", ".join(data.class_names) or "none"
        raise InputError(f"{directory}: expected the folders FAKE and REAL in it, got {found}")
    return data


def _files_and_labels(directory: str, seed: int | None, shuffle: bool = True) -> tuple[list[str], list[int]]:
    files = list(_read_folder(directory, seed, shuffle).file_paths)
    return files, [CLASS_NAMES.index(Path(path).relative_to(directory).parts[0]) for path in files]


def _load_image(path: tf.Tensor, decoder: str) -> tf.Tensor:
    """A file -> (32, 32, 3) float32 in [0, 255]."""
    content = tf.io.read_file(path)
    if decoder == "accurate":
        image = tf.cond(
            tf.io.is_jpeg(content),
            lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
        )
    else:
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    image = tf.image.resize(image, (IMAGE_SIZE, IMAGE_SIZE), method="bilinear")
    image.set_shape((IMAGE_SIZE, IMAGE_SIZE, 3))
    return image
