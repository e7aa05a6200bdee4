"""A model's answers about labelled images: what every figure of an evaluation is computed of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np


def prob_of(logits: np.ndarray) -> np.ndarray:
    """(N,) float32 logits -> (N,) float32 P(REAL)."""
    from scipy.special import expit  # half a second to import

    return expit(np.asarray(logits, np.float32))


@dataclass(frozen=True)
class Predictions:
    """One model's answers about N images, in the images' order.

    Attributes:
        model: what it is called in tables.
        names: of the images, N.
        labels: (N,) int64, FAKE = 0, REAL = 1.
        logits: (N,) float32 of P(REAL), divided by the model's temperature.
        threshold: an image is called REAL where its float32 probability is strictly above.
        groups: by what figures are broken down (``object``, ``generator``): (N,) text each, "" for none.
        seen: (N,) bool: trained on, itself or as a twin; None where that is not known.

    Raises:
        ValueError: lengths that differ.
    """

    model: str
    names: Sequence[str]
    labels: np.ndarray
    logits: np.ndarray
    threshold: float = 0.5
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    seen: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {
            "names": len(self.names),
            "labels": len(self.labels),
            "logits": len(self.logits),
            **{name: len(values) for name, values in self.groups.items()},
            **({} if self.seen is None else {"seen": len(self.seen)}),
        }
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected an entry for each image everywhere, got {lengths}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def prob_real(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return prob_of(self.logits)

    @property
    def called_real(self) -> np.ndarray:
        """(N,) bool."""
        return self.prob_real > np.float32(self.threshold)

    def take(self, kept: np.ndarray) -> "Predictions":
        """Of some images: (N,) bool, or (n,) int64 places."""
        places = np.flatnonzero(kept) if kept.dtype == bool else kept
        return replace(
            self,
            names=[self.names[at] for at in places.tolist()],
            labels=self.labels[places],
            logits=self.logits[places],
            groups={name: values[places] for name, values in self.groups.items()},
            seen=None if self.seen is None else self.seen[places],
        )
