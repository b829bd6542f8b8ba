"""Momentum teachers: modules whose parameters are a moving average of those of others, and how their decay goes with the steps.

decay: what a follower keeps of itself in an update. Steps are optimiser steps, 1-based; an update comes after each.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

Module = TypeVar("Module", bound=nn.Module)


def follower_of(module: Module) -> Module:
    """Copy a module; the copy gets no gradients."""
    follower = copy.deepcopy(module)
    follower.requires_grad_(False)
    return follower


@torch.no_grad()
def follow(pairs: Iterable[tuple[nn.Module, nn.Module]], decay: float, *, buffers: bool) -> None:
    """Move followers to decay * follower + (1 - decay) * leader, in the precision of their weights; at 0 they become copies, at 1 they stay.

    pairs: (follower, leader). buffers: whether followers also take those of their leaders, which are never averaged.
    """
    if decay >= 1:
        return
    own: list[Tensor] = []
    others: list[Tensor] = []
    for follower, leader in pairs:
        own += follower.parameters()
        others += leader.parameters()
        if buffers:
            for mine, theirs in zip(follower.buffers(), leader.buffers(), strict=True):
                mine.copy_(theirs)
    torch._foreach_lerp_(own, others, 1 - decay)


class WithFollowers(nn.Module):
    """A base of modules that hold their own momentum teachers, which begin where training begins.

    begun: whether the teachers have been given their leaders' weights.
    """

    begun: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("begun", torch.tensor(False))
        self._looked = False

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Followers and whom they follow."""
        raise NotImplementedError

    def begin(self) -> None:
        """Give the followers their leaders' weights before the first step; `forward` calls it.

        Not sooner: an encoder may get those of another experiment after it was built.
        """
        if self._looked:  # reading `begun` at every step would wait for the device
            return
        if not self.begun:
            for follower, leader in self.pairs():
                follower.load_state_dict(leader.state_dict())
            self.begun.fill_(True)
        self._looked = True


def cosine_decay(step: int, *, start: float, steps: int) -> float:
    """From `start` at the first step to 1 by half a cosine: 1 - (1 - start) (cos(pi (step - 1) / steps) + 1) / 2.

    Grill et al. (2020), section 3.2.
    """
    done = min(1.0, (step - 1) / steps)
    return 1 - (1 - start) * (math.cos(math.pi * done) + 1) / 2


def linear_decay(step: int, *, start: float, end: float, steps: int) -> float:
    """From `start` to `end` in a straight line, start + (end - start) step / steps, and then `end` (data2vec: Baevski et al., 2022)."""
    return end if step >= steps else start + (end - start) * step / steps


def exponential_decay(step: int, *, start: float, time_constant: float) -> float:
    """1 - (1 - start) exp(-step / time_constant), and 1 once that is within 1e-7 of it (SpidR: Poli et al., 2025)."""
    rest = (1 - start) * math.exp(-step / time_constant)
    return 1 - rest if rest > 1e-7 else 1.0
