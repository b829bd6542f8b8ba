"""Multi-layer perceptrons on time-means, many at once: one per learning rate and initialisation, in the same tensors.

A head is softmax layer weights (equal at the start; none for a single layer), linear layers with ReLU, and a linear output: the probes of MARBLE
(Yuan et al., 2023) and, with batch norm, of HEAR (Turian et al., 2022). Heads stand on one axis and see the same batches and the same dropout, each with its own
parameters and Adam state; each comes out as if it were trained alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Init = Literal["default", "xavier_uniform", "xavier_normal"]

_LOGITS = "layer_logits"
_EPSILON, _MOMENTUM = 1e-5, 0.1  # of the batch norm
_BETAS, _TINY = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True)
class MLPShape:
    """layers, dim: of the features. hidden: width of each hidden layer, () is a linear head. batch_norm: before each ReLU."""

    layers: int
    dim: int
    hidden: tuple[int, ...]
    outputs: int
    batch_norm: bool = False

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter."""
        found: dict[str, tuple[int, ...]] = {_LOGITS: (self.layers,)} if self.layers > 1 else {}
        widths = (self.dim, *self.hidden, self.outputs)
        for place, (fan_in, fan_out) in enumerate(pairwise(widths)):
            found |= {f"{place}.weight": (fan_out, fan_in), f"{place}.bias": (fan_out,)}
            if self.batch_norm and place < len(self.hidden):
                found |= {f"{place}.scale": (fan_out,), f"{place}.shift": (fan_out,)}
        return found


@dataclass
class MLPGrid:
    """values: (head, parameter). running: (head, 2, hidden unit), mean and variance that the batch norms have in evaluation."""

    shape: MLPShape
    values: Tensor
    running: Tensor

    @classmethod
    def start(cls, shape: MLPShape, inits: Sequence[Init], seed: int, device: str = "cpu") -> Self:
        """Return untrained heads, one for each of `inits`: those of one kind are equal."""
        kinds = {kind: _start(shape, kind, seed) for kind in inits}
        values = torch.stack([kinds[kind] for kind in inits]).float().to(device)
        running = torch.zeros(len(inits), 2, sum(shape.hidden), device=device)
        running[:, 1] = 1.0
        return cls(shape, values, running)

    def pick(self, heads: list[int] | Tensor) -> MLPGrid:
        """Return copies of some of the heads."""
        return MLPGrid(self.shape, self.values[heads].clone(), self.running[heads].clone())

    def parts(self) -> dict[str, Tensor]:
        """Views of the parameters by name: (head, ...) each."""
        tensors = self.shape.tensors
        pieces = torch.split(self.values, [prod(size) for size in tensors.values()], dim=1)
        return {
            name: piece.reshape(len(piece), *size) for (name, size), piece in zip(tensors.items(), pieces, strict=True)
        }

    def shares(self) -> Tensor:
        """Share of each layer: (head, layer), sum 1."""
        parts = self.parts()
        return parts[_LOGITS].softmax(dim=1) if _LOGITS in parts else self.values.new_ones(len(self.values), 1)

    def outputs(self, x: Tensor, *, dropout: float | None = None, generator: torch.Generator | None = None) -> Tensor:
        """x: (batch, layer, dim) -> (head, batch, output). dropout: None in evaluation, else that of training, drawn from `generator`."""
        parts, first = self.parts(), 0
        h = torch.einsum("hl,bld->hbd", self.shares(), x)
        for place, width in enumerate((*self.shape.hidden, self.shape.outputs)):
            h = torch.baddbmm(parts[f"{place}.bias"].unsqueeze(1), h, parts[f"{place}.weight"].mT)
            if place == len(self.shape.hidden):
                break
            if self.shape.batch_norm:
                h = self._normed(h, slice(first, first + width), training=dropout is not None)
                h = h * parts[f"{place}.scale"].unsqueeze(1) + parts[f"{place}.shift"].unsqueeze(1)
            h = F.relu(h)
            if dropout:
                drawn = torch.rand(h.shape[1:], generator=generator, device=generator.device if generator else h.device)
                h = h * ((drawn >= dropout).to(h) / (1.0 - dropout))
            first += width
        return h

    def _normed(self, h: Tensor, units: slice, *, training: bool) -> Tensor:
        """Batch norm without its affine part. h: (head, batch, width)."""
        if not training:
            mean, variance = self.running[:, :, units].unbind(dim=1)
        else:
            mean, variance = h.mean(dim=1), h.var(dim=1, correction=0)
            with torch.no_grad():
                count = h.shape[1]
                self.running[:, 0, units].lerp_(mean, _MOMENTUM)
                self.running[:, 1, units].lerp_(variance * (count / (count - 1)), _MOMENTUM)
        return (h - mean.unsqueeze(1)) * (variance.unsqueeze(1) + _EPSILON).rsqrt()


class Adam:
    """Adam (Kingma et al., 2015) with a learning rate for each head. rates: (head,); may be changed between steps."""

    def __init__(self, grid: MLPGrid, rates: Sequence[float]) -> None:
        self.rates = torch.tensor(rates, dtype=torch.float64)
        self._mean, self._square = torch.zeros_like(grid.values), torch.zeros_like(grid.values)
        self._steps = 0

    @torch.no_grad()
    def step(self, grid: MLPGrid, gradient: Tensor) -> None:
        """Move all heads. gradient: (head, parameter)."""
        self._steps += 1
        self._mean.lerp_(gradient, 1.0 - _BETAS[0])
        self._square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
        scale = self._square.sqrt().div_(sqrt(1.0 - _BETAS[1] ** self._steps)).add_(_TINY)
        rates = (self.rates / (1.0 - _BETAS[0] ** self._steps)).to(scale).unsqueeze(1)
        grid.values.sub_(rates * self._mean / scale)

    def keep(self, heads: Tensor) -> None:
        """Forget all heads but these."""
        self.rates = self.rates[heads]
        self._mean, self._square = self._mean[heads], self._square[heads]


def _start(shape: MLPShape, init: Init, seed: int) -> Tensor:
    """Initialise a head: (parameter,) float64. Biases, and `default` weights, as `nn.Linear` does: uniform within 1 / sqrt(fan_in).

    The gain of a Xavier initialisation is that of ReLU behind a ReLU, as HEAR has it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, size in shape.tensors.items():
        place, _, kind = name.partition(".")
        if kind == "weight":
            drawn = torch.randn if init == "xavier_normal" else torch.rand
            value = drawn(*size, generator=generator, dtype=torch.float64)
            spread = sqrt(2.0 / sum(size)) * (sqrt(2.0) if place != "0" else 1.0)
            if init != "xavier_normal":
                value = (2.0 * value - 1.0) * (size[1] ** -0.5 if init == "default" else sqrt(3.0) * spread)
            else:
                value *= spread
            fan_in = size[1]
        elif kind == "bias":
            value = (2.0 * torch.rand(*size, generator=generator, dtype=torch.float64) - 1.0) * fan_in**-0.5
        else:
            value = torch.full(size, 1.0 if kind == "scale" else 0.0, dtype=torch.float64)
        found.append(value.flatten())
    return torch.cat(found)
