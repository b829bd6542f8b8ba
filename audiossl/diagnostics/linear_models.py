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

_STEPS = 2000


def fit_linear(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    head: LinearHead,
    cost: float,
    *,
    start: np.ndarray | None = None,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Return weights and offsets (class, dim + 1) that minimise |w|^2 / 2 + cost times the sum of the losses of all items.

    x: (item, dim); labels: (item,) class numbers. start: a solution to begin from, such as that of another cost. tolerance: on the gradient of the
    mean over items, at the largest entry. ValueError where `cost` is so high that the minimum is not reached.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    count, dim = x.shape
    slope = _hinge if head == "svm" else _softmax
    scale = 1.0 / (cost * count)
    shrunk = np.ones((num_classes, dim + 1))
    shrunk[:, -1] = float(head == "svm")

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(num_classes, dim + 1)
        loss, gradient = slope(scores_of(weights, x), labels)  # (item, class)
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
    if found.nit >= _STEPS:
        raise ValueError(f"cost {cost:g}: no minimum in {_STEPS} steps; try smaller ones, or standardised features")
    return np.asarray(found.x.reshape(num_classes, dim + 1))


def scores_of(weights: np.ndarray, x: Tensor) -> Tensor:
    """Score each item for each class: (item, class), higher is likelier. weights: (class, dim + 1); x: (item, dim)."""
    given = torch.from_numpy(weights).to(x)
    return x @ given[:, :-1].T + given[:, -1]


def _hinge(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Sum of max(0, 1 - y s)^2 over items and classes, y 1 for the item's class and -1 for others, and its gradient by the scores."""
    signs = torch.full_like(scores, -1.0).scatter_(1, labels.unsqueeze(1), 1.0)
    gaps = (1.0 - signs * scores).clamp(min=0.0)
    return float(gaps.double().square().sum()), -2.0 * signs * gaps


def _softmax(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Sum of the cross entropies of all items, and its gradient by the scores."""
    logs = scores.log_softmax(dim=1)
    right = logs.gather(1, labels.unsqueeze(1))
    return -float(right.double().sum()), logs.exp().scatter_add(1, labels.unsqueeze(1), torch.full_like(right, -1.0))
