import numpy as np
import pytest

from audiossl.metrics.threshold_f1 import threshold_f1


def by_hand(scores, labels, threshold):
    said = [score >= threshold for score in scores]
    hits = sum(s and w for s, w in zip(said, labels, strict=True))
    precision, recall = hits / max(sum(said), 1), hits / sum(labels)
    return 100 * 2 * precision * recall / (precision + recall) if hits else 0.0


def test_every_threshold():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40).round(1), rng.random(40) < 0.3
    thresholds = [*np.unique(scores), scores.max() + 1, scores.min() - 1, 0.05]
    for threshold in thresholds:
        assert threshold_f1(scores, labels, threshold) == pytest.approx(by_hand(scores, labels, threshold))
    assert threshold_f1(scores, labels) == pytest.approx(max(by_hand(scores, labels, t) for t in thresholds))


def test_perfect_and_one_sided():
    assert threshold_f1(np.array([0.1, 0.9]), np.array([0, 1])) == 100.0
    with pytest.raises(ValueError, match="target"):
        threshold_f1(np.array([0.1, 0.9]), np.array([0, 0]))
