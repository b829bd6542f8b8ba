import numpy as np
import pytest
import torch

from audiossl.losses.sdsc import sdsc


def oracle(estimate, reference, alpha, smooth=0.0):
    """Sample by sample."""
    common = size = 0.0
    for e, r in zip(estimate, reference, strict=True):
        agreement = float(e * r > 0) if alpha is None else 1 / (1 + np.exp(-alpha * e * r))
        smaller = min(abs(e), abs(r))
        if smooth:
            a, b = np.exp(-abs(e) / smooth), np.exp(-abs(r) / smooth)
            smaller = (a * abs(e) + b * abs(r)) / (a + b)
        common += agreement * smaller
        size += abs(e) + abs(r)
    return 1 - 2 * common / size


def make():
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 7)), rng.standard_normal((4, 7))


@pytest.mark.parametrize("smooth", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("alpha", [None, 1.0, 10.0])
def test_value_against_the_oracle(alpha, smooth):
    estimate, reference = make()
    loss = sdsc(torch.tensor(estimate), torch.tensor(reference), sharpness=alpha, smooth=smooth)
    expected = [oracle(e, r, alpha, smooth) for e, r in zip(estimate, reference, strict=True)]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("factor", "similarity"), [(1.0, 1.0), (-1.0, 0.0), (0.5, 2 / 3), (2.0, 2 / 3), (0.0, 0.0)])
def test_published_values_of_the_metric(factor, similarity):
    reference = torch.tensor(make()[0])
    loss = sdsc(factor * reference, reference, sharpness=None)
    torch.testing.assert_close(1 - loss, torch.full((4,), similarity, dtype=torch.float64), rtol=0, atol=1e-8)


def test_a_smooth_minimum_keeps_equals_alike_and_is_between_minimum_and_mean():
    estimate, reference = (torch.tensor(values) for values in make())
    assert torch.allclose(sdsc(reference, reference, sharpness=None, smooth=0.5), torch.zeros(4, dtype=torch.float64))
    plain, smooth, mean = (sdsc(estimate, reference, sharpness=None, smooth=size) for size in (0.0, 0.5, 1e6))
    assert (mean < smooth).all()
    assert (smooth < plain).all()
    assert (mean >= 0).all()


@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_gradients_against_finite_differences(smooth):
    estimate, reference = (torch.tensor(values, requires_grad=True) for values in make())

    def loss(e, r):
        return sdsc(e, r, sharpness=3.0, smooth=smooth)

    assert torch.autograd.gradcheck(loss, (estimate, reference), atol=1e-8)


def test_wrong_signs_are_pushed_back_unless_they_are_small():
    reference = torch.tensor([1.0, -0.8, 0.7, -1.2], dtype=torch.float64)
    for size, better in ((1.0, True), (0.05, False)):
        estimate = (-size * reference).requires_grad_()
        sdsc(estimate, reference, sharpness=10.0).backward()
        assert (estimate.grad * reference.sign() < 0).all() == better  # downhill is towards the reference's sign


def test_silence_is_finite():
    zero = torch.zeros(2, 5, requires_grad=True)
    loss = sdsc(zero, torch.zeros(2, 5))
    loss.sum().backward()
    assert loss.tolist() == [1.0, 1.0]
    assert zero.grad.isfinite().all()
