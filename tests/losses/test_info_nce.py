"""InfoNCE against a loop over queries and keys."""

from __future__ import annotations

import numpy as np
import pytest
from loss_oracles import check_gradient, check_half_precision, cosine, nats, rows

from audiossl.losses.info_nce import info_nce
from audiossl.losses.nt_xent import nt_xent
from audiossl.margins.additive import Additive


@pytest.mark.parametrize(("similarity", "score"), [("cosine", cosine), ("dot", np.dot)])
def test_loss_equals_a_loop(similarity, score):
    query, key = rows(2, 5, 4)
    pairs = list(zip(query.numpy(), key.numpy(), strict=True))
    oracle = [
        nats(score(q, k), [score(q, other) for j, (_, other) in enumerate(pairs) if j != i], 1 / 0.5)
        for i, (q, k) in enumerate(pairs)
    ]
    loss = info_nce(query, key, temperature=0.5, similarity=similarity)
    assert loss.item() == pytest.approx(np.mean(oracle), abs=1e-12)


def test_with_cosines_it_is_nt_xent_in_one_direction():
    query, key = rows(2, 5, 4)
    margin = Additive(Additive.Config(margin=0.2))
    ours = info_nce(query, key, temperature=0.1, margin=margin)
    assert ours == nt_xent(query, key, temperature=0.1, symmetric=False, margin=margin)
    assert ours > info_nce(query, key, temperature=0.1)


def test_gradients_and_precision():
    for similarity in ("cosine", "dot"):
        check_gradient(lambda q, k, s=similarity: info_nce(q, k, similarity=s), *rows(2, 4, 3))
        check_half_precision(lambda q, k, s=similarity: info_nce(q, k, similarity=s), *rows(2, 4, 8))


def test_margin_on_inner_products_is_refused():
    with pytest.raises(ValueError, match="needs similarity='cosine'"):
        info_nce(*rows(2, 4, 3), similarity="dot", margin=Additive(Additive.Config()))
    with pytest.raises(ValueError, match="temperature: -1 is not positive"):
        info_nce(*rows(2, 4, 3), similarity="dot", temperature=-1)
