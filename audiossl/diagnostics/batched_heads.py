"""Classification heads on time-means, many at once: every learning rate, and every seed or fold, in the same tensors.

A head is that of SUPERB (Yang et al., 2021), `nn.pooling.UtteranceHead`: softmax layer weights (zeros at the start), weighted sum, optional projector,
linear classifier. All its steps are affine in time, so that it works on time-means alone. Heads stand on two axes (rate, group): those of a
group see the same batches. Each has its own parameters, Adam state and clipping, and comes out as if it were trained alone.

Gradients are written out by hand into memory that is allocated once: at this size allocating takes longer than multiplying.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_LOGITS, _PROJECTOR, _CLASSIFIER = "weighted.layer_logits", "projector", "classifier"


@dataclass(frozen=True)
class HeadShape:
    """layers, dim: of the features. projector: 0 is none. classes: how many of each label; most tasks have one label."""

    layers: int
    dim: int
    projector: int
    classes: tuple[int, ...]

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name, as in the `state_dict` of `UtteranceHead`, and shape of each parameter."""
        found: dict[str, tuple[int, ...]] = {_LOGITS: (self.layers,)}
        if self.projector:
            found |= _linear(_PROJECTOR, self.dim, self.projector)
        return found | _linear(_CLASSIFIER, self.projector or self.dim, sum(self.classes))


class HeadGrid:
    """Parameters of all heads: `values` (rate, group, parameter) in one piece, `parts` the views of it (rate, group, ...) by name."""

    def __init__(self, shape: HeadShape, values: Tensor) -> None:
        self.shape, self.values = shape, values
        sizes = [prod(size) for size in shape.tensors.values()]
        pieces = torch.split(values, sizes, dim=-1)
        self.parts = {
            name: piece.view(*values.shape[:2], *size)
            for (name, size), piece in zip(shape.tensors.items(), pieces, strict=True)
        }

    @classmethod
    def start(
        cls, shape: HeadShape, num_rates: int, seeds: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Self:
        """Return untrained heads: those of a group are equal."""
        heads = torch.stack([_start(shape, seed) for seed in seeds])
        return cls(shape, heads.to(device, dtype).repeat(num_rates, 1, 1))

    def pick(self, rates: slice | list[int], groups: slice | list[int]) -> HeadGrid:
        """Return some of the heads; those of a list are copies."""
        return HeadGrid(self.shape, self.values[rates][:, groups])

    def state(self, rate: int, group: int) -> dict[str, Tensor]:
        """Return what `UtteranceHead.load_state_dict` takes."""
        return {name: part[rate, group].clone() for name, part in self.parts.items()}

    def shares(self) -> Tensor:
        """Share of each layer: (rate, group, layer), sum 1."""
        return self.parts[_LOGITS].softmax(dim=-1)

    def logits(self, x: Tensor) -> Tensor:
        """x: (group or 1, batch, layer, dim) -> (rate, group, batch, output)."""
        found = _mix(self.shares(), x)
        for name in (_PROJECTOR, _CLASSIFIER):
            if f"{name}.weight" in self.parts:
                found = found @ self.parts[f"{name}.weight"].mT + self.parts[f"{name}.bias"].unsqueeze(-2)
        return found


class Stepper:
    """One step of Adam for all heads. weight_decay: decoupled. clip_norm: of the gradient of each head; 0 is none."""

    def __init__(
        self, heads: HeadGrid, learning_rates: Sequence[float], *, weight_decay: float = 0.0, clip_norm: float = 0.0
    ) -> None:
        self._heads, self._clip = heads, clip_norm
        self._gradient = HeadGrid(heads.shape, torch.zeros_like(heads.values))
        self._memory: dict[str, Tensor] = {}
        ends = accumulate(heads.shape.classes)
        self._first = torch.tensor([0, *list(ends)[:-1]], device=heads.values.device)  # output of each label's class 0
        own = []
        for values, gradient, rate in zip(heads.values, self._gradient.values, learning_rates, strict=True):
            parameter = nn.Parameter(values)  # a view: the heads move with it
            parameter.grad = gradient
            own.append({"params": [parameter], "lr": rate})
        # Elementwise, and so each head's own. Fused: one pass over what is larger than the processor's cache.
        self._optimiser = torch.optim.AdamW(own, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, x: Tensor, labels: Tensor) -> None:
        """x: (group, batch, layer, dim). labels: (group, batch, label), class numbers within each label."""
        self.differentiate(x, labels)
        gradient = self._gradient.values
        if self._clip:
            norms = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
            gradient.mul_((self._clip / (norms + 1e-6)).clamp(max=1.0))
        self._optimiser.step()

    @torch.no_grad()
    def differentiate(self, x: Tensor, labels: Tensor) -> HeadGrid:
        """Return the gradients of each head's mean cross entropy, summed over labels; the next call overwrites them."""
        shares = self._heads.shares()  # (rate, group, layer)
        mixed = _mix(shares, x, self._out("mixed", (*x.shape[:2], len(shares), x.shape[-1])))
        slope = self._behind_mix(mixed.flatten(0, 1), labels).view_as(mixed)  # (rate, group, batch, dim)
        # (group, batch, rate, layer), each utterance's share in it, then (rate, group, layer)
        to_shares = (slope.permute(1, 2, 0, 3) @ x.mT).sum(dim=1).transpose(0, 1)
        self._gradient.parts[_LOGITS].copy_(shares * (to_shares - (shares * to_shares).sum(dim=-1, keepdim=True)))
        return self._gradient

    def _behind_mix(self, mixed: Tensor, labels: Tensor) -> Tensor:
        """Set the gradients of the linear layers; returns that of their input. mixed: (head, batch, dim)."""
        value = {name: part.flatten(0, 1) for name, part in self._heads.parts.items()}  # (head, ...)
        slope = {name: part.flatten(0, 1) for name, part in self._gradient.parts.items()}
        outer, offset = value[f"{_CLASSIFIER}.weight"], value[f"{_CLASSIFIER}.bias"].unsqueeze(1)
        projected = f"{_PROJECTOR}.weight" in value
        if projected and outer.shape[1] <= mixed.shape[1]:
            return self._by_product(mixed, labels, value, slope)
        hidden = mixed
        if projected:
            inner, shift = value[f"{_PROJECTOR}.weight"], value[f"{_PROJECTOR}.bias"].unsqueeze(1)
            hidden = self._affine("hidden", mixed, inner, shift)
        error = self._error(self._affine("scores", hidden, outer, offset), labels)
        torch.bmm(error.mT, hidden, out=slope[f"{_CLASSIFIER}.weight"])
        torch.sum(error, dim=1, out=slope[f"{_CLASSIFIER}.bias"])
        back = self._bmm("back", error, outer)
        if not projected:
            return back
        torch.bmm(back.mT, mixed, out=slope[f"{_PROJECTOR}.weight"])
        torch.sum(back, dim=1, out=slope[f"{_PROJECTOR}.bias"])
        return self._bmm("slope", back, inner)

    def _by_product(self, mixed: Tensor, labels: Tensor, value: dict[str, Tensor], slope: dict[str, Tensor]) -> Tensor:
        """As `_behind_mix`, by the product of both layers, which have nothing between them: less work where outputs are fewer than utterances."""
        outer, offset = value[f"{_CLASSIFIER}.weight"], value[f"{_CLASSIFIER}.bias"].unsqueeze(1)
        inner, shift = value[f"{_PROJECTOR}.weight"], value[f"{_PROJECTOR}.bias"].unsqueeze(1)
        both = self._bmm("both", outer, inner)  # (head, output, dim)
        error = self._error(self._affine("scores", mixed, both, offset + shift @ outer.mT), labels)
        to_both = self._bmm("to_both", error.mT, mixed)
        total = torch.sum(error, dim=1, out=slope[f"{_CLASSIFIER}.bias"]).unsqueeze(1)  # (head, 1, output)
        torch.bmm(to_both, inner.mT, out=slope[f"{_CLASSIFIER}.weight"])
        slope[f"{_CLASSIFIER}.weight"].baddbmm_(total.mT, shift)
        torch.bmm(outer.mT, to_both, out=slope[f"{_PROJECTOR}.weight"])
        slope[f"{_PROJECTOR}.bias"].copy_((total @ outer).squeeze(1))
        return self._bmm("slope", error, both)

    def _error(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Turn scores (head, batch, output) into the gradient of the mean cross entropy by them, in place."""
        classes = self._heads.shape.classes
        for part in torch.split(scores, list(classes), dim=-1):
            part.copy_(part.softmax(dim=-1))
        where = (labels + self._first).expand(len(scores) // len(labels), *labels.shape).flatten(0, 1)
        scores.scatter_add_(-1, where, scores.new_tensor(-1.0).expand(where.shape))
        return scores.div_(scores.shape[1])

    def _affine(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._bmm(name, x, weight.mT).add_(bias)

    def _bmm(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        return torch.bmm(left, right, out=self._out(name, (*left.shape[:2], right.shape[2])))

    def _out(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._memory:
            self._memory[name] = self._heads.values.new_empty(shape)
        return self._memory[name]


def _mix(shares: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Weighted sum of layers: shares (rate, group, layer), x (group or 1, batch, layer, dim) -> (rate, group, batch, dim)."""
    return torch.matmul(shares.transpose(0, 1).unsqueeze(1), x, out=out).permute(2, 0, 1, 3)


def _linear(name: str, fan_in: int, fan_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}


def _start(shape: HeadShape, seed: int) -> Tensor:
    """Initialise a head as `nn.Linear` does, uniform within 1 / sqrt(fan_in): (parameter,) float64."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.zeros(shape.layers, dtype=torch.float64)]
    for name, size in shape.tensors.items():
        if name.endswith(".weight"):
            bound = size[1] ** -0.5
            # Drawn in float64 whatever the dtype, so that a check in float64 trains the very same heads.
            weight, bias = (torch.rand(*s, generator=generator, dtype=torch.float64) for s in (size[::-1], size[:1]))
            found += [(2 * weight.T - 1).flatten() * bound, (2 * bias - 1) * bound]
    return torch.cat(found)
