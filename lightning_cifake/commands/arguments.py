"""The arguments that several commands share, each defined once."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_cifake.errors import UserError

if TYPE_CHECKING:
    from lightning_cifake.assessment.images import Asked

# in the words of CIFAKEDataModule's docstring, which is fit's help: a test holds the two together
DATA_ROOT = (
    "a folder or a .zip with REAL/ and FAKE/ in it, with or without train, val and test above or below them (CIFAKE "
    "unpacked, as Kaggle lays it out, or the author's zip as downloaded), or demo, the built-in data (a folder of that "
    "name is ./demo)"
)
DATA_CLASSES = (
    "the names of the class folders where they are not REAL and FAKE: fake=ai,real=nature; several of one class joined "
    "by +"
)
MAX_LOSS = 0.3  # points of accuracy; deploy.verification has the same one, and a test holds them together


def positive(text: str) -> int:
    """A whole number from 1 on, for an argument's ``type``.

    Raises:
        argparse.ArgumentTypeError: no whole number, or a smaller one.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def add_data_arguments(group: Any, default: str) -> None:
    """``--data.root`` and ``--data.classes``, spelt and meant as in ``fit``.

    Args:
        group: a parser or a group of its.
        default: what is taken where none is named, in words.
    """
    group.add_argument("--data.root", metavar="ROOT", help=f"{DATA_ROOT} (default: {default})")
    group.add_argument("--data.classes", metavar="fake=A,real=B", help=DATA_CLASSES)


def add_labelled_arguments(group: Any, default: str, *, part: bool = True) -> None:
    """Which labelled images to ask about: ``--data.*`` and ``--labels``, what :class:`images.Asked` is made of.

    Args:
        group: a parser or a group of its.
        default: of ``--data.root``, in words.
        part: whether ``--data.part`` is among them.
    """
    add_data_arguments(group, default)
    group.add_argument(
        "--labels",
        metavar="ai=FAKE,photo=REAL",
        help="which class other labels stand for, of folders or of a CSV; FAKE, AI and REAL are known",
    )
    group.add_argument(
        "--data.protocol",
        type=Literal["clean", "official", "published"],
        help="cuts the parts as fit does with seed 0 (default: the source's own parts)",
    )
    group.add_argument("--data.split_file", type=Path, metavar="FILE", help="takes the parts from a run's split.json")
    if part:
        group.add_argument(
            "--data.part",
            type=Literal["test", "val", "train", "all"],
            default="test",
            help="which part, of a source or a protocol that has parts (default: %(default)s)",
        )
    group.add_argument(
        "--data.exclude", type=Path, metavar="FILE", help="leaves out the images that a file names, as audit writes it"
    )


def asked_for(options: Any) -> "Asked":
    """What :func:`add_labelled_arguments` and ``--sample`` were given."""
    from lightning_cifake.assessment.images import Asked

    data = options.data
    return Asked(
        data.root,
        data.classes,
        options.labels,
        data.protocol,
        data.split_file,
        getattr(data, "part", "test"),
        options.sample,
        data.exclude,
    )


def add_image_arguments(parser: Any) -> None:
    """What ``export`` and ``verify`` are told about the images to compare on."""
    group = parser.add_argument_group("the images to compare on")
    add_data_arguments(group, "those of the run, which config.yaml beside the checkpoint names")
    group.add_argument("--sample", type=int, metavar="N", help="compares on N of the test images (default: all)")
    group.add_argument(
        "--max_loss",
        type=float,
        default=MAX_LOSS,
        metavar="POINTS",
        help="of accuracy that float16 and int8 may cost (default: %(default)s)",
    )


def check_image_arguments(options: Any) -> None:
    """Refuses what no comparison can be made with."""
    if options.sample is not None and options.sample < 2:
        raise UserError(f"--sample: expected at least 2, got {options.sample}")
    if not options.max_loss >= 0:
        raise UserError(f"--max_loss: expected 0 or more, got {options.max_loss}")


def add_keras_arguments(parser: Any, *, head: str = "the head of a Keras file of weights alone") -> None:
    """What a Keras file does not always tell; ``convert``, ``export`` and ``verify`` ask for it."""
    group = parser.add_argument_group("what a Keras file does not tell")
    group.add_argument("--head", metavar="LINE", help=head)
    group.add_argument("--image_size", type=int, metavar="S", help="height and width of the images")
    group.add_argument(
        "--pixels",
        metavar="P",
        help="what a Keras model was fed: 0-1 (default), 0-255, -1-1, or caffe "
        "(keras.applications.resnet50.preprocess_input); scaling inside the model is read from its file and kept. "
        "Images are given as to every other model",
    )
    group.add_argument(
        "--real_class",
        type=Literal[0, 1],
        help="which of a Keras model's classes is REAL (default: 1, as Keras sorts the folders FAKE and REAL); with 0 "
        "its last layer is turned round, so that P(REAL) comes out",
    )
