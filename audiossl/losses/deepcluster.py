"""DeepCluster-v2: predict the cluster that an utterance had in the last clustering."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.nn import functional as F

from audiossl.losses._checks import need_positive
from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class DeepClusterLoss(NamedTuple):
    """loss: (row,) in nats, 0 where there is no cluster. assigned: (row,) bool, whether there is one."""

    loss: Tensor
    assigned: Tensor


@full_precision
def deepcluster(scores: Tensor, cluster: Tensor, *, temperature: float = 0.1) -> DeepClusterLoss:
    """Cross-entropy of softmax(scores / temperature) with the cluster (Caron et al., 2020, appendix on DeepCluster-v2).

    scores: (row, prototype), inner products of unit rows with unit prototypes. cluster: (row,) int64, -1 where none is known, as
    before the first clustering: such a row gives loss 0 and no gradient. Sum over rows, divide by those assigned.
    """
    need_positive(temperature=temperature)
    loss = F.cross_entropy(scores / temperature, cluster, ignore_index=-1, reduction="none")
    return DeepClusterLoss(loss, cluster != -1)
