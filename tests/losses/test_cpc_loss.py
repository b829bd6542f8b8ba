"""CPC against loops over steps and utterances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from loss_oracles import check_gradient, check_half_precision, nats, rows

from audiossl.losses.cpc import cpc


def test_loss_equals_loops():
    predictions, latents = rows(3, 5, 4), rows(3, 5, 4, seed=1)
    p, z = predictions.numpy(), latents.numpy()
    losses = []
    for k in range(3):
        for n in range(5):
            scores = [float(np.dot(p[k, n], z[k, m])) for m in range(5)]
            losses.append(nats(scores[n], scores[:n] + scores[n + 1 :]))
    assert cpc(predictions, latents).item() == pytest.approx(np.mean(losses), abs=1e-12)


def test_nothing_known_is_the_logarithm_of_the_batch():
    assert cpc(0 * rows(2, 8, 4), rows(2, 8, 4)).item() == pytest.approx(math.log(8), abs=1e-12)


def test_gradients_and_precision():
    check_gradient(lambda a, b: cpc(a, b, temperature=0.7), rows(2, 4, 3), rows(2, 4, 3, seed=1))
    check_half_precision(cpc, rows(2, 4, 3), rows(2, 4, 3, seed=1))


def test_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="temperature: 0 is not positive"):
        cpc(rows(2, 4, 3), rows(2, 4, 3), temperature=0)
