"""What happens to images on their way through the world: saved again, blurred, scaled, cropped, edited, sent, captured.

Pillow, scipy and numpy do it here, as programs do to files. It is not the code that training may degrade images with
(:mod:`lightning_cifake.data.degrade`), so that a fault of one is not measured by the other.
"""

import io
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, features
from PIL.Image import Resampling, Transpose
from scipy.ndimage import gaussian_filter

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(H, W, 3) uint8 and what to draw from -> the changed image, the same shape and dtype."""

Strength = float | int | str | None


class Perturbation(NamedTuple):
    """One way to change images, at one strength.

    Attributes:
        name: of the way; several share it, and are points of a curve.
        strength: in the unit of the way: a quality, pixels, a factor.
        change: what does it.
    """

    name: str
    strength: Strength
    change: Change


def nothing(image: np.ndarray, _: Any = None) -> np.ndarray:
    """The image as it is."""
    return image


def saved(kind: str, **options: Any) -> Change:
    """Saved by Pillow in a format and read again; JPEG with its default of 4:2:0."""

    def change(image: np.ndarray, _: Any = None) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        return np.asarray(Image.open(file).convert("RGB"))

    return change


def blur(sigma: float) -> Change:
    """scipy's Gaussian filter, sigma in pixels, borders mirrored."""

    def change(image: np.ndarray, _: Any = None) -> np.ndarray:
        return _as_bytes(gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)))

    return change


def noise(deviation: float) -> Change:
    """Normal noise, of each value by itself; the deviation in levels of 255."""

    def change(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return _as_bytes(image + deviation * generator.standard_normal(image.shape, np.float32))

    return change


def rescale(share: float, filter: Resampling = Resampling.BICUBIC) -> Change:
    """Pillow's resize to a share of the sides and back, both by one filter."""
    return _through_pillow(lambda image: _back(_scaled(image, share, filter), image, filter))


def crop(share: float) -> Change:
    """The middle, a share of each side, scaled to the whole's size (bicubic)."""

    def middle(image: Image.Image) -> Image.Image:
        width, height = (max(1, round(side * share)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return _back(image.crop((left, top, left + width, top + height)), image, Resampling.BICUBIC)

    return _through_pillow(middle)


def brightness(factor: float) -> Change:
    """Every value times a factor."""
    return _through_pillow(lambda image: ImageEnhance.Brightness(image).enhance(factor))


def contrast(factor: float) -> Change:
    """The distance of every value from the image's mean grey times a factor."""
    return _through_pillow(lambda image: ImageEnhance.Contrast(image).enhance(factor))


def saturation(factor: float) -> Change:
    """The distance of every value from its pixel's grey times a factor: 0 is black and white."""
    return _through_pillow(lambda image: ImageEnhance.Color(image).enhance(factor))


def hue(degrees: float) -> Change:
    """Colours turned about grey. Source of the matrix: W3C, Filter Effects 1, feColorMatrix of type hueRotate."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    turned = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    rows = grey + cosine * (np.eye(3) - grey) + sine * turned
    matrix = tuple(np.hstack([rows, np.zeros((3, 1))]).ravel().tolist())
    return _through_pillow(lambda image: image.convert("RGB", matrix))


def flip(which: str) -> Change:
    """``horizontal`` mirrors left to right, ``vertical`` top to bottom, ``both`` is half a turn."""
    how = {
        "horizontal": Transpose.FLIP_LEFT_RIGHT,
        "vertical": Transpose.FLIP_TOP_BOTTOM,
        "both": Transpose.ROTATE_180,
    }[which]
    return _through_pillow(lambda image: image.transpose(how))


def messenger(share: float) -> Change:
    """As a messenger sends it: scaled to a share of the sides (Lanczos), saved as JPEG of quality 70, and shown at the
    size that it had (bilinear)."""
    jpeg = saved("JPEG", quality=70)

    def sent(image: Image.Image) -> Image.Image:
        small = _scaled(image, share, Resampling.LANCZOS)
        return _back(Image.fromarray(jpeg(np.asarray(small), None)), image, Resampling.BILINEAR)  # type: ignore[arg-type]

    return _through_pillow(sent)


def screenshot(zoom: float) -> Change:
    """Shown larger (bilinear), captured without loss and without 2 % at each border, and brought back to the size that
    it had (bicubic)."""

    def captured(image: Image.Image) -> Image.Image:
        shown = _scaled(image, zoom, Resampling.BILINEAR)
        across, down = round(0.02 * shown.width), round(0.02 * shown.height)
        cut = shown.crop((across, down, shown.width - across, shown.height - down))
        return _back(cut, image, Resampling.BICUBIC)

    return _through_pillow(captured)


def edited(more: float) -> Change:
    """As a filter of a phone: brightness, contrast and saturation up by a share, then saved as JPEG of quality 85."""
    return _one_after_another(brightness(1 + more), contrast(1 + more), saturation(1 + more), saved("JPEG", quality=85))


FAMILIES: dict[str, tuple[Callable[[Any], Change], tuple[Strength, ...]]] = {
    "png": (lambda _: saved("PNG", compress_level=1), (None,)),
    "jpeg": (lambda quality: saved("JPEG", quality=quality), (95, 90, 80, 70, 50, 30)),
    "webp": (lambda quality: saved("WEBP", quality=quality, method=0), (90, 75, 50, 30)),
    "blur": (blur, (0.5, 0.75, 1.0, 1.5, 2.0)),
    "noise": (noise, (2, 4, 8, 16)),
    "rescale": (rescale, (0.9, 0.75, 0.5, 0.25)),
    "crop": (crop, (0.95, 0.9, 0.75, 0.5)),
    "brightness": (brightness, (0.5, 0.75, 0.9, 1.1, 1.25, 1.5)),
    "contrast": (contrast, (0.5, 0.75, 0.9, 1.1, 1.25, 1.5)),
    "saturation": (saturation, (0.0, 0.5, 1.5, 2.0)),
    "hue": (hue, (-30, -10, 10, 30)),
    "flip": (flip, ("horizontal", "vertical", "both")),
    "messenger": (messenger, (1.0, 0.75, 0.5)),
    "screenshot": (screenshot, (1.25, 1.5, 2.0)),
    "edited": (edited, (0.1, 0.2, 0.4)),
}
"""By name, what makes a change of a strength, and the strengths, from mild to strong or from low to high.

``png`` must change nothing: its row shows that the measurement is sound."""


def perturbations() -> list[Perturbation]:
    """All that this machine can do: a Pillow that was built without WebP leaves that out."""
    return list(_each())


def _each() -> Iterator[Perturbation]:
    for name, (make, strengths) in FAMILIES.items():
        if name != "webp" or features.check("webp"):
            yield from (Perturbation(name, strength, make(strength)) for strength in strengths)


def _through_pillow(change: Callable[[Image.Image], Image.Image]) -> Change:
    def changed(image: np.ndarray, _: Any = None) -> np.ndarray:
        return np.asarray(change(Image.fromarray(image)))

    return changed


def _one_after_another(*changes: Change) -> Change:
    def change(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        for each in changes:
            image = each(image, generator)
        return image

    return change


def _scaled(image: Image.Image, share: float, filter: Resampling) -> Image.Image:
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), filter)


def _back(image: Image.Image, original: Image.Image, filter: Resampling) -> Image.Image:
    return image.resize(original.size, filter)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
