import numpy as np
import pytest
import torch

from audiossl.losses.unit_cross_entropy import unit_cross_entropy


def oracle(logits, target, temperature):
    """Frame by frame and unit by unit."""
    losses = []
    for row, label in zip(logits, target, strict=True):
        total = sum(np.exp(value / temperature) for value in row)
        losses.append(-np.log(np.exp(row[label] / temperature) / total))
    return np.array(losses)


def make():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 5)), rng.integers(0, 5, 6)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_value_against_the_oracle(temperature):
    logits, target = make()
    result = unit_cross_entropy(torch.tensor(logits), torch.tensor(target), temperature=temperature)
    np.testing.assert_allclose(result.loss.numpy(), oracle(logits, target, temperature), rtol=0, atol=1e-8)
    assert result.prediction.tolist() == [int(row.argmax()) for row in logits]


def test_gradient_is_the_softmax_less_the_target():
    logits, target = make()
    x = torch.tensor(logits, requires_grad=True)
    unit_cross_entropy(x, torch.tensor(target), temperature=0.1).loss.sum().backward()
    for row, label, gradient in zip(logits, target, x.grad.numpy(), strict=True):
        share = np.exp(row / 0.1) / np.exp(row / 0.1).sum()
        share[label] -= 1
        np.testing.assert_allclose(gradient, share / 0.1, rtol=0, atol=1e-8)


def test_half_precision_is_widened():
    logits, target = make()
    half = torch.tensor(logits).bfloat16()
    loss = unit_cross_entropy(half, torch.tensor(target)).loss
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.numpy(), oracle(half.double().numpy(), target, 1.0), rtol=0, atol=1e-5)
