"""What a file of Keras holds, whichever form it has: :mod:`files` opens one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class KerasFile:
    """An open file.

    ``model`` and ``optimizer`` are the configurations it holds, or None. ``layers`` gives the variables of each layer
    in the order in which Keras wrote them, ``optimizer_variables`` those of the optimizer with their names, which are
    "" in Keras 3's format. Variables are read when they are converted.
    """

    path: Path
    legacy: bool
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    layers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """By path and "" in Keras 3's format; in the older one by the outermost layer and the layer's own name. Then by the
    variable's place ("0", "1", ...) in Keras 3's format, by its name in the older one."""
    names: dict[str, str] = field(default_factory=dict)
    """Keras 3's path of every layer, weights or not -> the name that it had, or "" where the file does not tell."""
    optimizer_variables: list[tuple[str, Any]] = field(default_factory=list)
    image_size: int | None = None
    """Height and width of the images, where a file without a configuration tells them."""

    @property
    def name(self) -> str:
        return self.path.name
