"""How alike two signals are in sign and size, which two losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def structural_similarity(
    estimate: Tensor, reference: Tensor, *, sharpness: float | None, smooth: float = 0.0
) -> Tensor:
    """SDSC of each signal, see `sdsc`: (...). estimate, reference: (..., t)."""
    if estimate.shape != reference.shape:
        raise ValueError(
            f"estimate of shape {tuple(estimate.shape)}, reference of shape {tuple(reference.shape)}; give (..., t) of one shape"
        )
    product = estimate * reference
    agreement = (product > 0).to(product.dtype) if sharpness is None else torch.sigmoid(sharpness * product)
    e, r = estimate.abs(), reference.abs()
    smaller = torch.lerp(r, e, torch.sigmoid((r - e) / smooth)) if smooth else torch.minimum(e, r)
    common = 2 * (agreement * smaller).sum(dim=-1)
    return common / (e + r).sum(dim=-1).clamp(min=1e-12)
