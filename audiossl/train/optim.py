"""Optimiser and learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


@dataclass(frozen=True)
class OptimConfig:
    """An optimiser with a schedule; the defaults are HuBERT base's (Hsu et al., 2021), whose "adam" decouples the weight decay.

    optimizer: `adamw`, which without weight decay is Adam, with `betas` and `eps`; or `sgd` with `momentum`, whose weight decay is a
    penalty on the squares and so goes through the momentum. decay_vectors: whether parameters of one dimension (biases, norms) decay too.
    warmup_steps: linear from 0 to `peak_lr`. schedule: what follows, until the last step; `tri_stage` warms up, holds and decays
    exponentially over the `tri_stage` fractions of the run (Baevski et al., 2020): `warmup_steps` must be 0; `step` multiplies by
    `decay_factor` every `decay_steps` steps, counted from the first of the run, also while it warms up; `inverse_sqrt`, also called Noam's (Vaswani et al., 2017), falls
    with the root of the step from `peak_lr` at `warmup_steps`, whatever the length of the run. final_lr_ratio: what is left of `peak_lr` at the end; 0 is
    0.05 for `tri_stage`, whose decay never reaches 0. An option that the choice does not use is a ValueError.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    peak_lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    momentum: float = 0.0
    weight_decay: float = 0.01
    decay_vectors: bool = True
    schedule: Literal["linear", "cosine", "constant", "tri_stage", "step", "inverse_sqrt"] = "linear"
    warmup_steps: int = 0
    final_lr_ratio: float = 0.0
    tri_stage: tuple[float, float, float] = (0.1, 0.4, 0.5)
    decay_factor: float = 0.95
    decay_steps: int = 0

    def __post_init__(self) -> None:
        if self.schedule == "tri_stage" and self.warmup_steps:
            raise ValueError("optim.warmup_steps: the tri_stage schedule has its own warm-up; set optim.tri_stage")
        if self.schedule == "tri_stage" and not math.isclose(sum(self.tri_stage), 1.0):
            raise ValueError(f"optim.tri_stage: {self.tri_stage} does not sum to 1")
        if self.schedule == "inverse_sqrt" and self.warmup_steps < 1:
            raise ValueError(
                f"optim.warmup_steps: {self.warmup_steps} is no step for the inverse_sqrt schedule to fall from; give at least 1"
            )
        if not 0 < self.peak_lr < math.inf:
            raise ValueError(f"optim.peak_lr: {self.peak_lr} is not positive, or no number; give one such as 5e-4")
        for name in ("warmup_steps", "weight_decay", "final_lr_ratio"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name}: {getattr(self, name)} is negative, or no number; give 0 or more")
        self._check_used("optimizer", ("adamw",), ("betas", "eps"))
        self._check_used("optimizer", ("sgd",), ("momentum",))
        self._check_used("schedule", ("step",), ("decay_factor", "decay_steps"))
        self._check_used("schedule", ("tri_stage",), ("tri_stage",))
        self._check_used("schedule", ("linear", "cosine", "tri_stage"), ("final_lr_ratio",))
        if self.schedule == "step" and (self.decay_steps < 1 or not 0 < self.decay_factor <= 1):
            raise ValueError(
                f"optim: decay_steps {self.decay_steps} must be positive and decay_factor {self.decay_factor} in (0, 1]; "
                "give the steps of some epochs"
            )

    def _check_used(self, choice: str, values: tuple[str, ...], options: tuple[str, ...]) -> None:
        """Refuse options of other choices than `values`."""
        if getattr(self, choice) in values:
            return
        for item in fields(self):
            given = getattr(self, item.name)
            if item.name in options and given != item.default:
                raise ValueError(
                    f"optim.{item.name}: {given} is for {choice} = {' or '.join(map(repr, values))}; leave it out, or choose that"
                )


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Learning rate of update `step` (0-based) out of `total`."""
    if config.schedule == "tri_stage":
        return _tri_stage(step, total, config)
    if config.schedule == "step":
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        return config.peak_lr * warm * config.decay_factor ** (step // config.decay_steps)
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return config.peak_lr * math.sqrt(config.warmup_steps / (step + 1))
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    floor = config.final_lr_ratio
    if config.schedule == "linear":
        return config.peak_lr * (floor + (1 - floor) * (1 - done))
    if config.schedule == "cosine":
        return config.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
    return config.peak_lr


def warm_up(total: int, config: OptimConfig) -> int:
    """Updates out of `total` in which the learning rate rises."""
    return round(config.tri_stage[0] * total) if config.schedule == "tri_stage" else config.warmup_steps


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, *, constant: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Return the optimiser over the parameters that train, fused where the device has it.

    constant: those among them that keep `peak_lr` from the first step to the last; see `set_learning_rate`.
    """
    kept = {id(parameter) for parameter in constant}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = _groups([p for p in trained if id(p) not in kept], config, constant_lr=False)
    if kept:
        groups += _groups([p for p in trained if id(p) in kept], config, constant_lr=True)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, eps=config.eps, fused=True)


def _groups(trained: list[nn.Parameter], config: OptimConfig, *, constant_lr: bool) -> list[dict[str, Any]]:
    """Return one group, or two where vectors do not decay."""
    if config.decay_vectors:
        return [{"params": trained, "weight_decay": config.weight_decay, "constant_lr": constant_lr}]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    return [
        {"params": members, "weight_decay": decay, "constant_lr": constant_lr}
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0))
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, config: OptimConfig) -> None:
    """Set the rate of the next update, but for parameters that keep theirs."""
    for group in optimizer.param_groups:
        # A state that was saved before there were such groups does not say.
        group["lr"] = config.peak_lr if group.get("constant_lr", False) else rate


@torch.no_grad()
def clip_each(gradients: list[Tensor], limit: float) -> float:
    """Shorten each gradient that is longer than `limit` to it, by itself (Caron et al., 2021); return the norm of all before that."""
    norms = torch.stack(torch._foreach_norm(gradients))  # noqa: SLF001 - as torch's own clipping does
    torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0)))
    return float(norms.norm())


def _tri_stage(step: int, total: int, config: OptimConfig) -> float:
    # fairseq's fine-tuning configurations decay to 5 %; its defaults are 1 % of the peak, at either end.
    start, final = 0.01, config.final_lr_ratio or 0.05
    warm, hold, _ = (fraction * total for fraction in config.tri_stage)
    if step < warm:
        return config.peak_lr * (start + (1 - start) * step / warm)
    if step < warm + hold:
        return config.peak_lr
    done = (step - warm - hold) / max(1.0, total - warm - hold)
    return config.peak_lr * math.exp(math.log(final) * min(1.0, done))
