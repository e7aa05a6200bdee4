"""Named descriptors of images, as fixed modules of torch: what ``features`` looks at.

Each maps (N, 3, S, S) float64 levels, 0 to 255 RGB, to (N, D) float64. All are tested against scikit-image, PyWavelets,
numpy and scipy, which are not needed to run them: written for a whole batch they are fast, and they are part of an
exported graph. They compute in float64: a level that is compared or rounded then falls on the same side everywhere.
Their fractions are :func:`_exact`, so that the graph computes with the same ones.

What 32 px changed: the sources' images are large, and here is little to count. The bands of a fourth wavelet level
would have 4x4 places, so there are three; co-occurrences are of 32 levels and not of 256, and those of the noise of
three neighbours and not of four.
"""

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

SMALLEST_IMAGE = 16


def _exact(value: float) -> float:
    """The nearest number of 32 bits: torch's exporter writes no other into a graph, not into one of float64 either."""
    return float(np.float32(value))


# levels: what is nearer is equal. No multiple of .001, the steps that Y goes in: rounding decides nothing
TIE = _exact(4.37e-4)
_FLAT = _exact(1e-2)  # squared levels, added to a variance: an image of one colour has figures too
_LEAST = _exact(1e-10)  # a floor, where torch's exporter would drop so small a term of a sum
_RED, _GREEN, _BLUE = _exact(0.299), _exact(0.587), _exact(0.114)
_TO_CB, _TO_CR = _exact(1.772), _exact(1.402)


def planes(levels: Tensor) -> Tensor:
    """(N, 3, S, S) RGB -> Y, Cb, Cr of JFIF, 0 to 255 as well, not rounded."""
    red, green, blue = levels.unbind(1)
    luma = _RED * red + _GREEN * green + _BLUE * blue
    return torch.stack([luma, 128 + (blue - luma) / _TO_CB, 128 + (red - luma) / _TO_CR], 1)


def moments(values: Tensor) -> Tensor:
    """(..., n) -> (..., 4): mean, log variance, skewness, log kurtosis (3 is the normal distribution's, before log)."""
    mean = values.mean(-1, keepdim=True)
    away = values - mean
    square = away * away  # products: a power of whole exponent is as slow as any
    variance = square.mean(-1) + _FLAT
    skewness = (square * away).mean(-1) / variance**1.5
    kurtosis = (square * square).mean(-1) / variance**2
    return torch.stack([mean.squeeze(-1), variance.log(), skewness, (kurtosis + _FLAT).log()], -1)


def histogram(codes: Tensor, bins: int) -> Tensor:
    """(..., n) int64 from 0 to bins - 1 -> (..., bins) shares, float64."""
    empty = torch.zeros(*codes.shape[:-1], bins, dtype=torch.float64, device=codes.device)
    return empty.scatter_add(-1, codes, torch.ones_like(codes, dtype=torch.float64)) / codes.shape[-1]


class Wavelet(nn.Module):
    """Moments of the detail bands of three levels of Daubechies' db2 (4 taps), of Y, Cb and Cr.

    Source: Farid and Lyu, Higher-order Wavelet Statistics and their Application to Digital Forensics, 2003; the
    transform is PyWavelets' ``dwt2(..., "db2", "symmetric")``.
    """

    LEVELS = 3

    def __init__(self, image_size: int) -> None:
        super().__init__()
        size = image_size
        for level in range(self.LEVELS):
            for name, taps in zip(("low", "high"), db2(), strict=True):
                matrix = dwt_matrix(taps, size)
                self.register_buffer(f"{name}{level}", torch.from_numpy(matrix).float(), persistent=False)
            size = len(matrix)

    def forward(self, levels: Tensor) -> Tensor:
        approximation, found = planes(levels), []
        for level in range(self.LEVELS):
            low, high = (getattr(self, f"{name}{level}").double() for name in ("low", "high"))
            rows_low, rows_high = low @ approximation, high @ approximation
            details = (rows_high @ low.T, rows_low @ high.T, rows_high @ high.T)
            found += [moments(band.flatten(2)) for band in details]
            approximation = rows_low @ low.T
        return torch.stack(found, 1).flatten(1)


def db2() -> tuple[np.ndarray, np.ndarray]:
    """The decomposition filters, low and high, (4,) each."""
    root = math.sqrt(3)
    taps = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * math.sqrt(2))
    return taps[::-1].copy(), taps * [-1, 1, -1, 1]


def dwt_matrix(taps: np.ndarray, size: int) -> np.ndarray:
    """(n, size): one level of the transform of a signal, continued by its mirror image at both ends."""
    count = (size + len(taps) - 1) // 2
    matrix = np.zeros((count, size))
    for row, tap in product(range(count), range(len(taps))):
        place = 2 * row + 1 - tap
        place = -1 - place if place < 0 else 2 * size - 1 - place if place >= size else place
        matrix[row, place] += taps[tap]
    return matrix


class LocalBinaryPatterns(nn.Module):
    """Shares of the 58 uniform patterns of 8 neighbours at radius 1, and of all others, of Y, Cb and Cr.

    Source: Ojala, Pietikainen and Maenpaa, PAMI 24 (7), 2002; neighbours between pixels are interpolated, as in
    scikit-image's ``local_binary_pattern``. The outermost pixels, which lack neighbours, are left out.
    """

    pattern: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.register_buffer("pattern", torch.from_numpy(uniform_patterns()).float(), persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        codes = lbp_codes(planes(levels)).flatten(2)
        return (histogram(codes, 256) @ self.pattern.double()).flatten(1)


def lbp_codes(planes: Tensor) -> Tensor:
    """(N, C, S, S) -> (N, C, S - 2, S - 2) int64: bit p is set where neighbour p, counterclockwise, is no darker."""
    centre = planes[:, :, 1:-1, 1:-1]
    codes = torch.zeros_like(centre, dtype=torch.int64)
    far = 0.70711  # as scikit-image rounds it
    for bit in range(8):
        down, right = -round(math.sin(bit * math.pi / 4)), round(math.cos(bit * math.pi / 4))
        value = _shifted(planes, down, right)
        if down and right:
            beside = _shifted(planes, down, 0) + _shifted(planes, 0, right)
            value = _exact(far**2) * value + _exact(far * (1 - far)) * beside + _exact((1 - far) ** 2) * centre
        codes = codes + (value - centre >= -TIE).long() * 2**bit
    return codes


def _shifted(planes: Tensor, down: int, right: int) -> Tensor:
    """What lies there of each pixel but the outermost."""
    height, width = planes.shape[2:]
    return planes[:, :, 1 + down : height - 1 + down, 1 + right : width - 1 + right]


def uniform_patterns() -> np.ndarray:
    """(256, 59): which of 58 patterns with at most two changes around the circle a code is, or the rest."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    uniform = (bits != np.roll(bits, 1, 1)).sum(1) <= 2
    matrix = np.zeros((256, 59))
    matrix[np.flatnonzero(uniform), np.arange(58)] = 1
    matrix[~uniform, 58] = 1
    return matrix


class CoOccurrence(nn.Module):
    """Six figures of the grey-level co-occurrence matrices at six offsets, of Y, Cb and Cr in 32 steps.

    Contrast, dissimilarity, homogeneity, energy (squared), correlation, entropy, of scikit-image's
    ``graycomatrix(..., symmetric=True, normed=True)``. Y in steps of 8 levels, Cb and Cr of 4, within 64 of grey.
    Source: Haralick, Shanmugam and Dinstein, IEEE SMC 3 (6), 1973.
    """

    OFFSETS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, 2), (2, 0))  # down, right
    STEPS = 32

    weights: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        first, second = np.indices((self.STEPS, self.STEPS)).reshape(2, -1)
        weights = [(first - second) ** 2, abs(first - second), 1 / (1 + (first - second) ** 2)]
        weights += [first, first**2, first * second]
        self.register_buffer("weights", torch.from_numpy(np.stack(weights, 1)).float(), persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        steps = quantized(planes(levels))
        height, width = steps.shape[2:]
        found = []
        for down, right in self.OFFSETS:
            left, rows = max(-right, 0), height - down
            columns = width - abs(right)
            first = steps[:, :, :rows, left : left + columns]
            second = steps[:, :, down : down + rows, left + right : left + right + columns]
            counts = histogram((first * self.STEPS + second).flatten(2), self.STEPS**2)
            square = counts.unflatten(2, (self.STEPS, self.STEPS))
            found.append(self._figures(((square + square.transpose(2, 3)) / 2).flatten(2)))
        return torch.stack(found, 1).flatten(1)

    def _figures(self, shares: Tensor) -> Tensor:
        contrast, dissimilarity, homogeneity, mean, square, product = (shares @ self.weights.double()).unbind(-1)
        energy, entropy = (shares**2).sum(-1), -(shares * shares.clamp(min=_LEAST).log()).sum(-1)
        correlation = (product - mean**2) / (square - mean**2 + _exact(1e-4))
        return torch.stack([contrast, dissimilarity, homogeneity, energy, correlation, entropy], -1)


def quantized(planes: Tensor) -> Tensor:
    """(N, 3, S, S) Y, Cb, Cr -> int64 from 0 to 31."""
    luma, chroma = planes[:, :1], planes[:, 1:]
    steps = torch.cat([(luma + TIE) / 8, (chroma - 64 + TIE) / 4], 1)
    return steps.floor().clamp(0, 31).long()


class Gradients(nn.Module):
    """Histograms of oriented gradients of Y: 9 directions, cells of 8x8, blocks of 2x2 cells, L2-Hys.

    Source: Dalal and Triggs, CVPR 2005; scikit-image's ``hog``.
    """

    CELL, DIRECTIONS = 8, 9

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.cells = image_size // self.CELL

    def forward(self, levels: Tensor) -> Tensor:
        luma = planes(levels)[:, 0]
        down, right = torch.zeros_like(luma), torch.zeros_like(luma)
        down = nn.functional.pad(luma[:, 2:] - luma[:, :-2], (0, 0, 1, 1))
        right = nn.functional.pad(luma[:, :, 2:] - luma[:, :, :-2], (1, 1))
        down = torch.where(down.abs() < TIE, torch.zeros_like(down), down)  # its sign would decide the direction
        upward = (down < 0) | ((down == 0) & (right < 0))
        down, right = torch.where(upward, -down, down), torch.where(upward, -right, right)
        angles = [math.pi * each / self.DIRECTIONS for each in range(1, self.DIRECTIONS)]
        turned = [_exact(math.cos(angle)) * down - _exact(math.sin(angle)) * right for angle in angles]
        passed = [(each >= 0).long() for each in turned]
        direction, strength = torch.stack(passed).sum(0), (down**2 + right**2).sqrt()
        used = self.cells * self.CELL
        maps = torch.stack([torch.where(direction == each, strength, 0) for each in range(self.DIRECTIONS)], 1)
        cells = maps[:, :, :used, :used].unflatten(3, (self.cells, self.CELL)).unflatten(2, (self.cells, self.CELL))
        cells = cells.mean((3, 5)).permute(0, 2, 3, 1)  # (N, rows, columns, directions)
        blocks = torch.cat(
            [cells[:, i : i + self.cells - 1, j : j + self.cells - 1] for i in (0, 1) for j in (0, 1)], 3
        )
        blocks = _unit(_unit(blocks).clamp(max=_exact(0.2)))
        return blocks.flatten(1)


def _unit(blocks: Tensor) -> Tensor:
    return blocks / (blocks**2).sum(-1, keepdim=True).clamp(min=_LEAST).sqrt()


class Spectrum(nn.Module):
    """Log power at each whole radius of the spectrum, and the slope of log power over log radius, of Y, Cb and Cr.

    Photographs fall as 1 / f^2 (Field, JOSA A 4 (12), 1987); what a generator leaves shows as a departure from it.
    """

    cosine: Tensor
    sine: Tensor
    slope: Tensor
    rings: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        turns = np.outer(np.arange(image_size), np.arange(image_size)) * 2 * np.pi / image_size
        frequency = np.fft.fftfreq(image_size, 1 / image_size)
        radius = np.rint(np.hypot(*np.meshgrid(frequency, frequency))).ravel()
        rings = radius[:, None] == np.arange(1, image_size // 2 + 1)
        log_radius = np.log(np.arange(1, image_size // 2 + 1))
        away = log_radius - log_radius.mean()
        fixed = {"cosine": np.cos(turns), "sine": np.sin(turns), "slope": away / (away**2).sum()}
        fixed["rings"] = rings / rings.sum(0)
        for name, value in fixed.items():
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        cosine, sine = self.cosine.double(), self.sine.double()
        seen = planes(levels)
        seen = seen - seen.mean((2, 3), keepdim=True)
        real = cosine @ seen @ cosine - sine @ seen @ sine
        imaginary = cosine @ seen @ sine + sine @ seen @ cosine
        power = (real**2 + imaginary**2).flatten(2) / seen.shape[-1] ** 2
        rings = (power @ self.rings.double() + _FLAT).log()
        return torch.cat([rings, (rings @ self.slope.double()).unsqueeze(-1)], -1).flatten(1)


class Colour(nn.Module):
    """Moments of R, G, B, Y, Cb, Cr, of HSV's value and of chroma (value less the least of R, G, B); correlations of R,
    G and B.

    Source: Stricker and Orengo, Similarity of Color Images, SPIE 2420, 1995, whose hue is left out: it is a circle.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()

    def forward(self, levels: Tensor) -> Tensor:
        value = levels.amax(1, keepdim=True)
        every = torch.cat([levels, planes(levels), value, value - levels.amin(1, keepdim=True)], 1).flatten(2)
        away = levels.flatten(2) - levels.flatten(2).mean(2, keepdim=True)
        away = away / ((away**2).mean(2, keepdim=True) + _FLAT).sqrt()
        pairs = [(away[:, i] * away[:, j]).mean(1) for i, j in ((0, 1), (0, 2), (1, 2))]
        return torch.cat([moments(every).flatten(1), torch.stack(pairs, 1)], 1)


class NoiseResidual(nn.Module):
    """What a predictor of a pixel from its eight neighbours leaves: its moments, and how often triples of it occur.

    The residual is rounded to steps of 2 levels and cut at two steps; triples are of neighbours in a row or column, and
    of R, G and B at one place. Source: Fridrich and Kodovsky, Rich Models for Steganalysis, IEEE TIFS 7 (3), 2012 (the
    KB filter of 3x3), and Goljan, Fridrich and Cogranne, WIFS 2014, for the triples over colours.
    """

    STEPS = 5

    def __init__(self, image_size: int) -> None:
        super().__init__()

    def forward(self, levels: Tensor) -> Tensor:
        residual = noise_residual(levels)
        steps = residual_steps(residual)
        across = self._triples(steps[..., :-2], steps[..., 1:-1], steps[..., 2:])
        down = self._triples(steps[..., :-2, :], steps[..., 1:-1, :], steps[..., 2:, :])
        colours = self._triples(*steps.unbind(1))
        return torch.cat([moments(residual.flatten(2)).flatten(1), (across + down) / 2, colours], 1)

    def _triples(self, *steps: Tensor) -> Tensor:
        first, second, third = (each.flatten(1) for each in steps)
        return histogram((first * self.STEPS + second) * self.STEPS + third, self.STEPS**3)


def noise_residual(levels: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 3, S - 2, S - 2): (2 (sides) - corners) / 4 - the pixel, KB of the rich models."""
    sides = sum(_shifted(levels, *at) for at in ((-1, 0), (1, 0), (0, -1), (0, 1)))
    corners = sum(_shifted(levels, *at) for at in ((-1, -1), (-1, 1), (1, -1), (1, 1)))
    return (2 * sides - corners) / 4 - _shifted(levels, 0, 0)


def residual_steps(residual: Tensor) -> Tensor:
    """int64 from 0 to 4: in steps of 2 levels, cut at two steps, of which 2 is none."""
    return ((residual + TIE) / 2 + 0.5).floor().clamp(-2, 2).long() + 2


DESCRIPTORS: dict[str, type[nn.Module]] = {
    "wavelet": Wavelet,
    "lbp": LocalBinaryPatterns,
    "glcm": CoOccurrence,
    "hog": Gradients,
    "spectrum": Spectrum,
    "colour": Colour,
    "noise": NoiseResidual,
}
"""By the names that ``descriptors`` of ``features`` takes; each is made with the side S of the images."""
