"""Linear probes on pooled features: every learning rate and seed at once, chosen on dev, reported on test.

A head is the classification head of SUPERB (Yang et al., 2021): softmax layer weights (zeros at the start), weighted sum,
optional projector, linear classifier. All its steps are affine in time, so that it works on time-means alone. The heads stand side by
side on two batch axes (seed, learning rate); each has its own parameters, Adam state and order of utterances, and comes out as if it
were trained alone.

Differs from SUPERB: inputs are standardised per layer and dimension by the mean and standard deviation of the training
utterances, for encoders and filterbanks alike; otherwise layers of large scale would win the weighted sum by size alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

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

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"probe.learning_rates: {list(self.learning_rates)} has no or not only positive values")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"probe.seeds: {list(self.seeds)} is empty or repeats a seed; give different ones")
        if min(self.steps, self.batch, self.eval_every) < 1:
            raise ValueError("probe: steps, batch and eval_every must be at least 1")


@dataclass(frozen=True)
class Split:
    """Some rows of a feature array, and their classes.

    features: (utterance, layer, dim) float32, may be memory-mapped. rows: (item,) which of them. labels: (item,) class numbers.
    """

    features: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.rows) or len(self.rows) != len(self.labels):
            raise ValueError(
                f"a split of {len(self.rows)} utterances with {len(self.labels)} labels; give one label each"
            )

    def gather(self, items: np.ndarray) -> np.ndarray:
        """Read items: (n,) -> (n, layer, dim), from disk in the order in which they lie there."""
        unique, back = np.unique(self.rows[items], return_inverse=True)
        found: np.ndarray = self.features[unique][back]
        return found


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


class Heads(nn.Module):
    """Heads on two batch axes: one group of parameters per learning rate, each stacked over seeds.

    Grouped so, `torch.optim.AdamW` gives each head its own state and learning rate. Heads of one seed start equal.
    """

    def __init__(self, shape: tuple[int, int, int], config: ProbeConfig, dtype: torch.dtype) -> None:
        super().__init__()
        layers, dim, classes = shape
        stacked: dict[str, list[Tensor]] = {}
        for seed in config.seeds:
            generator = torch.Generator().manual_seed(seed)
            head = {"layer_logits": torch.zeros(layers, dtype=dtype)}
            if config.projector_dim:
                head |= _linear("projector", dim, config.projector_dim, generator, dtype)
            head |= _linear("classifier", config.projector_dim or dim, classes, generator, dtype)
            for name, value in head.items():
                stacked.setdefault(name, []).append(value)
        start = {name: torch.stack(values) for name, values in stacked.items()}
        self.groups = nn.ModuleList(
            nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in start.items()})
            for _ in config.learning_rates
        )

    def stacked(self) -> dict[str, Tensor]:
        """Every parameter as (seed, rate, ...)."""
        names = list(dict(self.groups[0].named_parameters()))
        return {name: torch.stack([group.get_parameter(name) for group in self.groups], dim=1) for name in names}

    def forward(self, features: Tensor) -> Tensor:
        """features: (seed or 1, batch, layer, dim) -> logits (seed, rate, batch, class)."""
        return logits(self.stacked(), features)


def logits(parameters: dict[str, Tensor], features: Tensor) -> Tensor:
    """Apply stacked heads: features (seed or 1, batch, layer, dim) -> (seed, rate, batch, class)."""
    weights = parameters["layer_logits"].softmax(dim=-1)  # (seed, rate, layer)
    x = torch.einsum("skl,sbld->skbd", weights, features.expand(len(weights), -1, -1, -1))
    if "projector_weight" in parameters:
        x = x @ parameters["projector_weight"] + parameters["projector_bias"].unsqueeze(-2)
    return x @ parameters["classifier_weight"] + parameters["classifier_bias"].unsqueeze(-2)


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
    standardise = Standardiser(train, dtype, torch.device(device))
    heads = Heads((*train.features.shape[1:], num_classes), config, dtype).to(device)
    best, best_step, dev_accuracy, dev_loss = _fit(heads, train, dev, standardise, config)
    if not torch.isfinite(dev_loss).any():
        raise ValueError(
            f"probe: no learning rate of {list(config.learning_rates)} gives a finite loss; try smaller ones"
        )
    means = dev_accuracy.mean(dim=0)
    losses = dev_loss.mean(dim=0).nan_to_num(nan=torch.inf)
    chosen = min(range(len(means)), key=lambda k: (-float(means[k]), float(losses[k])))
    picked = {name: value[:, chosen : chosen + 1] for name, value in best.items()}
    predicted = torch.cat([row[:, 0] for row, _ in _outputs(picked, test, standardise)], dim=1).cpu().numpy()
    scores = [accuracy(row, test.labels) for row in predicted]
    return ProbeResult(
        accuracy=float(np.mean(scores)),
        std=float(np.std(scores)),
        learning_rate=config.learning_rates[chosen],
        seeds=tuple(
            SeedResult(seed, int(best_step[s, chosen]), float(dev_accuracy[s, chosen]), scores[s])
            for s, seed in enumerate(config.seeds)
        ),
        dev_accuracies={rate: float(means[k]) for k, rate in enumerate(config.learning_rates)},
        parameters=sum(value[0, 0].numel() for value in best.values()),
        layer_weights=picked["layer_logits"].softmax(dim=-1).mean(dim=(0, 1)).cpu().numpy(),
        confusion=sum(
            (confusion_matrix(row, test.labels, num_classes) for row in predicted),
            np.zeros((num_classes, num_classes), dtype=np.int64),
        ),
    )


def _fit(
    heads: Heads, train: Split, dev: Split, standardise: Standardiser, config: ProbeConfig
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Train; returns each head at its best step on dev, and that step, its dev accuracy and dev loss: (seed, rate) each."""
    optimiser = torch.optim.AdamW(
        [
            {"params": group.parameters(), "lr": rate}
            for group, rate in zip(heads.groups, config.learning_rates, strict=True)
        ],
        weight_decay=config.weight_decay,
    )
    orders = [sample_order(len(train.rows), config.batch, seed) for seed in config.seeds]
    shape = (len(config.seeds), len(config.learning_rates))
    best = {name: value.detach().clone() for name, value in heads.stacked().items()}
    best_step = torch.zeros(shape, dtype=torch.int64)
    best_accuracy, best_loss = torch.full(shape, -1.0).double(), torch.full(shape, torch.inf).double()
    for step in range(1, config.steps + 1):
        items = np.stack([next(order) for order in orders])  # (seed, batch)
        features = standardise(train.gather(items.ravel()).reshape(*items.shape, *train.features.shape[1:]))
        labels = torch.from_numpy(train.labels[items]).to(features.device)
        optimiser.zero_grad()
        # Heads share no parameter: the gradient of the sum is each head's own.
        _cross_entropy(heads(features), labels[:, None]).mean(dim=-1).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % config.eval_every == 0 or step == config.steps:
            now = {name: value.detach() for name, value in heads.stacked().items()}
            dev_accuracy, dev_loss = _score(now, dev, standardise)
            better = (dev_accuracy > best_accuracy) | ((dev_accuracy == best_accuracy) & (dev_loss < best_loss))
            better &= torch.isfinite(dev_loss)
            best_step[better], best_accuracy[better], best_loss[better] = step, dev_accuracy[better], dev_loss[better]
            for name, value in now.items():
                best[name][better] = value[better]
    return best, best_step, best_accuracy, best_loss


def sample_order(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Batches (batch,) of item numbers without end: epoch after epoch, each shuffled by (seed, epoch); a batch may span two."""
    pool = np.empty(0, dtype=np.int64)
    epoch = 0
    while True:
        while len(pool) < batch:
            pool = np.concatenate([pool, np.random.default_rng([seed, epoch]).permutation(count)])
            epoch += 1
        yield pool[:batch]
        pool = pool[batch:]


def _score(parameters: dict[str, Tensor], split: Split, standardise: Standardiser) -> tuple[Tensor, Tensor]:
    """Accuracy (percent) and mean loss of every head: (seed, rate) each."""
    hits, losses, done = [], [], 0
    for predicted, scores in _outputs(parameters, split, standardise):
        labels = torch.from_numpy(split.labels[done : done + predicted.shape[-1]]).to(predicted.device)
        hits.append((predicted == labels).sum(dim=-1).cpu())
        losses.append(_cross_entropy(scores, labels).sum(dim=-1).double().cpu())
        done += len(labels)
    return 100.0 * torch.stack(hits).sum(dim=0).double() / done, torch.stack(losses).sum(dim=0) / done


def _outputs(parameters: dict[str, Tensor], split: Split, standardise: Standardiser) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split.rows), _CHUNK):
        items = np.arange(start, min(start + _CHUNK, len(split.rows)))
        with torch.no_grad():
            scores = logits(parameters, standardise(split.gather(items))[None])
        yield scores.argmax(dim=-1), scores  # (seed, rate, item), (seed, rate, item, class)


def _chunks(split: Split) -> Iterator[np.ndarray]:
    for start in range(0, len(split.rows), _CHUNK):
        yield split.gather(np.arange(start, min(start + _CHUNK, len(split.rows)))).astype(np.float64)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """scores: (seed, rate, item, class); labels broadcast to (seed, rate, item). Returns (seed, rate, item)."""
    wanted = scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return scores.logsumexp(dim=-1) - wanted


def _linear(name: str, fan_in: int, fan_out: int, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """Initialise as `nn.Linear` does: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    # Drawn in float64 whatever the dtype, so that a check in float64 trains the very same heads.
    weight = torch.rand(fan_in, fan_out, generator=generator, dtype=torch.float64).mul(2 * bound).sub(bound)
    bias = torch.rand(fan_out, generator=generator, dtype=torch.float64).mul(2 * bound).sub(bound)
    return {f"{name}_weight": weight.to(dtype), f"{name}_bias": bias.to(dtype)}
