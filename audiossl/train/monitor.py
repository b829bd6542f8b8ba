"""Collapse is watched, not hoped against: a run whose representation has died stops with a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

_DIAGNOSES = {
    "prediction_perplexity": "every frame is predicted as the same few units",
    "target_perplexity": "the targets hold almost only one class (of units: see `audiossl units quality`)",
    "embedding_std": "all frames have the same representation",
    "effective_rank": "the representation lives in almost one dimension",
    "code_perplexity": "the quantiser uses one code: its codebook is dead",
    "live_negatives": "all negatives equal the positive, so that the loss is 0 and means nothing",
    "target_std": "the targets are the same everywhere",
    "prediction_std": "the predictions are the same everywhere",
}


@dataclass(frozen=True)
class CollapseConfig:
    """When a run counts as collapsed: `patience` logged steps in a row below a floor, after `grace_steps`.

    The other fields are the smallest healthy values of the metrics of that name, as far as the objective logs them. Perplexities are in
    codes: 1 is a single code. Of several codebooks, groups or label sets, those of targets and codes are the least, so that a dead one does
    not hide behind the others; that of predictions is the mean, for labels that cannot be foreseen are no collapse.
    """

    enabled: bool = True
    grace_steps: int = 200
    patience: int = 50
    prediction_perplexity: float = 1.5
    target_perplexity: float = 1.5
    embedding_std: float = 1e-3
    effective_rank: float = 1.5
    code_perplexity: float = 1.5
    live_negatives: float = 1.0
    target_std: float = 1e-3
    prediction_std: float = 1e-3


class CollapseError(ValueError):
    """The run has collapsed; the message says how it shows and what to try."""


class CollapseMonitor:
    """Counts, per metric, how long it has been below its floor."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self._low: dict[str, int] = {}

    def watch(self, step: int, metrics: dict[str, float]) -> None:
        """Look at the metrics of `step`; raise CollapseError once one has been too low for too long."""
        if not self.config.enabled or step <= self.config.grace_steps:
            return
        for name, why in _DIAGNOSES.items():
            if name not in metrics:
                continue
            floor = getattr(self.config, name)
            self._low[name] = self._low.get(name, 0) + 1 if metrics[name] < floor else 0
            if self._low[name] >= self.config.patience:
                raise CollapseError(
                    f"step {step}: collapsed: {name} = {metrics[name]:.3g} < {floor:g} for {self._low[name]} steps: {why}; "
                    "lower optim.peak_lr, lengthen optim.warmup_steps or check the targets (train.collapse.enabled=false goes on)"
                )
