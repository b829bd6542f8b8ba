"""Subsequence dynamic time warping of many queries against many documents at once: query by example without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

Distance: TypeAlias = Literal["cosine", "cosine_exp", "euclidean", "cityblock"]


def subsequence_dtw(
    queries: Sequence[Tensor],
    documents: Sequence[Tensor],
    *,
    distance: Distance = "cosine_exp",
    min_max: bool = True,
    max_cells: int = 2**23,
) -> Tensor:
    """Least mean distance of each query's frames to a stretch of each document, as SUPERB searches QUESST 2014.

    queries, documents: (frame, dim) floats on one device. Returns (query, document) in their order, low where the query is in there.
    D(i, j) = d(i, j) + min(D(i-1, j), D(i-1, j-1), D(i-1, j-2)), with D(0, j) = d(0, j), so that a path begins anywhere, has one step
    per frame of the query, and may pass a document at up to twice its speed; the cost is min_j D(I-1, j) / I. Those are the open-begin,
    open-end alignments with the asymmetric steps of Sakoe and Chiba (1978).

    distance: between two frames; `cosine_exp` is exp(1 - cos) - 1, what SUPERB takes; a frame of zeros has the cosine 0 to all.
    min_max: map the distances of each query frame to one document to [0, 1], or all to 0 where they are equal.
    max_cells: distances held at once (4 bytes each in float32), unless one query and one document have more; a GPU is faster with more.

    ValueError for empty or differing shapes, an unknown distance, and features that are not finite.
    """
    _check(queries, documents, distance)
    costs = queries[0].new_empty(len(queries), len(documents))
    room = queries[0].new_empty(0)
    # As many frames of documents as of queries: the best shape for the matrix product.
    columns = int(max_cells**0.5)
    with torch.no_grad():
        for chosen in _chunks(documents, columns):
            padded, lengths = _padded([documents[index] for index in chosen])
            keys = _prepared(padded.flatten(0, 1), distance)
            for asked in _chunks(queries, max_cells // len(keys)):
                found = _block([queries[index] for index in asked], keys, lengths, distance, room, min_max=min_max)
                costs[torch.tensor(asked)[:, None], torch.tensor(chosen)] = found
    if not costs.isfinite().all():
        query, document = (~costs.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"query {query} or document {document} holds features that are not finite; leave it out")
    return costs


def detection_scores(costs: Tensor, query_lengths: Tensor, *, min_frames: int = 5) -> Tensor:
    """Scores of QUESST 2014 as SUPERB makes them: costs with the sign changed, of mean 0 and deviation 1 over the documents of a query.

    costs: (query, document). query_lengths: (query,) frames; queries of fewer than `min_frames` score 0 everywhere.
    """
    deviation, mean = torch.std_mean(costs, dim=1, correction=0, keepdim=True)
    scores = (mean - costs) / deviation.clamp_min(1e-9)
    return scores.masked_fill((query_lengths < min_frames)[:, None], 0.0)


def _check(queries: Sequence[Tensor], documents: Sequence[Tensor], distance: str) -> None:
    if distance not in get_args(Distance):
        raise ValueError(f"distance {distance!r} is unknown; choose one of {', '.join(get_args(Distance))}")
    if not queries or not documents:
        raise ValueError(f"{len(queries)} queries and {len(documents)} documents; give at least one of each")
    dim = queries[0].shape[-1]
    for kind, items in (("query", queries), ("document", documents)):
        for index, item in enumerate(items):
            if item.ndim != 2 or not len(item) or item.shape[1] != dim or not item.is_floating_point():
                raise ValueError(
                    f"{kind} {index} is {item.dtype} of shape {tuple(item.shape)}; give floats (frame, {dim}), one frame at least"
                )


def _chunks(items: Sequence[Tensor], max_frames: int) -> Iterator[list[int]]:
    """Indices by falling length, in runs of at most `max_frames` frames when all are padded to the first; one item at least."""
    order = sorted(range(len(items)), key=lambda index: -len(items[index]))
    while order:
        size = max(1, max_frames // len(items[order[0]]))
        yield order[:size]
        order = order[size:]


def _padded(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(item, frame, dim), the last frame of each repeated, and (item,) lengths.

    Repeated frames change neither the smallest nor the largest distance of a row, and no path comes back from them.
    """
    lengths = torch.tensor([len(item) for item in items], device=items[0].device)
    frame = torch.arange(len(items[0]), device=lengths.device)
    starts = lengths.cumsum(0) - lengths
    return torch.cat(items)[starts[:, None] + torch.minimum(frame, lengths[:, None] - 1)], lengths


def _prepared(frames: Tensor, distance: str) -> Tensor:
    return F.normalize(frames, dim=-1) if distance.startswith("cosine") else frames


def _distances(frames: Tensor, keys: Tensor, distance: str, room: Tensor) -> Tensor:
    """(frame, key); of `cosine_exp`, still without its exponential. room: whose memory is used again, since fresh memory costs a tenth of the time."""
    if distance.startswith("cosine"):
        return torch.addmm(frames.new_ones(1), frames, keys.T, alpha=-1.0, out=room.resize_(0))
    # The form with a matrix product is faster, and loses half the digits where two frames are near each other.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(frames, keys, p=2.0 if distance == "euclidean" else 1.0, compute_mode=mode)


def _range(low: Tensor, high: Tensor) -> Tensor:
    """What a row is divided by: at least 1e-9, and infinity where a row is constant but for rounding, which must not be blown up."""
    span = high - low
    rounding = 16 * torch.finfo(span.dtype).eps * (1.0 + high.abs())
    return span.clamp_min(1e-9).masked_fill_(span <= rounding, torch.inf)


def _block(
    queries: list[Tensor], keys: Tensor, lengths: Tensor, distance: str, room: Tensor, *, min_max: bool
) -> Tensor:
    """(query, document) costs of queries by falling length against padded documents of `lengths`, whose frames are `keys`."""
    num_documents, width = len(lengths), len(keys) // len(lengths)
    padded, steps = _padded(queries)
    valid = torch.arange(padded.shape[1], device=steps.device) < steps[:, None]
    # All queries' first frames, then all second ones, of those that have one: each step is one slice, and none is padding.
    frames = _prepared(padded.transpose(0, 1)[valid.T], distance)
    local = _distances(frames, keys, distance, room).view(-1, num_documents, width)
    row = local.new_zeros((len(queries), num_documents, width + 2))
    row[..., :2] = torch.inf  # no path comes from in front of a document
    best = local.new_empty((len(queries), num_documents, width))
    start = 0
    for count in valid.sum(0).tolist():
        cells = local[start : start + count]
        start += count
        if distance == "cosine_exp":
            cells.expm1_()
        if min_max:
            low, high = cells.amin(-1, keepdim=True), cells.amax(-1, keepdim=True)  # faster than both at once
            cells.sub_(low).div_(_range(low, high))
        now, least = row[:count], best[:count]  # rows of queries that have ended stay as they are
        torch.minimum(now[..., 2:], now[..., 1:-1], out=least)
        torch.minimum(least, now[..., :-2], out=least)
        torch.add(least, cells, out=now[..., 2:])
    beyond = torch.arange(width, device=lengths.device) >= lengths[:, None]
    return row[..., 2:].masked_fill_(beyond, torch.inf).amin(-1) / steps[:, None]
