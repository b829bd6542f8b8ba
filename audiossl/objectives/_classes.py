"""What objectives with one class per utterance share: classes learnt from a column, a vector for each, and margin softmax between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from audiossl.data.lots import limits, lot
from audiossl.data.manifest import Manifest
from audiossl.losses.margin_softmax import margin_softmax
from audiossl.objectives._speaker import CropConfig, CropRule, CropViews, MarginConfig, SpeakerObjective, output_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput, Utterance

_NO_CLASS = -1


@dataclass(frozen=True)
class ClassConfig:
    """Defaults: AAM-softmax of ECAPA-TDNN (Desplanques et al., 2020), on crops of 2 s.

    column: file of the data directory with the classes. crop_duration: s. num_crops: of an utterance, each an example of its class. crops:
    see `CropConfig`. scale: 1 / temperature. fraction: of each class' utterances whose label is used, at least one; which they are depends
    on `seed` and their ids alone, and a smaller fraction is part of a larger one.
    """

    partial: ClassVar[bool] = False
    """Whether an utterance without a line in the column is one without a label; otherwise the column is faulty."""

    column: str
    crop_duration: float = 2.0
    num_crops: int = 1
    crops: CropRule = "independent"
    scale: float = 30.0
    margin: MarginConfig = field(default_factory=lambda: MarginConfig("additive_angular", 0.2))
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.num_crops < 1:
            raise ValueError(f"objective: scale {self.scale} and num_crops {self.num_crops} must be positive")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"objective.fraction: {self.fraction} is not in (0, 1]; 0.02 is 2 %")


@dataclass(frozen=True)
class Classes:
    """Classes by number, and which utterances of each show their label.

    names: in C order. limits: per class, the largest `lot` of an utterance with a label.
    """

    column: str
    seed: int
    names: tuple[str, ...]
    limits: tuple[int, ...]
    numbers: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers.update({name: number for number, name in enumerate(self.names)})

    @classmethod
    def of(cls, manifest: Manifest, config: ClassConfig) -> Self:
        """Learn them in one pass over the column, which holds 16 bytes per utterance; ValueError names what is no class."""
        values, numbers = manifest.column(config.column), dict[str, int]()
        found, lots = np.full(len(manifest), _NO_CLASS), np.empty(len(manifest), dtype=np.uint64)
        for index in range(len(manifest)):
            if config.partial and not values.has(index):
                continue
            name = _word(values[index], manifest.path / config.column, manifest.ids[index])
            found[index] = numbers.setdefault(name, len(numbers))
            lots[index] = lot(manifest.ids[index], config.seed)
        found, lots = found[found != _NO_CLASS], lots[found != _NO_CLASS]
        if len(numbers) < 2:
            raise ValueError(
                f"{manifest.path / config.column}: {len(numbers)} class; two or more are needed to tell apart"
            )
        largest, names = limits(lots, found, config.fraction), sorted(numbers)
        return cls(config.column, config.seed, tuple(names), tuple(int(largest[numbers[name]]) for name in names))

    def number(self, utterance: str, value: str) -> int:
        """Class of an utterance, -1 where training has no such class or the utterance keeps its label to itself."""
        number = self.numbers.get(_word(value, self.column, utterance), _NO_CLASS)
        return number if number != _NO_CLASS and lot(utterance, self.seed) <= self.limits[number] else _NO_CLASS


@dataclass(frozen=True)
class ClassViews:
    """Crops, and the number of their class."""

    crops: CropViews
    classes: Classes

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """waveform: (sample,). label: the class, -1 for none."""
        label = self.classes.number(utterance.id, utterance.columns[self.classes.column])
        return {**self.crops.views(utterance, rng), "label": label}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Change nothing."""
        return self.crops.batch_views(batch, rng)


class ClassObjective(SpeakerObjective):
    """The base: margin softmax of crops over vectors of classes. A subclass says its `Config`.

    The names of the classes are in the state: a run goes on with the classes that it began with, or not at all. Utterances without a
    label, or with one that training does not have, add no loss and are not counted, but batch norms see them.
    """

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    least_utterances = 1  # which is compared with the vectors
    least_in_process = 1
    """Of a batch in each process: batch norms of embeddings cannot do with a single crop."""

    def __init__(self, encoder: SpeakerEncoder, config: ClassConfig, classes: Classes) -> None:
        durations = (config.crop_duration,) * config.num_crops
        super().__init__(encoder, CropConfig(config.crop_duration, config.crops), durations)
        self.config, self.classes = config, classes
        self.needs = (config.column,)
        light = ClassViews(CropViews(durations, config.crops, encoder.sample_rate), classes)
        self.views, self.batch_views = light.views, light.batch_views
        self.margin = config.margin.build(1 / config.scale)
        self.vectors = nn.Parameter(torch.empty(len(classes.names), encoder.embedding_dim))
        nn.init.xavier_normal_(self.vectors)
        if config.num_crops == 1 and any(isinstance(module, _BatchNorm) for module in self.modules()):
            self.least_in_process = 2

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> ClassObjective:
        """Build it for the classes of a data directory."""
        return cls(encoder, config, Classes.of(Manifest.open(data_dir), config))

    def labelled(self, manifest: Manifest) -> Manifest:
        """Return the utterances that show a label: reading only these, instead of all, changes no loss and saves the rest of the audio."""
        values, number = manifest.column(self.config.column), self.classes.number
        there = (index for index in range(len(manifest)) if not self.config.partial or values.has(index))
        shown = (index for index in there if number(manifest.ids[index], values[index]) != _NO_CLASS)
        return manifest.subset(np.fromiter(shown, np.int64))

    @property
    def gate(self) -> float | None:
        """Loss above which a label is taken for wrong in this step, nats; None: all are believed."""
        return None

    def forward(self, batch: Batch) -> StepOutput:
        """See `judge`; every crop counts. accuracy: share of labelled crops that are taken for their class, of those of known class.

        labelled: share of crops with a label. kept: share of these that pass the gate.
        """
        embeddings = self.embed(self.pieces(batch))  # (crop, batch, dim)
        label = batch["label"].repeat(len(embeddings))
        judged = self.judge(embeddings.flatten(0, 1), label)
        output = output_of(judged.loss_sum.detach(), embeddings)
        output.loss_sum, output.count = judged.loss_sum, judged.kept.sum().float()
        total = (label >= 0).sum().float()
        output.metrics |= {
            "accuracy": (judged.right.sum().float(), total),
            "labelled": (total, torch.full_like(total, len(label))),
            "kept": (output.count, total),
        }
        return output

    def judge(self, rows: Tensor, label: Tensor) -> Judged:
        """See `margin_softmax`; a row is taken for the class of the nearest vector. rows: (row, dim). label: (row,), -1 for none."""
        result = margin_softmax(
            rows,
            self.vectors,
            label.clamp_min(0),
            scale=self.config.scale,
            margin=self.margin,
            gate=self.gate,
        )
        kept = (label >= 0) & result.kept
        return Judged(result.loss.masked_fill(~kept, 0.0).sum(), kept, (label >= 0) & (result.prediction == label))

    def get_extra_state(self) -> Tensor:
        """Names of the classes, one to a line, as UTF-8: (byte,) uint8."""
        return torch.frombuffer(bytearray("\n".join(self.classes.names).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """ValueError where a checkpoint knows other classes than the data: its vectors would mean others."""
        names = names_in(state)
        if names != self.classes.names:
            odd = min(set(names) ^ set(self.classes.names))
            raise ValueError(
                f"{self.config.column}: {len(self.classes.names)} classes, {len(names)} when this experiment began; they differ in {odd!r}; "
                "give the same data, or start a new experiment with --init"
            )


class Judged(NamedTuple):
    """loss_sum: over the rows that are kept, scalar. kept, right: (row,) bool, of labelled rows: believed, taken for their class."""

    loss_sum: Tensor
    kept: Tensor
    right: Tensor


def names_in(state: Tensor) -> tuple[str, ...]:
    """Names of the classes in the extra state of a `ClassObjective`."""
    return tuple(bytes(state.cpu().tolist()).decode().split("\n"))


def _word(value: str, place: Path | str, utterance: str) -> str:
    word = value.strip()
    if len(word.split()) != 1:
        raise ValueError(f"{place}: {utterance} has {word!r}; a class is one word: write it with underscores")
    return word
