"""AUC, average precision, unweighted average recall and maximum term-weighted value against scikit-learn and loops."""

import numpy as np
import pytest

from audiossl import registry
from audiossl.metrics.area_under_curve import area_under_curve
from audiossl.metrics.average_precision import average_precision
from audiossl.metrics.maximum_term_weighted_value import maximum_term_weighted_value
from audiossl.metrics.unweighted_average_recall import unweighted_average_recall


@pytest.fixture(params=[(0, None), (1, 0), (2, 1)])
def items(request):
    """Scores of three classes, with ties in some cases, and labels."""
    seed, decimals = request.param
    rng = np.random.default_rng(seed)
    labels = rng.random((80, 3)) < (0.1, 0.4, 0.7)
    scores = rng.standard_normal(labels.shape) + labels
    return (scores if decimals is None else scores.round(decimals)), labels


def slow_auc(scores, labels):
    pairs = [(a, b) for a in scores[labels] for b in scores[~labels]]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def slow_average_precision(scores, labels):
    return np.mean([labels[scores >= score].mean() for score in scores[labels]])


def test_equal_the_loops(items):
    scores, labels = items
    classes = range(labels.shape[1])
    for metric, slow in ((area_under_curve, slow_auc), (average_precision, slow_average_precision)):
        wanted = [slow(scores[:, k], labels[:, k]) for k in classes]
        assert [metric(scores[:, k], labels[:, k]) for k in classes] == pytest.approx(wanted, rel=1e-12)
        assert metric(scores, labels) == pytest.approx(np.mean(wanted), rel=1e-12)


def test_equal_scikit_learn(items):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = items
    assert area_under_curve(scores, labels) == pytest.approx(sklearn.roc_auc_score(labels, scores), rel=1e-12)
    assert average_precision(scores, labels) == pytest.approx(
        sklearn.average_precision_score(labels, scores), rel=1e-12
    )
    wanted, found = labels @ [1, 2, 4], scores.argmax(1)
    shared = np.where(np.isin(found, wanted), found, wanted[0])  # scikit-learn warns of classes without a reference
    assert unweighted_average_recall(shared, wanted) == pytest.approx(
        100 * sklearn.balanced_accuracy_score(wanted, shared), rel=1e-12
    )


def test_recall_by_hand():
    assert unweighted_average_recall(["a", "a", "c", "b"], ["a", "a", "a", "b"]) == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert unweighted_average_recall(np.zeros(10), np.arange(10) == 0) == 50


def slow_mtwv(scores, labels, queries, beta):
    values = [0.0]
    for threshold in set(scores.tolist()):
        rows = []
        for query in set(queries.tolist()):
            mine = queries == query
            if not (labels & mine).any():
                continue
            missed = np.mean(scores[mine & labels] < threshold)
            invented = np.mean(scores[mine & ~labels] >= threshold) if (mine & ~labels).any() else 0.0
            rows.append(missed + beta * invented)
        values.append(1 - np.mean(rows))
    return max(values)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("p", [0.0008, 0.3])
def test_mtwv_equals_the_loops(decimals, p):
    rng = np.random.default_rng(3)
    queries = rng.permutation(np.repeat(np.arange(9), 30))
    labels = (rng.random(270) < 0.15) & (queries != 4)  # one query is nowhere
    labels[queries == 7] = True  # one is everywhere
    scores = rng.standard_normal(270) + 3 * labels
    scores = scores if decimals is None else scores.round(decimals)
    arguments = {"p_target": p, "c_miss": 100, "c_fa": 1}
    wanted = slow_mtwv(scores, labels, queries, (1 / p - 1) / 100)
    assert 0 < wanted < 1
    assert maximum_term_weighted_value(scores, labels, queries, **arguments) == pytest.approx(wanted, rel=1e-9)
    names = np.array([f"q{query}" for query in queries])
    assert maximum_term_weighted_value(scores, labels, names, **arguments) == pytest.approx(wanted, rel=1e-9)


def test_mtwv_by_hand():
    labels, queries = np.array([1, 0, 0, 1, 0]), np.array([0, 0, 0, 1, 1])
    assert maximum_term_weighted_value(np.array([3, 1, 1, 3, 1]), labels, queries) == 1
    assert maximum_term_weighted_value(np.array([1, 3, 3, 1, 3]), labels, queries) == 0
    # One false alarm of two documents costs 12.49 / 2 of one query's share; the other query's target comes first.
    assert maximum_term_weighted_value(np.array([1, 2, 0, 3, 0]), labels, queries) == pytest.approx(0.5)
    cheap = maximum_term_weighted_value(np.array([1, 2, 0, 3, 0]), labels, queries, p_target=0.5, c_miss=1)
    assert cheap == pytest.approx(0.75)


def test_errors_say_what_to_do():
    scores, labels = np.arange(4.0), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="class 1: 0 target"):
        area_under_curve(np.zeros((4, 2)), np.stack([labels, 0 * labels], axis=1))
    with pytest.raises(ValueError, match="one label per score"):
        average_precision(np.zeros((4, 2)), labels)
    with pytest.raises(ValueError, match="one per trial"):
        maximum_term_weighted_value(scores, labels, np.zeros(3))
    with pytest.raises(ValueError, match="no prior"):
        maximum_term_weighted_value(scores, labels, np.zeros(4), p_target=0)
    with pytest.raises(ValueError, match="one at least"):
        unweighted_average_recall([], [])
    with pytest.raises(ValueError, match="one for each"):
        unweighted_average_recall([1], [1, 2])
    for metric in (area_under_curve, average_precision, maximum_term_weighted_value, unweighted_average_recall):
        assert registry.get("metrics", metric.__name__) is metric
