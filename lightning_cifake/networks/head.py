"""The head as one readable line: "flatten, dense 256 relu, batchnorm, dropout, dense 128 relu, dense 1".

The line is a value of ``model.network.head`` in YAML and on the command line; :func:`parse_head` turns it into layers
and ``str(head)`` back.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.distributed import current_shard
from lightning_cifake.errors import UserError

# TensorFlow rounds the root of 1/2 to float32, in float64 too: 5e-9 off at x = 1.4
KERAS_SQRT_HALF = 0.707106769084930419921875

PUBLISHED_HEAD = "flatten, dense 256 relu, batchnorm, dropout, dense 128 relu, dense 1"


class Gelu(nn.Module):
    """The exact GELU, by the constant of TensorFlow since 2.19. Any float -> the same. Source: tf.nn.gelu, 2.21."""

    def forward(self, values: Tensor) -> Tensor:
        return 0.5 * values * torch.erfc(-values * KERAS_SQRT_HALF)


class Dropout(nn.Dropout):
    """``nn.Dropout``; where several processes share a batch, its draw is the whole batch's. Any float -> the same."""

    def forward(self, values: Tensor) -> Tensor:
        shard = current_shard()
        if shard is None or not self.training:
            return super().forward(values)
        # of ones: what one process would multiply the batch with, from the same draw
        return values * shard.slice(F.dropout(values.new_ones(shard.whole, *values.shape[1:]), self.p, True))


POOLINGS = ("flatten", "avgpool")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": Gelu,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
MOST_LAYERS = 200
MOST_UNITS = 2**20
_GRAMMAR = (
    f"expected {' or '.join(POOLINGS)}, then any of: dense UNITS [ACTIVATION] [nobias], "
    "batchnorm [eps E] [momentum M] (M as torch counts it: the share of the new), dropout [RATE] (without a rate: "
    f"model.network.dropout), an activation ({', '.join(ACTIVATIONS)}), then dense 1; as in '{PUBLISHED_HEAD}'"
)


class HeadLayer(NamedTuple):
    """One layer: ``kind`` is dense, batchnorm, dropout or an activation's name; ``name`` its place in the state_dict.

    eps, momentum and rate are None where the line does not say: then the layout's, and ``model.network.dropout``.
    """

    kind: str
    name: str = ""
    units: int = 0
    bias: bool = True
    eps: float | None = None
    momentum: float | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.kind == "dense":
            return f"dense {self.units}" + ("" if self.bias else " nobias")
        values = {"eps": self.eps, "momentum": self.momentum}
        if self.kind == "batchnorm":
            return " ".join(
                ["batchnorm", *(f"{word} {value!r}" for word, value in values.items() if value is not None)]
            )
        return self.kind if self.rate is None else f"{self.kind} {self.rate!r}"


class Head(NamedTuple):
    """``pooling`` (flatten or avgpool) and the layers after it; the last is the dense layer of one logit."""

    pooling: str
    layers: tuple[HeadLayer, ...]

    def __str__(self) -> str:
        words = [self.pooling]
        before = ""
        for layer in self.layers:
            if layer.kind in ACTIVATIONS and before == "dense":
                words[-1] += f" {layer.kind}"
            else:
                words.append(str(layer))
            before = layer.kind
        return ", ".join(words)

    def build(
        self, features: int, norm: Callable[[int, float | None, float | None], nn.Module], dropout: float
    ) -> nn.Sequential:
        """(N, features) -> (N, 1) logits. ``norm`` makes a batch norm from channels, eps and momentum."""
        head = nn.Sequential()
        for layer in self.layers:
            if layer.kind == "dense":
                module: nn.Module = nn.Linear(features, layer.units, bias=layer.bias)
                features = layer.units
            elif layer.kind == "batchnorm":
                module = norm(features, layer.eps, layer.momentum)
            elif layer.kind == "dropout":
                module = Dropout(dropout if layer.rate is None else layer.rate)
            else:
                module = ACTIVATIONS[layer.kind]()
            head.add_module(layer.name, module)
        return head


def make_head(pooling: str, layers: list[HeadLayer]) -> Head:
    """A head whose layers have their names: dense1, relu1, norm, dropout, dense2, ..., logit."""
    counts: Counter[str] = Counter()
    named = []
    for at, layer in enumerate(layers):
        counts[layer.kind] += 1
        number = counts[layer.kind]
        if layer.kind == "dense":
            name = "logit" if at == len(layers) - 1 else f"dense{number}"
        elif layer.kind in ACTIVATIONS:
            name = f"{layer.kind}{number}"
        else:  # the names of checkpoints of the published head, which has one of each
            name = {"batchnorm": "norm"}.get(layer.kind, layer.kind) + (str(number) if number > 1 else "")
        named.append(layer._replace(name=name))
    return Head(pooling, tuple(named))


def parse_head(text: str) -> Head:
    """Reads a head's line.

    Raises:
        UserError: names the part that cannot be read, and what can stand there.
    """
    first, *parts = [part.split() for part in text.split(",")]
    if len(first) != 1 or first[0] not in POOLINGS:
        raise _unreadable(text, " ".join(first) or "nothing", "as the first part")
    layers: list[HeadLayer] = []
    if len(parts) > MOST_LAYERS:
        raise UserError(f"model.network.head: expected at most {MOST_LAYERS} layers, got {len(parts)}")
    for part in parts:
        parsed = _parse_part(part)
        if parsed is None:
            raise _unreadable(text, " ".join(part) or "nothing")
        layers += parsed
    if not layers or (layers[-1].kind, layers[-1].units) != ("dense", 1):
        raise _unreadable(text, ", ".join(map(str, layers[-1:])) or "nothing", "as the last part")
    return make_head(first[0], layers)


def _unreadable(text: str, part: str, where: str = "in it") -> UserError:
    return UserError(f"model.network.head: got '{part}' {where} ('{text}'); {_GRAMMAR}")


def _parse_part(words: list[str]) -> list[HeadLayer] | None:
    """The one or two layers of a part; None where it is not one."""
    kind, *rest = words or [""]
    if kind in ACTIVATIONS and not rest:
        return [HeadLayer(kind)]
    if kind == "dropout" and len(rest) <= 1:
        rate = _number(rest[0]) if rest else None
        return None if rest and (rate is None or not 0 <= rate < 1) else [HeadLayer("dropout", rate=rate)]
    if kind == "batchnorm":
        return _parse_norm(rest)
    if (
        kind == "dense"
        and rest
        and rest[0].isascii()
        and rest[0].isdecimal()
        and len(rest[0]) < 8
        and 0 < int(rest[0]) < MOST_UNITS
    ):
        bias = "nobias" not in rest[1:]
        activations = [word for word in rest[1:] if word != "nobias"]
        if len(rest) > 2 + (not bias) or any(word not in ACTIVATIONS for word in activations):
            return None
        return [HeadLayer("dense", units=int(rest[0]), bias=bias), *(HeadLayer(word) for word in activations)]
    return None


def _parse_norm(rest: list[str]) -> list[HeadLayer] | None:
    values = dict(zip(rest[::2], map(_number, rest[1::2]), strict=False))
    if len(rest) != 2 * len(values) or not set(values) <= {"eps", "momentum"}:
        return None
    eps, momentum = values.get("eps", 1.0), values.get("momentum", 1.0)
    if eps is None or momentum is None or eps <= 0 or not 0 < momentum <= 1:
        return None
    return [HeadLayer("batchnorm", eps=values.get("eps"), momentum=values.get("momentum"))]


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
