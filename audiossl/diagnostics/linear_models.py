"""Linear classifiers that have one best solution: support vector machine and logistic regression, on all utterances at once.

Both minimise a convex function by L-BFGS, so that nothing is drawn and nothing but the cost of errors is tuned. They equal scikit-learn's `LinearSVC` (squared
hinge loss, one class against the others, the offset shrunk like a weight) and `LogisticRegression` (softmax over classes, the offset free).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

LinearHead = Literal["svm", "logistic"]
ClassWeights = Literal["none", "balanced"]

_STEPS = 2000
_NEAR = 10.0  # times the tolerance: as much of the gradient may be left where rounding ends the search
_FINEST = 1e-8  # no tolerance is finer: float64 tells no losses apart that are nearer to a minimum


class NoMinimumError(ValueError):
    """The minimum was not reached. reached: (class, dim + 1), where the search stopped."""

    def __init__(self, message: str, reached: np.ndarray) -> None:
        super().__init__(message)
        self.reached = reached


def fit_linear(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    head: LinearHead,
    cost: float,
    *,
    class_weights: ClassWeights = "none",
    start: np.ndarray | None = None,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Return weights and offsets (class, dim + 1) that minimise |w|^2 / 2 + cost times the sum of the losses of all items.

    x: (item, dim); labels: (item,) class numbers. class_weights: `balanced` multiplies the losses of a class by items / (classes * items of the class); where
    the support vector machine holds one class against several, only those of that class. start: a solution to begin from, such as that of another cost.
    tolerance: on the gradient of the mean over items, at the largest entry. NoMinimumError where `cost` is so high that the minimum is not reached. In float64
    whatever `x` is: what float32 rounds off ends the search early, without a word.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    x, (count, dim) = x.double(), x.shape
    slope = _hinge if head == "svm" else _softmax
    scale = 1.0 / (cost * count)
    shrunk = np.ones((num_classes, dim + 1))
    shrunk[:, -1] = float(head == "svm")
    factors = _factors(labels, num_classes, head).to(x) if class_weights == "balanced" else x.new_ones(1, 1)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(num_classes, dim + 1)
        loss, gradient = slope(scores_of(weights, x), labels, factors)  # (item, class)
        by_weight = torch.cat([gradient.T @ x, gradient.sum(dim=0).unsqueeze(1)], dim=1).double().cpu().numpy() / count
        kept = shrunk * weights
        return loss / count + 0.5 * scale * float((kept * weights).sum()), (by_weight + scale * kept).ravel()

    first = np.zeros(num_classes * (dim + 1)) if start is None else start.ravel()
    found = minimize(
        value,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS, "maxfun": 2 * _STEPS, "gtol": tolerance, "ftol": 0.0},
    )
    reached = np.asarray(found.x.reshape(num_classes, dim + 1))
    if found.nit >= _STEPS or np.abs(found.jac).max() > _NEAR * max(tolerance, _FINEST):
        message = f"cost {cost:g}: no minimum in {found.nit} steps; try smaller ones, or standardised features"
        raise NoMinimumError(message, reached)
    return reached


def scores_of(weights: np.ndarray, x: Tensor) -> Tensor:
    """Score each item for each class: (item, class), higher is likelier. weights: (class, dim + 1); x: (item, dim)."""
    given = torch.from_numpy(weights).to(x)
    return x @ given[:, :-1].T + given[:, -1]


def _factors(labels: Tensor, num_classes: int, head: LinearHead) -> Tensor:
    """What losses are multiplied by so that classes weigh alike: (item, class) of the support vector machine, (item, 1) of the logistic regression."""
    counts = torch.bincount(labels, minlength=num_classes)
    weights = len(labels) / (counts.gt(0).sum() * counts.clamp(min=1))
    own = weights[labels].unsqueeze(1)
    if head == "logistic" or num_classes == 2:
        return own
    return torch.ones(len(labels), num_classes, device=labels.device).scatter_(1, labels.unsqueeze(1), own)


def _hinge(scores: Tensor, labels: Tensor, factors: Tensor) -> tuple[float, Tensor]:
    """Sum of max(0, 1 - y s)^2 over items and classes, y 1 for the item's class and -1 for others, and its gradient by the scores."""
    signs = torch.full_like(scores, -1.0).scatter_(1, labels.unsqueeze(1), 1.0)
    gaps = (1.0 - signs * scores).clamp(min=0.0)
    return float((factors * gaps.square()).double().sum()), -2.0 * factors * signs * gaps


def _softmax(scores: Tensor, labels: Tensor, factors: Tensor) -> tuple[float, Tensor]:
    """Sum of the cross entropies of all items, and its gradient by the scores."""
    logs = scores.log_softmax(dim=1)
    right = logs.gather(1, labels.unsqueeze(1))
    gradient = logs.exp().scatter_add(1, labels.unsqueeze(1), torch.full_like(right, -1.0))
    return -float((factors * right).double().sum()), factors * gradient
