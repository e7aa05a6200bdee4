"""Classifiers of scikit-learn as modules of torch: fitted there, held as tensors, answered here.

A checkpoint then holds numbers and no pickle, and an exported graph holds them too. Each takes (N, D) float32 features
and gives (N,) float64 logits: float64, so that another order of sums decides nothing. scikit-learn is imported when one
is fitted, and not to answer.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FARTHEST = 10.0  # standard deviations: an image unlike all others must not outweigh what the rest of it says
STEPS = 1024  # in a standard deviation: the last bits, which every runtime sums otherwise, must not answer for a tree


class Standardized(nn.Module):
    """(N, D) -> (N, D) float32: less the mean, over the standard deviation, cut at ten, rounded to 1/1024.

    Trees ask whether a feature is above a threshold, which they put onto a training image's value or half-way between
    two. What is rounded is the same number in torch and in onnxruntime, and falls on the same side.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, features: Tensor) -> None:
        """Takes both from (N, D) float32; a feature that is the same throughout stays out."""
        wide = features.double()
        self.mean.copy_(wide.mean(0))
        spread = wide.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-9, spread, 1e30))

    def forward(self, features: Tensor) -> Tensor:
        standard = (features.float().double() - self.mean.double()) / self.scale.double()
        return ((standard.clamp(-FARTHEST, FARTHEST) * STEPS).round() / STEPS).float()


class Linear(nn.Module):
    """One weight a feature: what LDA, logistic regression and a linear SVM learn."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        return features.double() @ self.weight.double() + self.bias.double()

    def take(self, estimator: Any) -> None:
        """The values of a fitted estimator with ``coef_`` and ``intercept_``."""
        _copy(self.weight, estimator.coef_[0])
        _copy(self.bias, estimator.intercept_[0])


class LDA(Linear):
    """Linear discriminant analysis, its covariances shrunk as Ledoit and Wolf say."""

    def estimator(self, seed: int) -> Any:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


class Logistic(Linear):
    """Logistic regression, L2."""

    def estimator(self, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=200, random_state=seed)


class SVM(Linear):
    """A linear support vector machine; its distance to the plane stands for the logit."""

    def estimator(self, seed: int) -> Any:
        from sklearn.svm import LinearSVC

        return LinearSVC(dual=False, C=0.1, random_state=seed)


class MLP(nn.Module):
    """One hidden layer of 64, ReLU, trained with Adam for 20 epochs."""

    HIDDEN = 64

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight1, self.bias1 = nn.Parameter(torch.zeros(features, self.HIDDEN)), nn.Parameter(torch.zeros(64))
        self.weight2, self.bias2 = nn.Parameter(torch.zeros(self.HIDDEN)), nn.Parameter(torch.zeros(()))

    def estimator(self, seed: int) -> Any:
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((self.HIDDEN,), max_iter=20, alpha=1e-3, random_state=seed)

    def forward(self, features: Tensor) -> Tensor:
        hidden = (features.double() @ self.weight1.double() + self.bias1.double()).relu()
        return hidden @ self.weight2.double() + self.bias2.double()

    def take(self, estimator: Any) -> None:
        _copy(self.weight1, estimator.coefs_[0])
        _copy(self.bias1, estimator.intercepts_[0])
        _copy(self.weight2, estimator.coefs_[1][:, 0])
        _copy(self.bias2, estimator.intercepts_[1][0])


class Boosting(nn.Module):
    """150 gradient-boosted trees on histograms, of up to 31 leaves and 6 questions in a row.

    The trees lie in one table, a tree after the other. A leaf is its own successor, so that six steps end at one.
    """

    TREES, LEAVES, DEPTH = 150, 31, 6
    NODES = 2 * LEAVES - 1  # of a tree

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    roots: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        size = self.TREES * self.NODES
        self.register_buffer("feature", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(size))
        self.register_buffer("left", torch.arange(size))
        self.register_buffer("right", torch.arange(size))
        self.register_buffer("roots", torch.arange(self.TREES) * self.NODES, persistent=False)
        self.value, self.bias = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(()))

    def estimator(self, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(
            max_iter=self.TREES, max_leaf_nodes=self.LEAVES, max_depth=self.DEPTH, early_stopping=False,
            random_state=seed,
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        node = self.roots.expand(features.shape[0], -1)
        for _ in range(self.DEPTH):
            low = features.gather(1, _at(self.feature, node)) <= _at(self.threshold, node)
            node = torch.where(low, _at(self.left, node), _at(self.right, node))
        return _at(self.value.double(), node).sum(1) + self.bias.double()

    def take(self, estimator: Any) -> None:
        size = self.TREES * self.NODES
        feature, threshold, value = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size)
        left, right = np.arange(size), np.arange(size)
        for start, (tree,) in zip(range(0, size, self.NODES), estimator._predictors, strict=True):
            nodes = tree.nodes
            inner, here = nodes["is_leaf"] == 0, slice(start, start + len(nodes))
            value[here] = np.where(inner, 0, nodes["value"])
            feature[here] = np.where(inner, nodes["feature_idx"], 0)
            threshold[here] = _below(np.where(inner, nodes["num_threshold"], 0))
            left[here] = np.where(inner, start + nodes["left"], left[here])
            right[here] = np.where(inner, start + nodes["right"], right[here])
        for name, found in (("feature", feature), ("threshold", threshold), ("left", left), ("right", right)):
            _copy(getattr(self, name), found)
        _copy(self.value, value)
        _copy(self.bias, np.asarray(estimator._baseline_prediction).ravel()[0])


def _at(table: Tensor, places: Tensor) -> Tensor:
    """``table[places]``, which is exported as ten nodes."""
    return table.index_select(0, places.flatten()).view(places.shape)


def _below(values: np.ndarray) -> np.ndarray:
    """float64 -> the greatest float32 that is no greater: a float32 feature is below both or above both."""
    narrow = values.astype(np.float32)
    return np.where(narrow > values, np.nextafter(narrow, np.float32(-np.inf)), narrow)


def _copy(target: Tensor, value: Any) -> None:
    with torch.no_grad():
        target.copy_(torch.as_tensor(np.asarray(value)))


CLASSIFIERS: dict[str, type[nn.Module]] = {
    "lda": LDA,
    "logistic": Logistic,
    "svm": SVM,
    "mlp": MLP,
    "boosting": Boosting,
}
"""By the names that ``classifiers`` of ``features`` takes; each is made with the number of features."""


def fit(module: nn.Module, features: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """Fits a module of CLASSIFIERS to (N, D) float32 features and (N,) labels, 0 or 1."""
    from sklearn.exceptions import ConvergenceWarning

    estimator = module.estimator(seed)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many steps as it was given are what is asked for
        estimator.fit(features, labels)
    module.take(estimator)  # type: ignore[operator]
