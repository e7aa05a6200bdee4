"""What a network is fed, as one readable word or line: "0-1", "0-255", "caffe", "0-255, scale 0.00784 offset -1".

Images are RGB in [0, 1] everywhere in this project; a network that was trained on other values turns them into those
itself, so that training, testing, export and detection need not know. The line is a value of
``model.network.pixels``.
"""

import math
from typing import NamedTuple

from lightning_cifake.errors import UserError

CHANNELS = 3
DEFAULT = "0-1"
# the means that keras.applications subtracts from B, G and R. Source: keras/src/applications/imagenet_utils.py
CAFFE_MEANS = (103.939, 116.779, 123.68)
LARGEST_VALUE = 1e6  # of a scale or an offset: beyond it float32 has nothing left of a pixel
SAME = 1e-6  # relative: constants that were rounded to float32 on the way


class Affine(NamedTuple):
    """``channels[order] * scale + offset``, channel by channel, of RGB in [0, 1]."""

    order: tuple[int, ...] = (0, 1, 2)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    def then(self, other: "Affine") -> "Affine":
        """This one, and the other one on what comes out."""
        pairs = [(self.scale[at], self.offset[at]) for at in other.order]
        return Affine(
            tuple(self.order[at] for at in other.order),
            tuple(scale * s for (scale, _), s in zip(pairs, other.scale, strict=True)),
            tuple(offset * s + o for (_, offset), s, o in zip(pairs, other.scale, other.offset, strict=True)),
        )

    def is_close(self, other: "Affine") -> bool:
        """The same, but for constants that were rounded on the way."""
        near = [math.isclose(own, its, rel_tol=SAME) for own, its in zip(self.scale, other.scale, strict=True)]
        offsets = zip(self.offset, other.offset, strict=True)
        return self.order == other.order and all(near) and all(abs(m - i) <= SAME * max(1, abs(m)) for m, i in offsets)


BASES = {
    "0-1": Affine(),
    "0-255": Affine(scale=(255.0,) * 3),
    "-1-1": Affine(scale=(2.0,) * 3, offset=(-1.0,) * 3),
    "caffe": Affine((2, 1, 0), (255.0,) * 3, tuple(-mean for mean in CAFFE_MEANS)),
}
_GRAMMAR = (
    f"expected {', '.join(BASES)} (keras.applications.resnet50.preprocess_input: BGR less the ImageNet means), or one "
    "of these and what the model does with them first: 'scale S' or 'scale R G B', 'offset O' or 'offset R G B', 'bgr'"
)


class Pixels(NamedTuple):
    """``base``: what is fed, of :data:`BASES`; ``inside``: what the model does with it before its first convolution."""

    base: str = DEFAULT
    inside: Affine = Affine()

    @property
    def affine(self) -> Affine:
        """From RGB in [0, 1] to what the first convolution sees; exactly nothing where the two undo each other."""
        whole = BASES[self.base].then(self.inside)
        return Affine() if whole.is_close(Affine()) else whole

    def __str__(self) -> str:
        words = []
        if self.inside.order == (2, 1, 0):
            words.append("bgr")
        for word, values, neutral in (("scale", self.inside.scale, 1.0), ("offset", self.inside.offset, 0.0)):
            if any(value != neutral for value in values):
                shown = values[:1] if len(set(values)) == 1 else values
                words.append(" ".join([word, *map(repr, shown)]))
        return self.base + (f", {' '.join(words)}" if words else "")


def parse_pixels(text: str) -> Pixels:
    """Reads a line.

    Raises:
        UserError: says what can stand there.
    """
    base, _, rest = str(text).partition(",")
    if base.strip() not in BASES:
        raise UserError(f"model.network.pixels: got '{text}'; {_GRAMMAR}")
    words, order = rest.split(), (0, 1, 2)
    if words[:1] == ["bgr"]:
        words, order = words[1:], (2, 1, 0)
    found = {"scale": Affine().scale, "offset": Affine().offset}
    for name in found:
        if words[:1] != [name]:
            continue
        count = next((at for at, word in enumerate(words[1:]) if word in found), len(words) - 1)
        numbers = [_number(word) for word in words[1 : 1 + count]]
        values = [number for number in numbers if number is not None]
        values = values * CHANNELS if len(numbers) == 1 else values
        if len(values) != CHANNELS:
            raise UserError(f"model.network.pixels: got '{text}'; {_GRAMMAR}")
        found[name] = tuple(values)
        words = words[1 + count :]
    if words:
        raise UserError(f"model.network.pixels: got '{text}'; {_GRAMMAR}")
    return Pixels(base.strip(), Affine(order, found["scale"], found["offset"]))


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= LARGEST_VALUE else None
