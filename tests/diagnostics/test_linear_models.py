"""Support vector machine and logistic regression against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.diagnostics.linear_models import NoMinimumError, fit_linear, scores_of


def data(seed=0, count=90, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    x = rng.normal(size=(count, 6)) + 0.7 * np.eye(6)[labels] + 0.5
    return x, labels


def fitted(x, labels, head, cost, dtype=torch.float64, **more):
    classes = int(labels.max()) + 1
    return fit_linear(torch.from_numpy(x).to(dtype), torch.from_numpy(labels), classes, head, cost, **more)


@pytest.mark.parametrize("cost", [1e-3, 0.1, 10.0])
def test_svm(cost):
    from sklearn.svm import LinearSVC

    x, labels = data()
    oracle = LinearSVC(C=cost, dual=False, tol=1e-10, max_iter=100_000).fit(x, labels)
    own = fitted(x, labels, "svm", cost, tolerance=1e-9)
    np.testing.assert_allclose(own[:, :-1], oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(own[:, -1], oracle.intercept_, atol=1e-5)
    np.testing.assert_allclose(scores_of(own, torch.from_numpy(x)), oracle.decision_function(x), atol=1e-4)


@pytest.mark.parametrize("cost", [1e-2, 1.0])
def test_logistic(cost):
    from sklearn.linear_model import LogisticRegression

    x, labels = data()
    oracle = LogisticRegression(C=cost, tol=1e-10, max_iter=10_000).fit(x, labels)
    own = fitted(x, labels, "logistic", cost, tolerance=1e-9)
    shares = scores_of(own, torch.from_numpy(x)).softmax(dim=1)
    np.testing.assert_allclose(shares, oracle.predict_proba(x), atol=1e-5)
    np.testing.assert_allclose(own[:, :-1], oracle.coef_, atol=1e-4)


def uneven(classes):
    """Of all classes but class 1 every fourth item."""
    x, labels = data(count=200)
    kept = (labels < classes) & ((labels == 1) | (np.arange(200) % 4 == 0))
    return x[kept], labels[kept]


@pytest.mark.parametrize(("head", "classes"), [("svm", 3), ("svm", 2), ("logistic", 3)])
def test_classes_that_weigh_alike(head, classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    x, labels = uneven(classes)
    oracle = {"svm": LinearSVC, "logistic": LogisticRegression}[head]
    wanted = oracle(C=0.1, tol=1e-10, max_iter=100_000, class_weight="balanced").fit(x, labels).decision_function(x)
    own = fitted(x, labels, head, 0.1, class_weights="balanced", tolerance=1e-9)
    scores = scores_of(own, torch.from_numpy(x)).numpy()
    if head == "logistic":  # whose offsets are free to move together
        wanted, scores = (each - each.mean(axis=1, keepdims=True) for each in (wanted, scores))
    np.testing.assert_allclose(scores[:, 1] if classes == 2 else scores, wanted, atol=1e-3)
    assert np.abs(fitted(x, labels, head, 0.1) - own).max() > 0.01


@pytest.mark.parametrize("head", ["svm", "logistic"])
def test_float32_and_another_start_end_at_the_same(head):
    x, labels = data()
    exact = fitted(x, labels, head, 0.1)
    np.testing.assert_allclose(fitted(x, labels, head, 0.1, torch.float32), exact, atol=2e-3)
    near = fitted(x, labels, head, 0.1, start=fitted(x, labels, head, 0.01))
    np.testing.assert_allclose(near, exact, atol=2e-3)
    assert np.abs(fitted(x, labels, head, 0.01) - exact).max() > 0.02


def steepest(weights, x, labels, head, cost):
    """Largest entry of the gradient of the mean over items."""
    weights = torch.from_numpy(weights).requires_grad_()
    scores = torch.from_numpy(x).double() @ weights[:, :-1].T + weights[:, -1]
    signs = 2.0 * torch.nn.functional.one_hot(torch.from_numpy(labels), len(weights)) - 1.0
    if head == "svm":
        losses, shrunk = (1.0 - signs * scores).clamp(min=0.0).square(), weights
    else:
        losses, shrunk = -scores.log_softmax(dim=1)[signs > 0], weights[:, :-1]
    (losses.sum() / len(x) + shrunk.square().sum() / (2.0 * cost * len(x))).backward()
    return weights.grad.abs().max().item()


@pytest.mark.parametrize("head", ["svm", "logistic"])
def test_features_that_go_together_end_at_the_minimum_too(head):
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(300, 8))
    labels = (hidden[:, :4] + rng.normal(size=(300, 4))).argmax(axis=1)
    x = hidden @ rng.normal(size=(8, 64)) + 0.05 * rng.normal(size=(300, 64))
    x = (x / x.std(axis=0)).astype(np.float32)
    for cost in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        assert steepest(fitted(x, labels, head, cost, torch.float32), x, labels, head, cost) <= 1.01e-5


def test_a_search_that_rounding_ends_is_said():
    x, labels = data()
    with pytest.raises(NoMinimumError, match="cost 0.1: no minimum in"):
        fitted(1e6 * x, labels, "svm", 0.1)


def test_a_minimum_that_is_not_reached_is_said(monkeypatch):
    from audiossl.diagnostics import linear_models

    monkeypatch.setattr(linear_models, "_STEPS", 2)
    x, labels = data()
    with pytest.raises(NoMinimumError, match="cost 10: no minimum in 2 steps") as caught:
        fitted(x, labels, "svm", 10.0)
    assert caught.value.reached.shape == (3, 7)
