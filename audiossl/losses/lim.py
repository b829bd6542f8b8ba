"""LIM: tell two pieces of one utterance from pieces of two, by their cosine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision, unit
from audiossl.nn.gather import gather_with_gradient, layout_of

if TYPE_CHECKING:
    from torch import Generator, Tensor


@full_precision
def lim(
    first: Tensor,
    second: Tensor,
    other: Tensor,
    *,
    bound: Literal["bce", "mine", "nce"] = "bce",
    across_processes: bool = True,
) -> Tensor:
    """Negative bound on the mutual information of two pieces (Ravanelli and Bengio, 2019), with the cosine as discriminator.

    first, second: (batch, dim), two pieces of each utterance. other: (batch, dim), a piece of another utterance for each, see
    `other_utterances`. With p = cos(first, second) and n = cos(first, other), means over the own batch:

    bce: softplus(-p) + softplus(n). mine: -p + log mean over all of e^n. nce: -(p - log(e^p + sum over all of e^n)). "All" are the
    utterances of all processes. No temperature, so that nce stays above log(1 + N e^-2).
    """
    need_same_shape("batch, dim", first=first, second=second, other=other)
    anchors = unit(first)
    positive, negative = (anchors * unit(second)).sum(dim=1), (anchors * unit(other)).sum(dim=1)
    if bound == "bce":
        return (F.softplus(-positive) + F.softplus(negative)).mean()
    layout = layout_of(negative, across_processes=across_processes)
    log_sum = gather_with_gradient(negative, layout).logsumexp(dim=0)
    if bound == "mine":
        return log_sum - math.log(layout.total) - positive.mean()
    return (torch.logaddexp(positive, log_sum) - positive).mean()


def other_utterances(embeddings: Tensor, *, generator: Generator, across_processes: bool = True) -> Tensor:
    """Return for each row that of another utterance of the global batch, uniformly drawn, never its own; with gradient.

    embeddings: (batch, dim), one row per utterance. generator: on the CPU, this process's own. ValueError if there is no other utterance.
    """
    layout = layout_of(embeddings, across_processes=across_processes)
    if layout.total < 2:
        raise ValueError(f"lim: a batch of {layout.total} utterance has no negatives; raise data.batch_seconds")
    everybody = gather_with_gradient(embeddings, layout)
    own = torch.arange(layout.start, layout.start + len(embeddings))
    step = torch.randint(1, layout.total, (len(embeddings),), generator=generator)
    return everybody[((own + step) % layout.total).to(embeddings.device)]
