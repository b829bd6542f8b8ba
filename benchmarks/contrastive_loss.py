"""Memory and time of the contrastive losses of masked frames and of the quantiser for one batch of 87.5 s at the size of base, beside their published forms.

HuBERT's loss, wav2vec 2.0's, ccc-wav2vec 2.0's three terms, continuous BERT's, and UniSpeech-SAT's of utterances. Each form runs in a process of its own,
forward and backward. Memory is the highest sum of live tensors that the CPU allocator saw above what was there before: the encoder's output, its features,
their gradients, and the heads' weights with theirs are not counted. The published forms copy every negative (HuBERT's: every codeword); they are measured on
one of six utterances and multiplied by six, for the whole would not fit in many machines.

Example: python benchmarks/contrastive_loss.py
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from _machine import finish, measure_each, peak_bytes
from torch import nn
from torch.nn import functional as F

from audiossl.losses.clamped_contrastive import clamped_contrastive
from audiossl.losses.cluster_contrastive import cluster_contrastive
from audiossl.losses.codeword_cross_entropy import codeword_cross_entropy
from audiossl.losses.utterance_contrastive import utterance_contrastive
from audiossl.losses.wav2vec2_contrastive import wav2vec2_contrastive
from audiossl.nn.gumbel_quantiser import GumbelQuantiser
from audiossl.objectives._contrastive import draw_negatives

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Step = Callable[[], Tensor]

UTTERANCES, FRAMES = 6, 87.5 * 50
# Frames of an utterance that are masked: p = 0.65 at L = 10 covers 49.1 %, continuous BERT's 0.5 with lengths of deviation 10 41.7 %, 0.8 covers 56.7 %.
MASKED, CONTINUOUS_MASKED, UNITS_MASKED = (round(FRAMES * share / UTTERANCES) for share in (0.491, 0.417, 0.567))
DIM, FEATURES, FINAL_DIM, NEGATIVES, TEMPERATURE, CLAMP = 768, 512, 256, 100, 0.1, 20.0
GROUPS, ENTRIES, CODES = 2, 320, 504
GOAL_MB = 50


def loss_parts(utterances: int, masked: int = MASKED) -> tuple[list[Tensor], Tensor, nn.Linear]:
    """Context and targets with gradients, negatives, and the projection of the context."""
    frames = utterances * masked
    leaves = [torch.randn(frames, DIM, requires_grad=True), torch.randn(frames, FINAL_DIM, requires_grad=True)]
    negatives = draw_negatives(np.full(utterances, masked), NEGATIVES, np.random.default_rng(0))
    projection = nn.Linear(DIM, FINAL_DIM)
    return [*leaves, *projection.parameters()], torch.from_numpy(negatives), projection


def places_of(negatives: Tensor) -> Tensor:
    """Negatives as rows of the batch, (frame, negative), where every slot is a masked frame."""
    return (negatives + negatives.shape[1] * torch.arange(len(negatives)).view(-1, 1, 1)).flatten(0, 1)


def gram(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: one matrix of cosines per utterance, out of which negatives are gathered."""
    leaves, negatives, projection = loss_parts(utterances)
    slots = torch.arange(len(leaves[0]))
    codes = torch.randint(ENTRIES**GROUPS, (len(slots),))

    def step() -> Tensor:
        context = projection(leaves[0])
        return wav2vec2_contrastive(
            context, leaves[1], negatives, slots, identity=codes, temperature=TEMPERATURE
        ).loss.sum()

    return step, leaves


def copies(utterances: int) -> tuple[Step, list[Tensor]]:
    """Published: every negative copied beside its frame, compared value by value, and cosines of it all."""
    leaves, negatives, projection = loss_parts(utterances)
    places = places_of(negatives)
    return lambda: copied_loss(projection(leaves[0]), leaves[1], places), leaves


def copied_loss(context: Tensor, targets: Tensor, places: Tensor, akin: Tensor | None = None) -> Tensor:
    """wav2vec 2.0's loss as published, a sum. akin: (frame, negative) bool, negatives whose logits are scaled as ccc-wav2vec 2.0's."""
    chosen = targets[places]  # (frame, negative, dim)
    same = (targets.unsqueeze(1) == chosen).all(-1)
    candidates = torch.cat([targets.unsqueeze(1), chosen], dim=1)
    logits = torch.cosine_similarity(context.unsqueeze(1), candidates, dim=-1) / TEMPERATURE
    negative = logits[:, 1:] if akin is None else torch.where(akin, 0.3 * logits[:, 1:], logits[:, 1:])
    logits = torch.cat([logits[:, :1], negative.masked_fill(same, -torch.inf)], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")


def cross_parts(utterances: int) -> tuple[list[Tensor], list[tuple[int, int]], Tensor, nn.Linear, Tensor]:
    """Contexts and targets of two views, which of them are compared, negatives, projection of contexts, clusters of targets."""
    leaves, negatives, projection = loss_parts(utterances)
    other, _, _ = loss_parts(utterances)
    clusters = torch.randint(max(2, MASKED // 16), (len(leaves[0]),))
    return [*leaves[:2], *other[:2], *leaves[2:]], [(0, 1), (0, 3), (2, 1)], negatives, projection, clusters


def cross(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: three terms of one Gram matrix per utterance each."""
    leaves, terms, negatives, projection, clusters = cross_parts(utterances)
    slots = torch.arange(len(leaves[0]))

    def step() -> Tensor:
        heads = {view: projection(leaves[view]) for view in (0, 2)}
        losses = [
            cluster_contrastive(
                heads[view], leaves[target], negatives, slots, clusters=clusters, temperature=TEMPERATURE
            ).loss.sum()
            for view, target in terms
        ]
        return torch.stack(losses).sum()

    return step, leaves


def cross_copies(utterances: int) -> tuple[Step, list[Tensor]]:
    """Published: copies of the negatives for each of the three terms."""
    leaves, terms, negatives, projection, clusters = cross_parts(utterances)
    places = places_of(negatives)
    akin = clusters[places] == clusters.unsqueeze(1)

    def step() -> Tensor:
        heads = {view: projection(leaves[view]) for view in (0, 2)}
        return torch.stack([copied_loss(heads[view], leaves[target], places, akin) for view, target in terms]).sum()

    return step, leaves


def clamped(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: one matrix of products per utterance."""
    leaves, negatives, projection = loss_parts(utterances, CONTINUOUS_MASKED)
    slots = torch.arange(len(leaves[0]))

    def step() -> Tensor:
        return clamped_contrastive(projection(leaves[0]), leaves[1], negatives, slots, clamp=CLAMP).loss.sum()

    return step, leaves


def clamped_copies(utterances: int) -> tuple[Step, list[Tensor]]:
    """The same with copied negatives."""
    leaves, negatives, projection = loss_parts(utterances, CONTINUOUS_MASKED)
    places = places_of(negatives)

    def step() -> Tensor:
        targets = leaves[1]
        candidates = torch.cat([targets.unsqueeze(1), targets[places]], dim=1)
        scores = (projection(leaves[0]).unsqueeze(1) * candidates).sum(-1) / FINAL_DIM**0.5
        return F.cross_entropy(
            CLAMP * torch.tanh(scores / CLAMP), torch.zeros(len(scores), dtype=torch.long), reduction="sum"
        )

    return step, leaves


def utterance_parts(utterances: int) -> tuple[list[Tensor], Tensor, Tensor, nn.Linear]:
    """Anchors and targets with gradients, the utterance of each frame, candidates of the whole batch, and the projection of the anchors."""
    leaves, _, projection = loss_parts(utterances, UNITS_MASKED)
    frames = len(leaves[0])
    return leaves, torch.arange(frames) // UNITS_MASKED, torch.randint(frames, (frames, NEGATIVES)), projection


def blocks(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: blocks of rows of the matrix of all cosines, out of which candidates are gathered."""
    leaves, utterance, candidates, projection = utterance_parts(utterances)

    def step() -> Tensor:
        return utterance_contrastive(projection(leaves[0]), leaves[1], utterance, candidates).loss.sum()

    return step, leaves


def utterance_copies(utterances: int) -> tuple[Step, list[Tensor]]:
    """Published: every candidate copied beside its frame."""
    leaves, utterance, candidates, projection = utterance_parts(utterances)
    pairs = torch.cat([torch.arange(len(candidates)).unsqueeze(1), candidates], dim=1)
    same = (utterance[pairs] == utterance.unsqueeze(1)).float()

    def step() -> Tensor:
        logits = torch.cosine_similarity(projection(leaves[0]).unsqueeze(1), leaves[1][pairs], dim=-1) / TEMPERATURE
        return F.binary_cross_entropy_with_logits(logits, same, reduction="none").mean(dim=1).sum()

    return step, leaves


def codeword_parts(utterances: int, frames: int) -> tuple[list[Tensor], Tensor, nn.Linear]:
    """Frames and codewords with gradients, the codeword of each frame, and the projection of the frames."""
    projection = nn.Linear(DIM, FINAL_DIM)
    leaves = [
        torch.randn(utterances * frames, DIM, requires_grad=True),
        torch.rand(CODES, FINAL_DIM, requires_grad=True),
    ]
    return [*leaves, *projection.parameters()], torch.randint(CODES, (len(leaves[0]),)), projection


def matrix(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: masked frames only, one product of normalised matrices."""
    leaves, target, projection = codeword_parts(utterances, UNITS_MASKED)

    def step() -> Tensor:
        return codeword_cross_entropy(projection(leaves[0]), leaves[1], target, temperature=TEMPERATURE).loss.sum()

    return step, leaves


def codeword_copies(utterances: int, frames: int) -> tuple[Step, list[Tensor]]:
    """Published: the positive on top of all codewords, repeated for every frame."""
    leaves, target, projection = codeword_parts(utterances, frames)
    double = torch.arange(CODES).unsqueeze(1) == target

    def step() -> Tensor:
        context, codewords = projection(leaves[0]), leaves[1]
        candidates = torch.cat([codewords[target].unsqueeze(0), codewords.unsqueeze(1).expand(-1, len(target), -1)])
        logits = torch.cosine_similarity(context, candidates, dim=-1) / TEMPERATURE
        logits = torch.cat([logits[:1], logits[1:].masked_fill(double, -torch.inf)]).T
        return F.cross_entropy(logits, torch.zeros(len(target), dtype=torch.long), reduction="sum")

    return step, leaves


def quantiser_parts(utterances: int) -> tuple[list[Tensor], GumbelQuantiser]:
    """Features with gradients, and the quantiser."""
    quantiser = GumbelQuantiser(FEATURES, groups=GROUPS, entries=ENTRIES, code_dim=FINAL_DIM)
    return [torch.randn(utterances * MASKED, FEATURES, requires_grad=True), *quantiser.parameters()], quantiser


def look_up(utterances: int) -> tuple[Step, list[Tensor]]:
    """Ours: a look-up, and a matrix product for the gradient."""
    leaves, quantiser = quantiser_parts(utterances)
    return lambda: quantiser(leaves[0], 2.0).q.square().sum(), leaves


def broadcast(utterances: int) -> tuple[Step, list[Tensor]]:
    """Published: one-hot vectors times codebook, entry by entry, then the sum."""
    leaves, quantiser = quantiser_parts(utterances)

    def step() -> Tensor:
        logits = quantiser.logits(leaves[0]).unflatten(-1, (GROUPS, ENTRIES))
        chosen = F.gumbel_softmax(logits, tau=2.0, hard=True).unsqueeze(-1)
        return (chosen * quantiser.codebook).sum(2).flatten(1).square().sum()

    return step, leaves


FORMS: dict[str, tuple[Callable[[int], tuple[Step, list[Tensor]]], int]] = {
    "HuBERT: matrix, masked frames": (matrix, 1),
    "HuBERT: broadcast, masked frames": (partial(codeword_copies, frames=UNITS_MASKED), UTTERANCES),
    "HuBERT: broadcast, all frames": (partial(codeword_copies, frames=round(FRAMES / UTTERANCES)), UTTERANCES),
    "wav2vec 2.0: Gram matrices": (gram, 1),
    "wav2vec 2.0: copied negatives": (copies, UTTERANCES),
    "ccc-wav2vec 2.0: Gram matrices": (cross, 1),
    "ccc-wav2vec 2.0: copied negatives": (cross_copies, UTTERANCES),
    "continuous BERT: Gram matrices": (clamped, 1),
    "continuous BERT: copied negatives": (clamped_copies, UTTERANCES),
    "UniSpeech-SAT: blocks of rows": (blocks, 1),
    "UniSpeech-SAT: copied candidates": (utterance_copies, UTTERANCES),
    "quantiser: look-up": (look_up, 1),
    "quantiser: broadcast product": (broadcast, UTTERANCES),
}


def measure(name: str) -> dict[str, float]:
    """Peak of live memory in MB and the best of three times in ms of one form, forward and backward."""
    form, parts = FORMS[name]
    torch.manual_seed(0)
    step, leaves = form(UTTERANCES // parts)
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)

    def both() -> float:
        loss = step()
        loss.backward()
        return loss.item()

    times = []
    for _ in range(3):
        started = time.perf_counter()
        value = both()
        times.append(time.perf_counter() - started)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        both()
    return {
        "mb": parts * peak_bytes(profile) / 1e6,
        "ms": 1e3 * parts * min(times),
        "loss": value / len(leaves[0]),
    }


def main() -> None:
    """Print a line per form."""
    results, check = measure_each(FORMS, measure, description=__doc__)
    print(f"{'form':<34} {'peak MB':>9} {'ratio':>6} {'ms':>7} {'ratio':>6}  per frame")
    ours = {name.split(":")[0]: result for name, result in reversed(results.items())}  # the first form of each part
    for name, result in results.items():
        mine = ours[name.split(":")[0]]
        print(
            f"{name:<34} {result['mb']:9.1f} {result['mb'] / mine['mb']:6.1f} {result['ms']:7.0f} "
            f"{result['ms'] / mine['ms']:6.1f}  {result['loss']:.4f}"
        )
    goals = {f"{part}: {mine['mb']:.1f} of at most {GOAL_MB} MB": mine["mb"] <= GOAL_MB for part, mine in ours.items()}
    finish(goals, check=check)


if __name__ == "__main__":
    main()
