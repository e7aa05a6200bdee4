"""FeatureDetector: named descriptors, classifiers of scikit-learn, and three ways to fuse them.

Source: Tokuda, Pedrini and Rocha, Computer generated images vs. digital photographs: A synergetic feature and
classifier combination approach, JVCIR 24 (8), 2013. Their descriptors are of large photographs; these are chosen for
32 px.
"""

import copy
import logging
import time
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError
from lightning_cifake.networks.descriptors import DESCRIPTORS, SMALLEST_IMAGE
from lightning_cifake.networks.fitted import CLASSIFIERS, Logistic, Standardized, fit

log = logging.getLogger(__name__)

META, VOTE, ALL = "meta", "vote", "all"
_CUT = 20.0  # of the logits that the meta-classifier takes


class FeatureDetector(nn.Module):
    """(N, 3, S, S) in [0, 1] -> (N,) logits of P(REAL), of one part or of a fusion of all of them.

    A part is a classifier on one descriptor: ``lbp-lda``. The fusions: ``all-lda`` is the classifier on all descriptors
    joined, ``vote`` the majority of the parts, ``meta`` a logistic regression on the parts' logits of images that they
    were not fitted on. All of them are fitted, whichever answers.

    It is fitted and not trained: see ``collect`` in :mod:`lightning_cifake.networks.registry`. It computes in float64,
    its weights of 32 bits or more.

    Args:
        descriptors: names of :data:`descriptors.DESCRIPTORS`; all where empty.
        classifiers: names of :data:`fitted.CLASSIFIERS`.
        answer: which part or fusion gives the logits.
        folds: of the training images, for the meta-classifier: each fold's logits come from parts fitted on the others.
        seed: of the folds and of the classifiers.
        image_size: S, at least 16.

    Raises:
        UserError: an unknown name, or another argument out of its range.
    """

    def __init__(
        self,
        descriptors: list[str] | None = None,
        classifiers: list[str] | None = None,
        answer: str = META,
        folds: int = 2,
        seed: int = 0,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        self.descriptors = _known("descriptors", descriptors or list(DESCRIPTORS), DESCRIPTORS)
        self.classifiers = _known("classifiers", classifiers or ["lda", "mlp", "boosting"], CLASSIFIERS)
        if folds < 2 or seed < 0 or image_size < SMALLEST_IMAGE:
            raise UserError(
                f"expected model.network.folds of at least 2, seed of at least 0 and image_size of at least "
                f"{SMALLEST_IMAGE}, got {folds}, {seed} and {image_size}"
            )
        self.answer, self.folds, self.seed, self.image_size = answer, folds, seed, image_size
        self.describe = nn.ModuleDict({name: DESCRIPTORS[name](image_size) for name in self.descriptors})
        with torch.no_grad():
            blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.float64, device="cpu")
            sizes = {name: module(blank).shape[1] for name, module in self.describe.items()}
        self.standardize = nn.ModuleDict({name: Standardized(size) for name, size in sizes.items()})
        self.parts = nn.ModuleDict(
            {f"{name}-{kind}": CLASSIFIERS[kind](size) for name, size in sizes.items() for kind in self.classifiers}
        )
        self.joined = nn.ModuleDict(
            {f"{ALL}-{kind}": CLASSIFIERS[kind](sum(sizes.values())) for kind in self.classifiers}
        )
        self.meta = Logistic(len(self.parts))
        rows = [*self.parts, *self.joined, VOTE, META]
        if answer not in rows:
            raise UserError(f"model.network.answer: expected one of {', '.join(rows)}, got {answer}")
        self._collected: list[tuple[Tensor, Tensor]] = []

    @staticmethod
    def may_change(name: str, was: object, now: object) -> bool:
        return name == "answer"

    def forward(self, images: Tensor) -> Tensor:
        features = self._features(images)
        if self.answer in self.joined:
            logits = self.joined[self.answer](torch.cat(list(features.values()), 1))
        elif self.answer in self.parts:
            logits = self.parts[self.answer](features[self.answer.partition("-")[0]])
        else:
            logits = self._fused(self.answer, self._part_logits(features))
        return logits.to(images.dtype)

    @torch.no_grad()
    def named_logits(self, images: Tensor) -> dict[str, Tensor]:
        """(N,) logits of every part and every fusion, by name."""
        features = self._features(images)
        parts, joined = self._part_logits(features), torch.cat(list(features.values()), 1)
        named = dict(zip(self.parts, parts.unbind(1), strict=True))
        named |= {name: module(joined) for name, module in self.joined.items()}
        named |= {name: self._fused(name, parts) for name in (VOTE, META)}
        return {name: logits.to(images.dtype) for name, logits in named.items()}

    def for_export(self) -> nn.Module:
        """A copy without what the answer does not need."""
        made = copy.deepcopy(self)
        if self.answer in self.joined:
            made.parts, made.joined = nn.ModuleDict(), nn.ModuleDict({self.answer: self.joined[self.answer]})
        else:
            made.joined = nn.ModuleDict()
        if self.answer in self.parts:
            name = self.answer.partition("-")[0]
            made.parts = nn.ModuleDict({self.answer: self.parts[self.answer]})
            made.describe = nn.ModuleDict({name: self.describe[name]})
        made._collected = []
        return copy.deepcopy(made)

    def _raw(self, images: Tensor) -> dict[str, Tensor]:
        """(N, D) float64 of each descriptor."""
        if self.meta.weight.dtype in (torch.float16, torch.bfloat16):
            raise UserError("features: expected float32, got a precision of 16 bits: its descriptors need more")
        levels = images.double().clamp(0, 1) * 255
        return {name: module(levels) for name, module in self.describe.items()}

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self.standardize[name](raw) for name, raw in self._raw(images).items()}

    def _part_logits(self, features: dict[str, Tensor]) -> Tensor:
        """(N, parts) float64."""
        return torch.stack([module(features[name.partition("-")[0]]) for name, module in self.parts.items()], 1)

    def _fused(self, how: str, parts: Tensor) -> Tensor:
        if how == META:
            return self.meta(parts.clamp(-_CUT, _CUT))
        votes = (parts > 0).double().sum(1)
        return ((votes + 0.5) / (parts.shape[1] - votes + 0.5)).log()

    @torch.no_grad()
    def collect(self, images: Tensor, labels: Tensor) -> None:
        """Keeps what the descriptors say of (N, 3, S, S) images in [0, 1], with their (N,) labels."""
        features = torch.cat([each.float() for each in self._raw(images).values()], 1)
        self._collected.append((features.cpu(), labels.long().cpu()))

    @torch.no_grad()
    def fit_collected(self) -> Tensor:
        """Fits every part and fusion to what was collected, and forgets it.

        Returns:
            (N,) logits of what was collected, in that order, by the answer.

        Raises:
            UserError: too few images of a class for the folds.
        """
        collected, self._collected = self._collected, []
        raw, labels = torch.cat([features for features, _ in collected]), torch.cat([each for _, each in collected])
        if (fewest := int(torch.bincount(labels, minlength=2).min())) < self.folds:
            raise UserError(f"features: expected at least {self.folds} training images of each class, got {fewest}")
        device = self.meta.weight.device
        self.cpu()
        try:
            return self._fit(raw, labels.numpy()).to(device)
        finally:
            self.to(device)

    def _fit(self, raw: Tensor, labels: np.ndarray) -> Tensor:
        features: dict[str, Tensor] = {}
        standards = {name: cast(Standardized, module) for name, module in self.standardize.items()}
        sizes = [len(standard.mean) for standard in standards.values()]
        for (name, standard), values in zip(standards.items(), raw.split(sizes, 1), strict=True):
            standard.fit(values)
            features[name] = standard(values)
        fold = _folds(labels, self.folds, self.seed)
        held_out = torch.zeros(len(labels), len(self.parts), dtype=torch.float64)
        for at, (name, module) in enumerate(self.parts.items()):
            given, started = features[name.partition("-")[0]], time.monotonic()
            for each in range(self.folds):
                fit(module, given.numpy()[fold != each], labels[fold != each], self.seed)
                held_out[fold == each, at] = module(given[fold == each])
            fit(module, given.numpy(), labels, self.seed)
            right = ((held_out[:, at] > 0).numpy() == labels).mean()
            log.info(
                "%s: %.2f %% right of what each fold held out, %.0f s", name, 100 * right, time.monotonic() - started
            )
        fit(self.meta, held_out.clamp(-_CUT, _CUT).float().numpy(), labels, self.seed)
        joined = torch.cat(list(features.values()), 1)
        for name, module in self.joined.items():
            started = time.monotonic()
            fit(module, joined.numpy(), labels, self.seed)
            log.info("%s: fitted, %.0f s", name, time.monotonic() - started)
        if self.answer in self.joined:
            return self.joined[self.answer](joined)
        if self.answer in self.parts:
            return self.parts[self.answer](features[self.answer.partition("-")[0]])
        return self._fused(self.answer, self._part_logits(features))


def _known(argument: str, names: list[str], table: dict[str, type[nn.Module]]) -> list[str]:
    for name in names:
        if name not in table or names.count(name) > 1:
            got = ", ".join(map(str, names))
            raise UserError(f"model.network.{argument}: expected names of {', '.join(table)}, each once, got {got}")
    return list(names)


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) which fold each is in, both classes spread evenly."""
    fold, drawn = np.zeros(len(labels), np.int64), np.random.default_rng(seed)
    for label in (0, 1):
        at = drawn.permutation(np.flatnonzero(labels == label))
        fold[at] = np.arange(len(at)) % folds
    return fold
