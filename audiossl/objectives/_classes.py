"""What objectives with one class per utterance share: classes learnt from a column, a vector for each, and margin softmax between them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from audiossl.data.manifest import Manifest
from audiossl.losses.margin_softmax import margin_softmax
from audiossl.objectives._speaker import CropConfig, CropViews, MarginConfig, SpeakerObjective, output_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput, Utterance

_NO_CLASS = -1


@dataclass(frozen=True)
class ClassConfig:
    """Defaults: AAM-softmax of ECAPA-TDNN (Desplanques et al., 2020), on crops of 2 s.

    column: file of the data directory with the classes. crop_duration: s. scale: 1 / temperature. fraction: of each class' utterances
    whose label is used, at least one; which they are depends on `seed` and their ids alone, and a smaller fraction is part of a larger one.
    """

    column: str
    crop_duration: float = 2.0
    scale: float = 30.0
    margin: MarginConfig = field(default_factory=lambda: MarginConfig("additive_angular", 0.2))
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"objective.scale: {self.scale} is not positive")
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
        found, lots = np.empty(len(manifest), dtype=np.int64), np.empty(len(manifest), dtype=np.uint64)
        for index in range(len(manifest)):
            name = _word(values[index], manifest.path / config.column, manifest.ids[index])
            found[index] = numbers.setdefault(name, len(numbers))
            lots[index] = _lot(manifest.ids[index], config.seed)
        if len(numbers) < 2:
            raise ValueError(
                f"{manifest.path / config.column}: {len(numbers)} class; two or more are needed to tell apart"
            )
        counts = np.bincount(found)
        shown = np.maximum(1, np.rint(config.fraction * counts)).astype(np.int64)
        last = np.cumsum(counts) - counts + shown - 1  # of each class' shown utterances, once all are sorted
        limits = lots[np.lexsort((lots, found))][last]
        names = sorted(numbers)
        return cls(config.column, config.seed, tuple(names), tuple(int(limits[numbers[name]]) for name in names))

    def number(self, utterance: str, value: str) -> int:
        """Class of an utterance, -1 where training has no such class or the utterance keeps its label to itself."""
        number = self.numbers.get(_word(value, self.column, utterance), _NO_CLASS)
        return number if number != _NO_CLASS and _lot(utterance, self.seed) <= self.limits[number] else _NO_CLASS


@dataclass(frozen=True)
class ClassViews:
    """One crop, and the number of its class."""

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
    """The base: margin softmax of one crop over vectors of classes. A subclass says its `Config`.

    The names of the classes are in the state: a run goes on with the classes that it began with, or not at all. Utterances without a
    label, or with one that training does not have, add no loss and are not counted, but batch norms see them.
    """

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: ClassConfig, classes: Classes) -> None:
        crop = CropConfig(config.crop_duration)
        super().__init__(encoder, crop, (config.crop_duration,))
        self.config, self.classes = config, classes
        self.needs = (config.column,)
        light = ClassViews(CropViews((config.crop_duration,), crop.crops, encoder.sample_rate), classes)
        self.views, self.batch_views = light.views, light.batch_views
        self.margin = config.margin.build()
        self.vectors = nn.Parameter(torch.empty(len(classes.names), encoder.embedding_dim))
        nn.init.xavier_normal_(self.vectors)

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> ClassObjective:
        """Build it for the classes of a data directory."""
        return cls(encoder, config, Classes.of(Manifest.open(data_dir), config))

    def labelled(self, manifest: Manifest) -> Manifest:
        """Return the utterances that show a label: reading only these, instead of all, changes no loss and saves the rest of the audio."""
        values, number = manifest.column(self.config.column), self.classes.number
        shown = (number(manifest.ids[index], values[index]) for index in range(len(manifest)))
        return manifest.subset(np.flatnonzero(np.fromiter(shown, np.int64, len(manifest)) != _NO_CLASS))

    @property
    def gate(self) -> float | None:
        """Loss above which a label is taken for wrong in this step, nats; None: all are believed."""
        return None

    def forward(self, batch: Batch) -> StepOutput:
        """See `margin_softmax`. accuracy: share of labelled utterances nearest to the vector of their class, of those of known class.

        labelled: share of utterances with a label. kept: share of these that pass the gate.
        """
        gate = self.gate
        [embeddings] = self.embed(self.pieces(batch))
        labelled = batch["label"] >= 0
        result = margin_softmax(
            embeddings,
            self.vectors,
            batch["label"].clamp_min(0),
            scale=self.config.scale,
            margin=self.margin,
            gate=gate,
        )
        kept = labelled & result.kept
        output = output_of(result.loss.new_zeros(()), embeddings.unsqueeze(0))
        output.loss_sum, output.count = result.loss.masked_fill(~kept, 0.0).sum(), kept.sum().float()
        total = labelled.sum().float()
        output.metrics |= {
            "accuracy": (((result.prediction == batch["label"]) & labelled).sum().float(), total),
            "labelled": (total, torch.full_like(total, len(labelled))),
            "kept": (output.count, total),
        }
        return output

    def get_extra_state(self) -> Tensor:
        """Names of the classes, one to a line, as UTF-8: (byte,) uint8."""
        return torch.frombuffer(bytearray("\n".join(self.classes.names).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """ValueError where a checkpoint knows other classes than the data: its vectors would mean others."""
        names = tuple(bytes(state.cpu().tolist()).decode().split("\n"))
        if names != self.classes.names:
            odd = min(set(names) ^ set(self.classes.names))
            raise ValueError(
                f"{self.config.column}: {len(self.classes.names)} classes, {len(names)} when this experiment began; they differ in {odd!r}; "
                "give the same data, or start a new experiment with --init"
            )


def _word(value: str, place: Path | str, utterance: str) -> str:
    word = value.strip()
    if len(word.split()) != 1:
        raise ValueError(f"{place}: {utterance} has {word!r}; a class is one word: write it with underscores")
    return word


def _lot(utterance: str, seed: int) -> int:
    """A number that looks random and never changes: 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {utterance}".encode(), digest_size=8).digest(), "big")
