"""Memory and time of wav2vec 2.0's loss and of its quantiser for one batch of 87.5 s at the size of base, beside their published forms.

Each form runs in a process of its own, forward and backward. Memory is the highest sum of live tensors that the CPU allocator saw above
what was there before: the encoder's output, its features, their gradients, and the heads' weights with theirs are not counted. The published
forms are measured on one of six utterances and multiplied by six, for the whole would not fit in many machines.

Example: python benchmarks/contrastive_loss.py
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from _machine import finish, measure_each, peak_bytes
from torch import nn
from torch.nn import functional as F

from audiossl.losses.wav2vec2_contrastive import wav2vec2_contrastive
from audiossl.nn.gumbel_quantiser import GumbelQuantiser
from audiossl.objectives._contrastive import draw_negatives

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Step = Callable[[], Tensor]

UTTERANCES, MASKED = 6, round(87.5 * 50 * 0.491 / 6)  # masks with p = 0.65, L = 10 cover 49.1 %
DIM, FEATURES, FINAL_DIM, NEGATIVES, TEMPERATURE = 768, 512, 256, 100, 0.1
GROUPS, ENTRIES = 2, 320
GOAL_MB = 50


def loss_parts(utterances: int) -> tuple[list[Tensor], Tensor, nn.Linear]:
    """Context and targets with gradients, negatives, and the projection of the context."""
    frames = utterances * MASKED
    leaves = [torch.randn(frames, DIM, requires_grad=True), torch.randn(frames, FINAL_DIM, requires_grad=True)]
    negatives = draw_negatives(np.full(utterances, MASKED), NEGATIVES, np.random.default_rng(0))
    projection = nn.Linear(DIM, FINAL_DIM)
    return [*leaves, *projection.parameters()], torch.from_numpy(negatives), projection


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
    places = (negatives + MASKED * torch.arange(utterances).view(-1, 1, 1)).flatten(0, 1)

    def step() -> Tensor:
        targets = leaves[1]
        chosen = targets[places]  # (frame, negative, dim)
        same = (targets.unsqueeze(1) == chosen).all(-1)
        candidates = torch.cat([targets.unsqueeze(1), chosen], dim=1)
        logits = torch.cosine_similarity(projection(leaves[0]).unsqueeze(1), candidates, dim=-1) / TEMPERATURE
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(same, -torch.inf)], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")

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
    "loss: Gram matrices": (gram, 1),
    "loss: copied negatives": (copies, UTTERANCES),
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
    frames = UTTERANCES * MASKED
    return {
        "mb": parts * peak_bytes(profile) / 1e6,
        "ms": 1e3 * parts * min(times),
        "loss": parts * value / frames,
    }


def main() -> None:
    """Print a line per form."""
    results, check = measure_each(FORMS, measure, description=__doc__)
    print(f"{'form':<32} {'peak MB':>9} {'ratio':>6} {'ms':>7} {'ratio':>6}  per frame")
    ours = {name.split(":")[0]: result for name, result in reversed(results.items())}  # the first form of each part
    for name, result in results.items():
        mine = ours[name.split(":")[0]]
        print(
            f"{name:<32} {result['mb']:9.1f} {result['mb'] / mine['mb']:6.1f} {result['ms']:7.0f} "
            f"{result['ms'] / mine['ms']:6.1f}  {result['loss']:.4f}"
        )
    goals = {f"{part}: {mine['mb']:.1f} of at most {GOAL_MB} MB": mine["mb"] <= GOAL_MB for part, mine in ours.items()}
    finish(goals, check=check)


if __name__ == "__main__":
    main()
