"""CPC: the context picks the latent of each of the next steps among those of all utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from audiossl.losses._checks import need_positive, need_same_shape
from audiossl.losses._precision import full_precision
from audiossl.nn.gather import gather_with_gradient, layout_of

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def cpc(predictions: Tensor, latents: Tensor, *, temperature: float = 1.0, across_processes: bool = True) -> Tensor:
    """Mean over steps and batch of -log softmax of the inner product / temperature (van den Oord et al., 2018, eq. 3 and 4).

    predictions: (step, batch, dim), W_k c_t for each step k ahead. latents: (step, batch, dim), what came there. The latents of the same
    step in the utterances of all processes are candidates, one of them the positive. Inner products as they are. Nats.
    """
    need_same_shape("step, batch, dim", predictions=predictions, latents=latents)
    need_positive(temperature=temperature)
    layout = layout_of(latents, dim=1, across_processes=across_processes)
    candidates = gather_with_gradient(latents, layout, dim=1)
    logits = torch.einsum("knd,kmd->knm", predictions, candidates) / temperature
    steps, batch = predictions.shape[:2]
    own = torch.arange(layout.start, layout.start + batch, device=logits.device).repeat(steps)
    return F.cross_entropy(logits.flatten(0, 1), own)
