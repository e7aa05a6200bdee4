"""The images that an export answers about in its manifest, and that ``verify`` asks again on any machine.

The hard ones are made of numbers. The 64 reference images are evenly spaced over the built-in demo's, and shipped, so
that ``verify`` needs neither scikit-learn nor matplotlib, whose photographs the demo is cut from: ``china.jpg`` and
``flower.jpg`` by danielbuechele and vultilion (CC BY 2.0), and ``grace_hopper.jpg`` (public domain).
tests/deploy/test_released.py says which they are.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("reference_images.npz")


def reference_images() -> np.ndarray:
    """(64, 32, 32, 3) uint8, the first half FAKE."""
    with np.load(FILE) as file:
        return file["images"]


def edge_case_images() -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8: sizes and contents that no data set has, and that a service is sent all the same."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
        return rng.integers(low, high, (height, width, 3), np.uint8)

    checkers = np.indices((32, 32)).sum(0) % 2 * 255
    ramp = np.linspace(0, 255, 32).round()
    return {
        "one pixel": noise(1, 1),
        "one row": noise(1, 57),
        "one column": noise(211, 1),
        "two pixels": noise(2, 1),
        "one more than trained on": noise(33, 33),
        "one less than trained on": noise(31, 31),
        "tall": noise(900, 11),
        "huge": noise(2048, 3072),
        "black": np.zeros((32, 32, 3), np.uint8),
        "white": np.full((32, 32, 3), 255, np.uint8),
        "grey": np.full((32, 32, 3), 128, np.uint8),
        "grey noise": np.repeat(noise(32, 32)[..., :1], 3, 2),
        "red": np.zeros((32, 32, 3), np.uint8) + np.array([255, 0, 0], np.uint8),
        "checkers": np.repeat(checkers[..., None], 3, 2).astype(np.uint8),
        "ramp": np.broadcast_to(ramp[:, None], (32, 32, 3)).astype(np.uint8),
        "noise": noise(32, 32),
        "black or white noise": (noise(32, 32, 0, 2) * 255).astype(np.uint8),
        "constant, large": np.full((640, 480, 3), 77, np.uint8),
    }
