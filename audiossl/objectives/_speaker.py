"""What objectives on utterance embeddings share: crops of an utterance as its views, the projector, and what they log."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiossl import registry
from audiossl.config import FURTHER, build
from audiossl.contracts import StepOutput
from audiossl.margins.additive import margin_of_more_negatives
from audiossl.nn.spread import spread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, Utterance

CropRule = Literal["disjoint", "independent"]


@dataclass(frozen=True)
class CropConfig:
    """crop_duration: of each view, s. crops: `disjoint` views do not overlap; `independent` ones may.

    The published training code cut disjoint crops until 2024, a recording that is too short for them being repeated first until it is as
    long as both, and independent ones since. separate_views: each view goes through the network by itself and has batch statistics of its
    own, as in that code; otherwise all go together, which is faster.
    """

    crop_duration: float = 2.0
    crops: CropRule = "disjoint"
    separate_views: bool = False

    def __post_init__(self) -> None:
        if self.crop_duration <= 0:
            raise ValueError(f"objective.crop_duration: {self.crop_duration} s is not positive")
        if self.crops not in {"disjoint", "independent"}:
            raise ValueError(f"objective.crops: {self.crops!r} is neither 'disjoint' nor 'independent'")
        for name in (item.name for item in fields(self) if item.name.endswith("temperature")):  # of a subclass
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")


@dataclass(frozen=True)
class CropViews:
    """The work in the loader: pieces of `durations` seconds, each decoded and augmented on its own, one after another in `waveform`.

    Of every utterance alike, so that a batch is (batch, sum of all pieces) and nothing is padded. Where augmentation changes the speed, as much more
    is decoded as the largest factor needs, as far as there is more.
    """

    durations: tuple[float, ...]
    crops: CropRule
    sample_rate: int

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """waveform: (sample,). A recording is repeated to fill a piece, and disjoint ones together."""
        if self.crops == "disjoint" and utterance.duration < sum(self.durations):
            return {"waveform": self._wrapped(utterance)}
        pieces = []
        lengths = self._lengths(utterance)
        starts = self._starts(utterance.duration, lengths, rng)
        for start, length, seconds in zip(starts, lengths, self.durations, strict=True):
            pieces.append(np.resize(_cut(utterance, start, length), round(seconds * self.sample_rate)))
        return {"waveform": np.concatenate(pieces)}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the contract's
        """Change nothing."""
        return batch

    def _wrapped(self, utterance: Utterance) -> NDArray[np.float32]:
        """Pieces of the repeated recording, one behind the other; each hears all of it, augmented anew: (sample,)."""
        sizes = [round(seconds * self.sample_rate) for seconds in self.durations]
        pieces = []
        for size, end in zip(sizes, np.cumsum(sizes), strict=True):
            whole = _cut(utterance, 0.0, utterance.duration)
            pieces.append(whole[np.arange(end - size, end) % len(whole)])
        return np.concatenate(pieces)

    def _lengths(self, utterance: Utterance) -> NDArray[np.float64]:
        """How much is decoded for each piece, s: (piece,). Of disjoint ones no more than there is for all."""
        lengths, fastest = np.array(self.durations), utterance.fastest
        return lengths * (fastest if self.crops == "independent" else min(fastest, utterance.duration / lengths.sum()))

    def _starts(self, duration: float, lengths: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Where the pieces begin, s: (piece,)."""
        spare = max(0.0, duration - lengths.sum())
        if self.crops == "independent":
            return np.asarray(rng.uniform(0.0, 1.0, len(lengths)) * np.maximum(duration - lengths, 0.0))
        gaps = np.zeros(len(lengths))
        for place in [*range(1, len(lengths)), 0]:  # those between pieces first, as published for two
            gaps[place] = rng.uniform(0.0, spare)
            spare -= gaps[place]
        return np.asarray(np.cumsum(gaps) + np.cumsum(lengths) - lengths)


def _cut(utterance: Utterance, start: float, seconds: float) -> NDArray[np.float32]:
    # What lies behind the end is not asked for: a recording without a segment that is too short by much is taken for a broken one.
    piece = utterance.cut(start, min(seconds, utterance.duration - start))
    if not len(piece):
        raise ValueError(f"{utterance.id}: no sample at {start:.2f} s; make utt2dur again or leave it out")
    return piece


class SpeakerObjective(nn.Module):
    """The base: an encoder with embeddings, crops as views. A subclass says its `Config` and `forward`.

    durations: of the views, s.
    """

    encoder_needs: ClassVar[tuple[str, ...]] = ("embed",)
    headline: ClassVar[tuple[str, ...]] = ()
    collapse_cure: str = "lower optim.peak_lr or lengthen optim.warmup_steps"
    needs: tuple[str, ...] = ()
    additive = False
    least_utterances = 2
    """Of a batch over all processes: one alone has no negatives, and batch norms make its two crops opposites."""
    group_rows = 0
    """Utterances that a batch must hold to be counted, as some objectives whiten groups of them; one of development data at least, in each process."""

    def __init__(self, encoder: SpeakerEncoder, config: CropConfig, durations: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.separate_views = config.separate_views
        durations = durations or (config.crop_duration, config.crop_duration)
        self._sizes = [round(seconds * encoder.sample_rate) for seconds in durations]
        light = CropViews(durations, config.crops, encoder.sample_rate)
        self.views, self.batch_views = light.views, light.batch_views

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> SpeakerObjective:  # noqa: ARG003 - no label is read
        """Build it; nothing is learnt from the data directory beforehand."""
        return cls(encoder, config)

    @property
    def least_in_process(self) -> int:
        """Utterances of a batch in each process: batch norms of embeddings cannot do with a single row."""
        return 2 if self.separate_views and any(isinstance(module, nn.BatchNorm1d) for module in self.modules()) else 1

    def after_step(self, step: int) -> None:
        """Let the margin grow, where there is one."""
        margin = getattr(self, "margin", None)
        if margin is not None:
            margin.after_step(step)

    def pieces(self, batch: Batch) -> list[Tensor]:
        """Waveforms of each view: (batch, sample) each."""
        return list(batch["waveform"].split(self._sizes, dim=1))

    def embed(self, pieces: list[Tensor], encoder: SpeakerEncoder | None = None) -> Tensor:
        """Embeddings of pieces of one length: (view, batch, dim)."""
        embed, batch = (encoder or self.encoder).embed, len(pieces[0])
        return torch.cat([embed(*together(part)).view(len(part), batch, -1) for part in self.passes(pieces)])

    def per_view(self, module: nn.Module, views: Tensor) -> Tensor:
        """What a projector or head makes of all views: (view, batch, dim) to (view, batch, output)."""
        return torch.cat([through(module, torch.stack(part)) for part in self.passes([*views])])

    def passes(self, views: list[Tensor]) -> list[list[Tensor]]:
        """Views by the pass through a network that they share."""
        return [[view] for view in views] if self.separate_views else [views]

    @property
    def across(self) -> bool:
        """Whether losses compare the utterances of all processes: in training only, for evaluation runs on one."""
        return self.training and torch.distributed.is_available() and torch.distributed.is_initialized()


def together(pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pieces of one length as a batch of an encoder, with their lengths. pieces: (batch, sample) each."""
    waveform = torch.cat(pieces)
    return waveform, torch.full((len(waveform),), waveform.shape[1], device=waveform.device)


def through(head: nn.Module, views: Tensor, **options: Tensor) -> Tensor:
    """Outputs of a head whose batch norms see all views together. views: (view, batch, dim); returns (view, batch, output)."""
    outputs: Tensor = head(views.flatten(0, 1), **options)
    return outputs.view(*views.shape[:2], -1)


def wide(x: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return x.float() if x.dtype in {torch.bfloat16, torch.float16} else x


def output_of(loss: Tensor, embeddings: Tensor, **metrics: Tensor) -> StepOutput:
    """Return a batch's mean loss as a sum over its utterances, with the metrics and how much the embeddings differ.

    embeddings: (view, batch, dim), by whose directions the spread is told. metrics: scalars, means over the batch.
    """
    count = torch.full((), embeddings.shape[1], dtype=torch.float32, device=loss.device)
    directions = F.normalize(embeddings.detach().float(), dim=-1).flatten(0, 1) * embeddings.shape[-1] ** 0.5
    logged = {name: (value.detach().float() * count, count) for name, value in metrics.items()}
    return StepOutput(loss * count, count, logged | spread(directions))


def projector(dim: int, dims: tuple[int, ...]) -> nn.Module:
    """Return linear layers with batch norm and ReLU between them, as wide as `dims`; the identity for no dims.

    ValueError for a width that is not positive.
    """
    if any(width < 1 for width in dims):
        raise ValueError(f"objective.projector_dims: {list(dims)} must be positive; [] for no projector")
    layers: list[nn.Module] = []
    for index, width in enumerate(dims):
        last = index == len(dims) - 1
        layers.append(nn.Linear(dim, width, bias=last))  # a bias before a batch norm has no effect
        layers += [] if last else [nn.BatchNorm1d(width), nn.ReLU()]
        dim = width
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class MarginConfig:
    """name: a file of `margins/`, or none. size: None takes its default. ramp_steps: over which it grows from nothing by half a cosine.

    learnable: trained from that size on; the loss alone only shrinks it, so give it a `reward` too. simo: in the place of a size, for
    `additive`: `[present, simulated]` negatives, such as `[510, 65536]`; see `margin_of_more_negatives`. more: all other options of that
    margin, which stand beside these in a table. ValueError for those that it does not have, and for any without a margin.
    """

    name: str = "none"
    size: float | None = None
    ramp_steps: int = 0
    learnable: bool = False
    simo: tuple[int, ...] = ()
    more: dict[str, Any] = field(default_factory=dict, metadata={FURTHER: True})

    def __post_init__(self) -> None:
        if self.name != "none":
            self._check_simo()
            self._parts(self.size)
            return
        given = {
            "size": self.size,
            "ramp_steps": self.ramp_steps or None,
            "learnable": self.learnable or None,
            "simo": [*self.simo] or None,
            **self.more,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"margin.{name}: {value} changes nothing without a margin; name one, such as margin.name additive"
                )

    def build(self, temperature: float | None = None) -> nn.Module | None:
        """Return the margin. temperature: of the loss that it is for, which `simo` needs."""
        if self.name == "none":
            return None
        size = self.size
        if self.simo:
            if temperature is None:
                raise ValueError(
                    f"margin.simo: {[*self.simo]} needs a loss with a temperature; give margin.size instead"
                )
            present, simulated = self.simo
            size = margin_of_more_negatives(temperature=temperature, present=present, simulated=simulated)
        cls, config = self._parts(size)
        margin: nn.Module = cls(config)
        return margin

    def _check_simo(self) -> None:
        if not self.simo:
            return
        if self.name != "additive" or self.size is not None:
            raise ValueError(
                f"margin.simo: {[*self.simo]} is the size of an additive margin; name that, and take margin.size out of the recipe"
            )
        if len(self.simo) != 2 or not 0 < self.simo[0] <= self.simo[1]:
            raise ValueError(f"margin.simo: {[*self.simo]} is not [present, simulated] negatives, such as [510, 65536]")

    def _parts(self, size: float | None) -> tuple[Any, Any]:
        """Class and Config of the margin; ValueError for what it does not have."""
        if "margin" in self.more:
            raise ValueError(f"margin.margin: {self.more['margin']} is the size; call it margin.size")
        cls = registry.get("margins", self.name)
        given = {} if size is None else {"margin": size}
        table = {"ramp_steps": self.ramp_steps, "learnable": self.learnable, **given, **self.more}
        return cls, build(cls.Config, table, f"margin {self.name}")


def positive_cosine(views: Tensor) -> Tensor:
    """Mean cosine of the first two views of an utterance. views: (view, batch, dim)."""
    return F.cosine_similarity(views[0].float(), views[1].float(), dim=-1).mean()
