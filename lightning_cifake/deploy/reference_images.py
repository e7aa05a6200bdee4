"""The 64 images that an export answers about in its manifest, and that ``verify`` asks again on any machine.

They are evenly spaced over the built-in demo's, and shipped, so that ``verify`` needs neither scikit-learn nor
matplotlib, whose photographs the demo is cut from: ``china.jpg`` and ``flower.jpg`` by danielbuechele and vultilion
(CC BY 2.0), and ``grace_hopper.jpg`` (public domain). tests/deploy/test_released.py says which they are.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("reference_images.npz")


def reference_images() -> np.ndarray:
    """(64, 32, 32, 3) uint8, the first half FAKE."""
    with np.load(FILE) as file:
        return file["images"]
