"""wav2vec 2.0's diversity loss: all entries of a codebook are to be used alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._precision import full_precision
from audiossl.nn.gumbel_quantiser import perplexity

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def codebook_diversity(soft_probs: Tensor) -> Tensor:
    """(G V - sum over groups of exp H(mean p)) / (G V), from 0 to nearly 1: scalar (Baevski et al., 2020, eq. 4, the form of the published code).

    soft_probs: (frame, group, entry), the softmax of the logits without noise. The paper's text has the mean negative
    entropy; its code has this, the share of entries that are not in use.
    """
    frames, groups, entries = soft_probs.shape
    return 1 - perplexity(soft_probs.sum(dim=0) / max(frames, 1)).sum() / (groups * entries)
