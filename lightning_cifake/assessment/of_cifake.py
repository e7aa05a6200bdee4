"""Which labelled images are CIFAKE's own, under whatever names and in whatever folders."""

from typing import NamedTuple

import numpy as np

from lightning_cifake.assessment.images import LabelledImages
from lightning_cifake.assessment.originals import prepared
from lightning_cifake.data.cifake_pixels import SIZE, cifake_pixels
from lightning_cifake.deploy.load import whole


class OfCifake(NamedTuple):
    """Of N images; one with a twin in the other part is of both.

    Attributes:
        train, test: (N,) bool: whether each is of that part.
    """

    train: np.ndarray
    test: np.ndarray


def of_cifake(images: LabelledImages) -> OfCifake:
    """By the pixels of files of 32 x 32, whatever size the model looks at.

    An image that was saved again with a loss, scaled or cropped, is another one.

    Raises:
        UserError: a file that could be read is damaged or gone now.
    """
    found = OfCifake(*np.zeros((2, len(images)), bool))
    sizes = images.source.encodings
    if images.image_size == SIZE:
        places = np.arange(len(images))
        pixels = list(images.pixels())
    elif len(sizes) and images.files is not None:
        of_these = sizes[images.indices]
        places = np.flatnonzero((of_these["width"] == SIZE) & (of_these["height"] == SIZE))
        pixels = list(prepared(images.take(places), whole))
    else:
        return found
    known = cifake_pixels()
    found.train[places], found.test[places] = known.in_train(pixels), known.in_test(pixels)
    return found
