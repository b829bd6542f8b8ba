"""Linear probes on pooled features: every learning rate and seed at once, chosen on dev, reported on test.

The heads are those of `batched_heads.py`, one group of them per seed.

Differs from SUPERB unless `standardise` is off: inputs are standardised per layer and dimension by the mean and standard deviation of the
training utterances, for encoders and filterbanks alike; otherwise layers of large scale would win the weighted sum by size alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.diagnostics.batched_heads import HeadShape
from audiossl.diagnostics.head_training import Group, Training, fit, outputs, shuffled
from audiossl.metrics.accuracy import accuracy, confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CHUNK = 1024  # utterances that are evaluated together


@dataclass(frozen=True)
class ProbeConfig:
    """What is tried, and for how long. Only the learning rate and the step are tuned, as in SUPERB, and only on dev."""

    learning_rates: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 1e-3, 1e-4)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 2000
    batch: int = 256  # utterances
    weight_decay: float = 0.0  # decoupled
    projector_dim: int = 0  # 256 in SUPERB; 0: none
    eval_every: int = 100  # steps
    standardise: bool = True  # inputs; SUPERB does not

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"probe.learning_rates: {list(self.learning_rates)} has no or not only positive values")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"probe.seeds: {list(self.seeds)} is empty, repeats a seed or has one below 0; give different ones"
            )
        if min(self.steps, self.batch, self.eval_every) < 1:
            raise ValueError("probe: steps, batch and eval_every must be at least 1")


@dataclass(frozen=True)
class Split:
    """Some rows of a feature array, and their classes.

    features: (utterance, layer, dim) float32, may be memory-mapped. rows: (item,) which of them. labels: (item,) class numbers, or
    (item, label) of several labels.
    """

    features: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.rows) or len(self.rows) != len(self.labels):
            raise ValueError(
                f"a split of {len(self.rows)} utterances with {len(self.labels)} labels; give one label each"
            )

    @property
    def slots(self) -> np.ndarray:
        """(item, label) class numbers."""
        return self.labels.reshape(len(self.labels), -1)

    def gather(self, items: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Read items: (n,) -> (n, layer, dim), into `out` where it is given."""
        return np.take(self.features, self.rows[items], axis=0, out=out, mode="clip")  # other modes copy twice


@dataclass(frozen=True)
class SeedResult:
    """One seed at the chosen learning rate; accuracies in percent."""

    seed: int
    step: int
    dev_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracy (mean over seeds, percent) at the learning rate that is best on dev, and what it came from.

    dev_accuracies: mean over seeds per learning rate. layer_weights: (layer,), mean over seeds, sum 1. confusion: (reference class,
    predicted class), test utterances summed over seeds. parameters: trained ones of one head.
    """

    accuracy: float
    std: float
    learning_rate: float
    seeds: tuple[SeedResult, ...]
    dev_accuracies: dict[float, float]
    parameters: int
    layer_weights: np.ndarray = field(repr=False)
    confusion: np.ndarray = field(repr=False)


class Standardiser:
    """(x - mean) / std per layer and dimension over the training utterances; a dimension that never changes is only centred."""

    def __init__(self, train: Split, dtype: torch.dtype, device: torch.device) -> None:
        # Two passes in float64: the one-pass variance cancels where the mean is large, as in log-mel energies.
        mean = sum(chunk.sum(axis=0) for chunk in _chunks(train)) / len(train.rows)
        variance = sum(((chunk - mean) ** 2).sum(axis=0) for chunk in _chunks(train)) / len(train.rows)
        std = np.sqrt(variance)
        std[std <= 1e-6 * np.abs(mean)] = 1.0
        std[std == 0.0] = 1.0
        self._mean = torch.from_numpy(mean).to(device, dtype)
        self._scale = torch.from_numpy(1.0 / std).to(device, dtype)

    def __call__(self, features: np.ndarray) -> Tensor:
        """features: (..., layer, dim) -> the same, standardised."""
        return (torch.from_numpy(features).to(self._mean) - self._mean) * self._scale


@dataclass(frozen=True)
class AsStored:
    """Features as they are."""

    dtype: torch.dtype
    device: torch.device

    def __call__(self, features: np.ndarray) -> Tensor:
        """Share their memory where dtype and device allow it."""
        return torch.from_numpy(features).to(self.device, self.dtype)


def train_probe(
    train: Split,
    dev: Split,
    test: Split,
    *,
    num_classes: int,
    config: ProbeConfig,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ProbeResult:
    """Train all heads, choose learning rate and step on dev, and score test once at that choice."""
    where = torch.device(device)
    read = Standardiser(train, dtype, where) if config.standardise else AsStored(dtype, where)
    _, layers, dim = train.features.shape
    shape = HeadShape(layers, dim, config.projector_dim, (num_classes,))
    training = Training(config.learning_rates, config.steps, config.batch, config.eval_every, config.weight_decay)
    groups = [Group(train, dev, seed, shuffled(len(train.rows), config.batch, seed)) for seed in config.seeds]
    fitted = fit(groups, shape, training, read=read, dtype=dtype, device=device)
    chosen = fitted.choose(config.learning_rates, "probe")
    heads = fitted.heads.pick([chosen], slice(None))
    predicted = torch.cat([row[0, ..., 0] for row, _ in outputs(heads, test, read)], dim=1).cpu().numpy()
    scores = [accuracy(row, test.labels) for row in predicted]
    return ProbeResult(
        accuracy=float(np.mean(scores)),
        std=float(np.std(scores)),
        learning_rate=config.learning_rates[chosen],
        seeds=tuple(
            SeedResult(seed, int(fitted.steps[chosen, s]), float(fitted.accuracies[chosen, s]), scores[s])
            for s, seed in enumerate(config.seeds)
        ),
        dev_accuracies=dict(zip(config.learning_rates, fitted.accuracies.mean(dim=1).tolist(), strict=True)),
        parameters=heads.values.shape[-1],
        layer_weights=heads.shares().mean(dim=(0, 1)).cpu().numpy(),
        confusion=sum(
            (confusion_matrix(row, test.labels, num_classes) for row in predicted),
            np.zeros((num_classes, num_classes), dtype=np.int64),
        ),
    )


def _chunks(split: Split) -> Iterator[np.ndarray]:
    for start in range(0, len(split.rows), _CHUNK):
        yield split.gather(np.arange(start, min(start + _CHUNK, len(split.rows)))).astype(np.float64)
