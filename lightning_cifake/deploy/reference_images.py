"""The 64 images that an export answers about in its manifest, and that ``verify`` asks again on any machine.

They are evenly spaced over the built-in demo's, and shipped, so that ``verify`` needs neither scikit-learn nor
matplotlib, whose photographs the demo is cut from: ``china.jpg`` and ``flower.jpg`` by danielbuechele and vultilion
(CC BY 2.0), and ``grace_hopper.jpg`` (public domain). Made by::

    python -m lightning_cifake.deploy.reference_images
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("reference_images.npz")
COUNT = 64


def reference_images() -> np.ndarray:
    """(64, 32, 32, 3) uint8, the first half FAKE."""
    with np.load(FILE) as file:
        return file["images"]


def of_demo() -> np.ndarray:
    """The same, made of the demo itself, which needs the extra ``train``."""
    from lightning_cifake.data.decode import DEMO, load_images

    demo = load_images(DEMO)
    return demo.images[np.linspace(0, len(demo) - 1, COUNT).round().astype(int)]


if __name__ == "__main__":
    np.savez_compressed(FILE, images=of_demo())
