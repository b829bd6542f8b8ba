"""Memory and time of HuBERT's loss for one batch of 87.5 s at the size of base, beside the published broadcast form.

Each form runs in a process of its own, forward and backward. Memory is the highest sum of live tensors that the CPU allocator saw above
what was there before the loss: the encoder's output, its gradient, and the head's weights with theirs are not counted. The broadcast form
is measured on a tenth of the frames and multiplied by ten, for the whole would not fit in many machines.

Example: python benchmarks/hubert_loss.py
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from _machine import finish, measure_each, peak_bytes
from torch import nn
from torch.nn import functional as F

from audiossl.losses.codeword_cross_entropy import codeword_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FRAMES, MASKED_SHARE = int(87.5 * 50), 0.567  # of masks with p = 0.8, L = 10
DIM, FINAL_DIM, CODES, TEMPERATURE = 768, 256, 504, 0.1
GOAL_MB = 50


def matrix(frames: Tensor, projection: nn.Linear, codewords: Tensor, target: Tensor) -> Tensor:
    """Ours: masked frames only, one product of normalised matrices."""
    return codeword_cross_entropy(projection(frames), codewords, target, temperature=TEMPERATURE).loss.sum()


def broadcast(frames: Tensor, projection: nn.Linear, codewords: Tensor, target: Tensor) -> Tensor:
    """Published: the positive on top of all codewords, repeated for every frame."""
    context = projection(frames)
    positive = codewords[target]
    candidates = torch.cat([positive.unsqueeze(0), codewords.unsqueeze(1).expand(-1, len(target), -1)])
    logits = torch.cosine_similarity(context, candidates, dim=-1) / TEMPERATURE
    double = torch.arange(CODES).unsqueeze(1) == target
    logits = torch.cat([logits[:1], logits[1:].masked_fill(double, -torch.inf)]).T
    return F.cross_entropy(logits, torch.zeros(len(target), dtype=torch.long), reduction="sum")


FORMS: dict[str, tuple[Callable[[Tensor, nn.Linear, Tensor, Tensor], Tensor], float, int]] = {
    "matrix, masked frames": (matrix, MASKED_SHARE, 1),
    "broadcast, masked frames": (broadcast, MASKED_SHARE, 10),
    "broadcast, unmasked frames too": (broadcast, 1.0, 10),
}


def measure(name: str) -> dict[str, float]:
    """Peak of live memory in MB and the best of three times in ms of one form, forward and backward."""
    form, share, parts = FORMS[name]
    torch.manual_seed(0)
    frames = torch.randn(round(FRAMES * share / parts), DIM, requires_grad=True)
    projection, codewords = nn.Linear(DIM, FINAL_DIM), torch.rand(CODES, FINAL_DIM, requires_grad=True)
    target = torch.randint(CODES, (len(frames),))
    leaves = [frames, codewords, *projection.parameters()]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)

    def step() -> float:
        loss = form(frames, projection, codewords, target)
        loss.backward()
        return loss.item()

    times = []
    for _ in range(3):
        started = time.perf_counter()
        value = step()
        times.append(time.perf_counter() - started)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return {"mb": parts * peak_bytes(profile) / 1e6, "ms": 1e3 * parts * min(times), "loss": value / len(frames)}


def main() -> None:
    """Print a line per form."""
    results, check = measure_each(FORMS, measure, description=__doc__)
    ours = results["matrix, masked frames"]
    print(f"{'form':<32} {'peak MB':>9} {'ratio':>6} {'ms':>7} {'ratio':>6}  loss per frame")
    for name, result in results.items():
        print(
            f"{name:<32} {result['mb']:9.1f} {result['mb'] / ours['mb']:6.0f} {result['ms']:7.0f} "
            f"{result['ms'] / ours['ms']:6.1f}  {result['loss']:.6f}"
        )
    finish({f"{ours['mb']:.1f} of at most {GOAL_MB} MB": ours["mb"] <= GOAL_MB}, check=check)


if __name__ == "__main__":
    main()
