"""Statistics of detection curves, averaged over classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import detection_curve

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiossl.metrics._detection import DetectionCurve


def mean_over_classes(scores: np.ndarray, labels: np.ndarray, statistic: Callable[[DetectionCurve], float]) -> float:
    """Mean of a statistic over the columns of (item, class) scores and labels, or the statistic of one column (item,).

    ValueError as in `detection_curve`; it names the column where a class has no positive or no negative item.
    """
    values, wanted = np.asarray(scores), np.asarray(labels)
    if values.ndim == 1:
        return statistic(detection_curve(values, wanted))
    if values.ndim != 2 or values.shape != wanted.shape or not values.shape[1]:
        raise ValueError(f"scores of shape {values.shape}, labels of shape {wanted.shape}; give one label per score")
    found = []
    for column in range(values.shape[1]):
        try:
            found.append(statistic(detection_curve(values[:, column], wanted[:, column])))
        except ValueError as error:
            raise ValueError(f"class {column}: {error}") from error
    return float(np.mean(found))
