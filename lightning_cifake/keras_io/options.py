"""The command-line options for what a Keras file does not tell; ``convert``, ``export`` and ``verify`` share them."""

import argparse
from collections.abc import Sequence

PIXELS = "--pixels"


def add_keras_options(parser: argparse.ArgumentParser) -> None:
    """``--pixels`` and ``--real_class``."""
    parser.add_argument(
        PIXELS,
        metavar="P",
        help="what a Keras model was fed: 0-1 (default), 0-255, -1-1, or caffe "
        "(keras.applications.resnet50.preprocess_input); scaling inside the model is read from its file and kept. "
        "Images are given as to every other model",
    )
    parser.add_argument(
        "--real_class",
        type=int,
        choices=(0, 1),
        help="which of a Keras model's classes is REAL (default: 1, as Keras sorts the folders FAKE and REAL); with 0 "
        "its last layer is turned round, so that P(REAL) comes out",
    )


def joined(arguments: Sequence[str]) -> list[str]:
    """``--pixels -1-1`` as ``--pixels=-1-1``: argparse takes the value for another option."""
    given = list(arguments)
    if PIXELS in given[:-1]:
        at = given.index(PIXELS)
        given[at : at + 2] = [f"{PIXELS}={given[at + 1]}"]
    return given
