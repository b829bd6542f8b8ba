"""NT-Xent: each view of an utterance picks the other views of it among those of all utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from audiossl.losses._checks import need_same_shape
from audiossl.losses._contrast import contrast
from audiossl.losses._precision import full_precision
from audiossl.nn.gather import gather_with_gradient, layout_of

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin


@full_precision
def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 0.03,
    symmetric: bool = True,
    margin: Margin | None = None,
    across_processes: bool = True,
) -> Tensor:
    """Mean over anchors of -log softmax of the positive's cosine / temperature (Chen et al., 2020, eq. 1; Lepage and Dehak, 2023).

    first, second: (batch, dim), two views of each utterance, not normalised. symmetric: all 2 N own views are anchors, and both views of the
    N W - 1 other utterances of all W processes are negatives; an anchor is no candidate of itself. Otherwise the first views are anchors and
    the second ones candidates. margin: applied to the positives (`audiossl/margins/`). across_processes: False compares this process's
    utterances only, and no other process is waited for. Nats, a mean over the own anchors: weight it by the batch.
    """
    need_same_shape("batch, dim", first=first, second=second)
    if symmetric:
        views = torch.stack([first, second])
        return _all_views(views, temperature=temperature, margin=margin, across_processes=across_processes)
    return _against(
        first.unsqueeze(0),
        second.unsqueeze(0),
        temperature=temperature,
        margin=margin,
        positives="mean",
        across_processes=across_processes,
    )


@full_precision
def nt_xent_all_views(
    views: Tensor, *, temperature: float = 0.03, margin: Margin | None = None, across_processes: bool = True
) -> Tensor:
    """Symmetric NT-Xent of any number of views: each is an anchor, the other views of its utterance are its positives.

    views: (view, batch, dim). The mean over anchors of the mean over positives, with all positives in the denominator: `sup_con` with the
    utterance as the label. With two views it is `nt_xent`.
    """
    need_same_shape("view, batch, dim", views=views)
    if len(views) < 2:
        raise ValueError(f"{len(views)} view has no other to find; give two views or more")
    return _all_views(views, temperature=temperature, margin=margin, across_processes=across_processes)


@full_precision
def nt_xent_multi_view(
    local_views: Tensor,
    global_views: Tensor,
    *,
    temperature: float = 0.03,
    positives: Literal["mean", "sum"] = "mean",
    margin: Margin | None = None,
    across_processes: bool = True,
) -> Tensor:
    """NT-Xent of short views against long ones: every global view of the anchor's utterance is a positive.

    local_views: (view, batch, dim), the anchors. global_views: (view, batch, dim), the candidates, those of all processes. All positives
    stay in the denominator. positives: the `mean` of their negative log-probabilities (Khosla et al., 2020, eq. 2), or their `sum`, what
    cross-entropy with a target of several ones computes. Margins apply to all positives.
    """
    need_same_shape("view, batch, dim", free_first=True, local_views=local_views, global_views=global_views)
    return _against(
        local_views,
        global_views,
        temperature=temperature,
        margin=margin,
        positives=positives,
        across_processes=across_processes,
    )


def _all_views(views: Tensor, *, temperature: float, margin: Margin | None, across_processes: bool) -> Tensor:
    layout = layout_of(views, dim=1, across_processes=across_processes)
    candidates = gather_with_gradient(views, layout, dim=1)
    own_id, own_view = _names(views, layout.start)
    any_id, any_view = _names(candidates, 0)
    same_utterance = own_id.unsqueeze(1) == any_id  # (anchor, candidate)
    same_view = own_view.unsqueeze(1) == any_view
    loss = contrast(
        views.flatten(0, 1),
        candidates.flatten(0, 1),
        same_utterance & ~same_view,
        excluded=same_utterance & same_view,
        temperature=temperature,
        margin=margin,
    )
    return loss.mean()


def _against(
    anchors: Tensor,
    candidates: Tensor,
    *,
    temperature: float,
    margin: Margin | None,
    positives: Literal["mean", "sum"],
    across_processes: bool,
) -> Tensor:
    layout = layout_of(candidates, dim=1, across_processes=across_processes)
    candidates = gather_with_gradient(candidates, layout, dim=1)
    positive = _names(anchors, layout.start)[0].unsqueeze(1) == _names(candidates, 0)[0]
    loss = contrast(
        anchors.flatten(0, 1),
        candidates.flatten(0, 1),
        positive,
        temperature=temperature,
        margin=margin,
        form=positives,
    )
    return loss.mean()


def _names(views: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Number of the utterance in the global batch, and of the view, of each of the (view x batch) rows."""
    num_views, batch = views.shape[:2]
    utterance = torch.arange(start, start + batch, device=views.device).repeat(num_views)
    return utterance, torch.arange(num_views, device=views.device).repeat_interleave(batch)
