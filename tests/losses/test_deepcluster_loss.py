"""DeepCluster's loss against a loop, and rows without a cluster."""

from __future__ import annotations

import numpy as np
import torch
from loss_oracles import check_gradient, check_half_precision, rows, softmax

from audiossl.losses.deepcluster import deepcluster


def test_loss_equals_a_loop_and_leaves_out_rows_without_cluster():
    scores, cluster = rows(4, 5), torch.tensor([3, -1, 0, 3])
    result = deepcluster(scores, cluster, temperature=0.2)
    oracle = [-np.log(softmax(s / 0.2)[c]) if c >= 0 else 0 for s, c in zip(scores.numpy(), cluster, strict=True)]
    np.testing.assert_allclose(result.loss, oracle, atol=1e-12)
    assert result.assigned.tolist() == [True, False, True, True]


def test_before_the_first_clustering_there_is_no_loss_and_no_gradient():
    scores = rows(4, 5).requires_grad_()
    result = deepcluster(scores, torch.full((4,), -1))
    assert result.loss.tolist() == [0] * 4
    assert not torch.autograd.grad(result.loss.sum(), scores)[0].any()


def test_gradients_and_precision():
    cluster = torch.tensor([3, -1, 0, 3])
    check_gradient(lambda s: deepcluster(s, cluster).loss, rows(4, 5))
    check_half_precision(lambda s: deepcluster(s, cluster).loss, rows(4, 5))
