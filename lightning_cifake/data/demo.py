"""The built-in demo: photographs against the same photographs re-synthesised the way image generators do it.

REAL images are 32x32 patches of three photographs that scikit-learn and matplotlib ship. Each has a FAKE twin: the
patch is encoded to half its resolution, decoded by an up-sampler, and the detail that the encoding lost is replaced by
made-up detail, so blur does not give it away. Nothing is fetched, and no global random state is read or changed.

Up-sampling by two repeats the low-resolution spectrum around the Nyquist frequency, and a kernel that is short, or
whose overlaps are uneven, does not remove the copies. They show as a checkerboard (Odena, Dumoulin and Olah,
"Deconvolution and Checkerboard Artifacts", Distill 2016) and as a high-frequency spectrum unlike a photograph's
(Durall, Keuper and Keuper, "Watch Your Up-Convolution: CNN Based Generative Deep Neural Networks Are Failing to
Reproduce Spectral Distributions", CVPR 2020). The trace is exaggerated here, so that a network finds it in a minute.
The generator's pixel grid lies at a random offset in each image, so the trace has no fixed sign at any pixel, and a
linear model on raw pixels cannot use it.

The figures reached on this data say whether the program works; they say nothing about CIFAKE.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of

DEMO_VERSION = 1  # raise it when the pixels change: it keys the cache

SIZE = 32  # side of an image, pixels
CELL = 96  # side of a region: room for nine patches at full resolution, and for one at a third of it
MARGIN = 4  # reflected pixels around a patch, so that no up-sampler sees the border of its input
MIN_DETAIL = 3.0  # grey levels; a flatter patch (clear sky) has nothing to lose, so its twin would be the same picture
GAIN = 2.0  # made-up detail against lost detail, root mean square: at 1 a ResNet50 learns nothing in its first minute
COHERENCE = 0.9  # share of the made-up detail's energy that keeps its sign across the image; 1 is a bare checkerboard
RIDGE = 1.0  # per sample, in squared grey levels; keeps the fitted taps small where neighbours are nearly equal
SEED = 20160805

Floats = NDArray[np.float64]
UpSampler = Callable[[Floats], Floats]


@dataclass(frozen=True)
class DemoImages:
    """The demo set: FAKE first, then REAL, each sorted by name, as a folder would be read."""

    images: np.ndarray  # (N, 32, 32, 3) uint8 RGB
    labels: np.ndarray  # (N,) uint8, FAKE = 0, REAL = 1
    regions: np.ndarray  # (N,) int64: the photo cell an image was cut from; images of one region must stay in one split
    names: list[str]  # unique relative paths, e.g. "REAL/china-r03-c05-00.png"; a twin differs in its folder only


def make_demo() -> DemoImages:
    """Make the demo set, the same bits at every call; takes two to three seconds.

    A region is a 96x96 cell of one photograph. Cells do not overlap, and a FAKE image is made from its REAL twin's
    pixels alone (with one kernel of 36 numbers fitted to all), so whoever splits by region has no pixel on two sides.

    Raises:
        UserError: a photograph is missing from the installed scikit-learn or matplotlib.
    """
    patches, regions, names = [], [], []
    first_region = 0
    for photo, pixels in _photos().items():
        for region, (cell_name, cell) in enumerate(_cells(pixels), first_region):
            for k, patch in enumerate(_patches(cell)):
                if _lost_detail(patch) >= MIN_DETAIL:
                    patches.append(patch)
                    regions.append(region)
                    names.append(f"{photo}-{cell_name}-{k:02d}.png")
            first_region = region + 1

    real = np.stack(patches)
    fake = _resynthesise(real.astype(np.float64))
    order = sorted(range(len(names)), key=names.__getitem__)
    n = len(order)
    return DemoImages(
        images=np.concatenate([fake[order], real[order]]),
        labels=np.repeat(np.array([0, 1], np.uint8), n),
        regions=np.tile(np.array(regions, np.int64)[order], 2),
        names=[f"{folder}/{names[i]}" for folder in CLASS_NAMES for i in order],
    )


_SAMPLES = (
    ("sklearn", Path("datasets/images/china.jpg")),
    ("sklearn", Path("datasets/images/flower.jpg")),
    ("matplotlib", Path("mpl-data/sample_data/grace_hopper.jpg")),
)
"""What their ``load_sample_images`` and ``get_sample_data`` open."""


def _photos() -> dict[str, NDArray[np.uint8]]:
    """The photographs by name, each (height, width, 3) uint8 RGB."""
    from PIL import Image

    photos: dict[str, NDArray[np.uint8]] = {}
    try:
        for package, path in _SAMPLES:
            with Image.open(_folder_of(package) / path) as image:
                photos[path.stem] = np.asarray(image.convert("RGB"))
        photos["hopper"] = photos.pop("grace_hopper")
    except OSError as error:
        raise UserError(
            "expected the sample photographs that pip installs with scikit-learn and matplotlib, got: "
            f"{printable(error.filename or 'one of them')}: {reason_of(error)}"
        ) from error
    return photos


def _folder_of(package: str) -> Path:
    """Where a package lies. It is not imported: that takes longer than all that is done with its photographs.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.submodule_search_locations[0])


def _cells(photo: NDArray[np.uint8]) -> list[tuple[str, NDArray[np.uint8]]]:
    """Non-overlapping (96, 96, 3) cells of a photo, centred in it, with their names `rRR-cCC`."""
    rows, cols = photo.shape[0] // CELL, photo.shape[1] // CELL
    top, left = (photo.shape[0] - rows * CELL) // 2, (photo.shape[1] - cols * CELL) // 2
    return [
        (f"r{r:02d}-c{c:02d}", photo[top + r * CELL :, left + c * CELL :][:CELL, :CELL])
        for r in range(rows)
        for c in range(cols)
    ]


def _patches(cell: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The 19 patches of a cell, (32, 32, 3) uint8: nine at full resolution, nine at half of it, one at a third."""
    patches = []
    for scale, starts in ((1, (0, 32, 64)), (2, (0, 16, 32)), (3, (0,))):
        side = scale * SIZE
        for y in starts:
            for x in starts:
                blocks = cell[y : y + side, x : x + side].reshape(SIZE, scale, SIZE, scale, 3)
                patches.append(_to_uint8(blocks.mean(axis=(1, 3))))
    return patches


def _lost_detail(patch: NDArray[np.uint8]) -> float:
    """Root mean square, in grey levels, of what halving the resolution takes from a (32, 32, 3) patch."""
    batch = patch[None].astype(np.float64)
    return float(np.sqrt(np.mean((batch - _nearest(_encode(batch))) ** 2)))


def _resynthesise(real: Floats) -> NDArray[np.uint8]:
    """FAKE twins of (n, 32, 32, 3) patches, 0 to 255: encode, up-sample in one of three ways, make up detail."""
    # RandomState, not Generator: its stream is frozen, and the pixels must not change with numpy's version.
    rng = np.random.RandomState(SEED)
    n = len(real)
    offsets = rng.randint(0, 2, size=(n, 2))
    wide = np.pad(real, ((0, 0), (MARGIN + 1, MARGIN + 1), (MARGIN + 1, MARGIN + 1), (0, 0)), mode="reflect")
    side = SIZE + 2 * MARGIN
    on_grid = np.stack([w[y : y + side, x : x + side] for w, (y, x) in zip(wide, offsets, strict=True)])

    low = _encode(on_grid)
    ways: list[UpSampler] = [_nearest_and_blur, _transposed_convolution, _fit_subpixel_convolution(low, on_grid)]
    fake = np.empty_like(on_grid)
    for i, up_sample in enumerate(ways):
        fake[i :: len(ways)] = up_sample(low[i :: len(ways)])
    fake += _made_up_detail(on_grid, on_grid - fake, rng)
    starts = MARGIN + 1 - offsets
    return np.stack([_to_uint8(f[y : y + SIZE, x : x + SIZE]) for f, (y, x) in zip(fake, starts, strict=True)])


def _encode(images: Floats) -> Floats:
    """Half the resolution, (n, 2h, 2w, c) -> (n, h, w, c), by the mean of 2x2 blocks."""
    return _blocks(images).mean(axis=(2, 4))


def _blocks(images: Floats) -> Floats:
    """View (n, 2h, 2w, c) as (n, h, 2, w, 2, c)."""
    n, height, width, channels = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, channels)


def _nearest(low: Floats) -> Floats:
    """Twice the resolution, every value repeated in a 2x2 block."""
    return low.repeat(2, axis=1).repeat(2, axis=2)


def _nearest_and_blur(low: Floats) -> Floats:
    """Fixed: nearest neighbour, then the 1-2-1 binomial filter (as in StyleGAN)."""
    return _filter(_nearest(low), (0.25, 0.5, 0.25))


def _transposed_convolution(low: Floats) -> Floats:
    """Fixed: zeros inserted, then a 3-tap filter with uneven overlaps: gain 1.02 on the grid, 0.98 between."""
    spread = np.zeros((low.shape[0], 2 * low.shape[1], 2 * low.shape[2], low.shape[3]))
    spread[:, ::2, ::2] = low
    return _filter(spread, (0.49, 1.02, 0.49))


def _filter(images: Floats, taps: tuple[float, float, float]) -> Floats:
    """A separable 3-tap filter over axes 1 and 2 of (n, h, w, c), edges repeated."""
    for axis in (1, 2):
        size = images.shape[axis]
        pad = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(images, pad, mode="edge")
        images = sum(tap * padded.take(range(k, k + size), axis=axis) for k, tap in enumerate(taps))  # type: ignore
    return images


def _fit_subpixel_convolution(low: Floats, high: Floats) -> UpSampler:
    """Learned: the 3x3 convolution to four sub-pixels that best predicts `high` (n, 2h, 2w, c) from `low` (n, h, w, c).

    The layer of Shi et al. ("Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016), with one kernel for all channels, in closed form: ridge regression, drawn
    to nearest neighbour.
    """
    x = _neighbours(low)  # (n, h, w, c, 9)
    residual = _blocks(high - _nearest(low)).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4)
    rows = x.reshape(-1, 9) - x[..., 4].reshape(-1, 1)  # differences to the centre: brightness drops out
    kernel = np.linalg.solve(rows.T @ rows + RIDGE * len(rows) * np.eye(9), rows.T @ residual)
    kernel = np.round(kernel, 4)  # the last bits depend on the BLAS and its threads; no pixel should

    def up_sample(low: Floats) -> Floats:
        x = _neighbours(low)
        sub = ((x - x[..., 4:5]) @ kernel).reshape(*low.shape, 2, 2)  # (n, h, w, c, 2, 2)
        n, h, w, c = low.shape
        return _nearest(low) + sub.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c)

    return up_sample


def _neighbours(low: Floats) -> Floats:
    """The 3x3 neighbourhood of every value, (n, h, w, c) -> (n, h, w, c, 9), edges repeated."""
    padded = np.pad(low, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = low.shape[1:3]
    return np.stack([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=-1)


def _made_up_detail(images: Floats, lost: Floats, rng: np.random.RandomState) -> Floats:
    """Detail for (n, 2h, 2w, c) images, made at low resolution, GAIN times as strong as `lost`.

    It follows the strength of the real detail from place to place, not its shape: each of the three 2x2 sign patterns
    (Haar's: across, down, diagonal) has its strength in the real image, smoothed, times a constant plus noise.
    """
    sign = np.array([1.0, -1.0])
    detail = np.zeros_like(images)
    for pattern in (np.outer([1, 1], sign), np.outer(sign, [1, 1]), np.outer(sign, sign)):
        shape = pattern[None, None, :, None, :, None]
        strength = _filter(np.abs((_blocks(images) * shape).mean(axis=(2, 4))), (0.25, 0.5, 0.25))
        noise = rng.standard_normal((*strength.shape[:3], 1))  # one for the three colours: fine detail is mostly grey
        weight = np.sqrt(COHERENCE) + np.sqrt(1 - COHERENCE) * noise
        detail += (np.expand_dims(strength * weight, (2, 4)) * shape).reshape(images.shape)
    return GAIN * detail * np.sqrt(_energy(lost) / np.maximum(_energy(detail), 1e-9))


def _energy(images: Floats) -> Floats:
    """Mean square of each image, shape (n, 1, 1, 1)."""
    return np.mean(images**2, axis=(1, 2, 3), keepdims=True)


def _to_uint8(values: Floats) -> NDArray[np.uint8]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
