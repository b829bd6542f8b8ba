"""Speaker verification: embeddings that tell whether two recordings are of one speaker, of speakers that training never heard."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiossl.contracts import StepOutput
from audiossl.data.kaldi import TRIALS, read_table
from audiossl.data.lines import parse_trial
from audiossl.losses.margin_softmax import margin_softmax
from audiossl.margins.additive import Additive
from audiossl.metrics._detection import detection_curve
from audiossl.metrics.equal_error_rate import curve_eer
from audiossl.metrics.min_dcf import curve_min_dcf
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.statistics_pooling import statistics, uniform_weights, without_padding
from audiossl.nn.task import Task
from audiossl.nn.utterance_classifier import CLASSES, ClassLabels
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks._sizes import check_sizes
from audiossl.tasks._variants import BY_CHANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

_CONTEXT = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
"""Kernel and dilation of the five layers."""
_LOST = sum((kernel - 1) * dilation for kernel, dilation in _CONTEXT)
"""Frames that the layers take off the ends: they are given none beyond them."""
_RESERVED = 2  # `<blank>` and `<unk>` come first in a vocabulary and are no speakers


class SpeakerVerification(Task):
    """The task ASV of SUPERB (Yang et al., 2021, section 3.2): an x-vector network on the weighted layers, AM-softmax over training's speakers.

    The embedding that is scored is what the first of the two layers above the pooling gives, divided by its length. Five layers of the
    time-delay network, each with ReLU and without batch norm, see 15 frames; a recording needs 16. Differs from the published code:
    standard deviations have a floor of 0.003, and padding is never counted.
    """

    variant: ClassVar[str] = f"deviations have a floor of 0.003; {BY_CHANCE}"

    @dataclass(frozen=True)
    class Config:
        """Defaults are the protocol's.

        column: file of DIR/train that says the speaker. hidden_dim: of all layers but the last of the network, which has pooled_dim.
        scale, margin: of AM-softmax. gain_db, trim_silence: what SoX does to all recordings before anything else, `gain -3` and `silence 1 0.1 0.1% -1 0.1
        0.1%`. min_seconds: shorter ones, after that, are left out of training. crop_seconds: of training. These four are of `audiossl superb` alone.
        """

        column: str = "utt2spk"
        hidden_dim: int = 512
        pooled_dim: int = 1500
        scale: float = 30.0
        margin: float = 0.4
        gain_db: float = -3.0
        trim_silence: bool = True
        min_seconds: float = 2.0
        crop_seconds: float = 8.0

        def __post_init__(self) -> None:
            check_sizes(self, 1, "hidden_dim", "pooled_dim")
            if self.crop_seconds <= 0 or self.min_seconds < 0:
                raise ValueError(
                    f"task.crop_seconds: {self.crop_seconds} is not above 0, or task.min_seconds: {self.min_seconds} below it; give seconds"
                )

        @classmethod
        def tiny(cls) -> SpeakerVerification.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(hidden_dim=8, pooled_dim=12)

    metric: tuple[str, Literal["min", "max"]] = ("eer", "min")
    min_frames: ClassVar[int] = _LOST + 2
    selects_on_test = True
    """The protocol reports the best of its checkpoints on test."""

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config: SpeakerVerification.Config = config
        self.vocabulary = vocabulary
        self.needs = (config.column,)
        self.labels = ClassLabels(vocabulary, config.column)
        self.weighted = WeightedLayers(num_layers)
        self.projector = nn.Linear(encoder_dim, config.hidden_dim)
        widths = [*[config.hidden_dim] * len(_CONTEXT), config.pooled_dim]
        self.convs = nn.ModuleList(
            nn.Conv1d(before, width, kernel, dilation=dilation)
            for (before, width), (kernel, dilation) in zip(pairwise(widths), _CONTEXT, strict=True)
        )
        self.first = nn.Linear(2 * config.pooled_dim, config.hidden_dim)
        self.second = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.speakers = nn.Parameter(torch.empty(len(vocabulary) - _RESERVED, config.hidden_dim))
        nn.init.xavier_normal_(self.speakers)
        self.margin = Additive(Additive.Config(margin=config.margin))

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it for the speakers of a data directory; ValueError for fewer than two."""
        vocabulary = Vocabulary.from_manifest(manifest, config.column, "words")
        if len(vocabulary) < _RESERVED + 2:
            raise ValueError(f"{manifest.path / config.column}: has one speaker; give recordings of at least two")
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> Self:
        """Build it for the speakers that an experiment was trained with."""
        return cls(encoder.dim, encoder.num_layers, config, Vocabulary.load(experiment / CLASSES))

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:
        """Speakers, and where it is scored the trials."""
        return (config.column,) if part == "train" else (config.column, TRIALS)

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:  # noqa: ARG003 - as all tasks have it
        """Raise ValueError for a line of `trials` that is none, or names an utterance that the directory lacks, and for trials of one kind alone."""
        row, path = {name: index for index, name in enumerate(manifest.ids)}, manifest.path / TRIALS
        *_, labels = _read_trials(path, row, "is no utterance of this directory; correct the line, or take it out")
        if labels.all() or not labels.any():
            lacking = "target" if not labels.any() else "nontarget"
            raise ValueError(f"{path}: has no {lacking} trial, and an error rate needs both kinds; add some")

    @classmethod
    def check_heard(cls, config: Config, manifest: Manifest, unusable: Mapping[str, str]) -> None:  # noqa: ARG003 - as `check_labels`
        """Raise ValueError for a line of `trials` that names a recording without an embedding. unusable: what is wrong with them, by utterance."""
        path = manifest.path / TRIALS
        for number, key, value in read_table(path):
            for name in parse_trial(key, value) or ():
                if name in unusable:
                    raise ValueError(
                        f"{path}:{number}: {name!r} has no embedding ({unusable[name]}); mend its recording, or take its trials out"
                    )

    def save_labels(self, experiment: Path) -> None:
        """Write the speakers into the experiment folder."""
        self.vocabulary.save(experiment / CLASSES)

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def hidden(self, output: EncoderOutput) -> Tensor:
        """(batch, hidden_dim), what the first layer above the pooling gives; ValueError where a recording has fewer than 16 frames."""
        shortest = int(output.lengths.min())
        if shortest < self.min_frames:
            raise ValueError(
                f"a recording of {shortest} frames is too short for the speaker network ({self.min_frames}); leave it out"
            )
        frames = self.projector(self.weighted(output)).transpose(1, 2)  # (batch, hidden_dim, frame)
        for conv in self.convs:
            frames = torch.relu(conv(frames))
        lengths = output.lengths.to(frames.device) - _LOST
        frames = without_padding(frames.transpose(1, 2), lengths)
        mean, deviation = statistics(frames, uniform_weights(frames, lengths))
        unbiased = (lengths / (lengths - 1)).sqrt().unsqueeze(1)  # SUPERB divides by one frame less
        hidden: Tensor = torch.relu(self.first(torch.cat([mean, deviation * unbiased], dim=1)))
        return hidden

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum of the utterances' AM-softmax losses, and their number."""
        embedding, target = torch.relu(self.second(self.hidden(output))), batch["label"]
        result = margin_softmax(embedding, self.speakers, target, scale=self.config.scale, margin=self.margin)
        count = torch.tensor(float(len(target)), device=embedding.device)
        return StepOutput(result.loss.sum(), count, {"accuracy": ((result.prediction == target).sum(), count)})

    def predict(self, output: EncoderOutput) -> list[np.ndarray]:
        """Return the embedding of each utterance: (hidden_dim,) float32 of length 1."""
        return list(F.normalize(self.hidden(output).float(), dim=1).cpu().numpy())

    def evaluate(self, predictions: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, float]:
        """Score the cosines of the directory's `trials`: `eer` in percent, and `min_dcf` at a prior of 0.01, where 1 is useless.

        ValueError names a trial of which a side has no embedding.
        """
        *_, labels, scores = _scored_trials(predictions, manifest)
        curve = detection_curve(scores, labels)
        return {"eer": curve_eer(curve), "min_dcf": curve_min_dcf(curve)}

    def answers(
        self,
        said: Mapping[str, np.ndarray],
        manifest: Manifest,
        settings: Mapping[str, Any],  # noqa: ARG002 - as all tasks have it
    ) -> dict[str, Iterable[str]]:
        """Lines `enrol test score`, trial by trial, as `audiossl verify --scores` reads them."""
        return {"scores": _score_lines(said, manifest)}


def _score_lines(said: Mapping[str, np.ndarray], manifest: Manifest) -> Iterator[str]:
    names = list(said)
    enrol, test, _, scores = _scored_trials(said, manifest)
    for one, other, score in zip(enrol, test, scores, strict=True):
        yield f"{names[one]} {names[other]} {score:.9g}"


def _scored_trials(
    embeddings: Mapping[str, np.ndarray], manifest: Manifest
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of enrolment and test in `embeddings`, whether they are one speaker, and their cosine: (trial,) each."""
    row = {name: index for index, name in enumerate(embeddings)}
    enrol, test, labels = _read_trials(
        manifest.path / TRIALS, row, "has no embedding; mend its recording, or take the trial out"
    )
    vectors = np.stack(list(embeddings.values()))
    scores = np.empty(len(labels), np.float32)
    for start in range(0, len(scores), 65_536):
        part = slice(start, start + 65_536)
        scores[part] = np.einsum("td,td->t", vectors[enrol[part]], vectors[test[part]])
    return enrol, test, labels, scores


def _read_trials(path: Path, row: Mapping[str, int], lacking: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of enrolment and test, and whether they are one speaker: (trial,) each, from either format of `trials`.

    lacking: what the error says of a name that has no row.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write `enrol test target|nontarget` lines, or `audiossl trials`")
    sides: tuple[list[int], list[int]] = [], []
    labels = []
    for number, key, value in read_table(path):
        pair = parse_trial(key, value)
        if pair is None:
            raise ValueError(
                f"{path}:{number}: not `enrol test target|nontarget` or `1|0 enrol test`; correct the line"
            )
        for name, side in zip(pair, sides, strict=True):
            if name not in row:
                raise ValueError(f"{path}:{number}: {name!r} {lacking}")
            side.append(row[name])
        word = value.split()[1]
        labels.append(word == "target" if word in {"target", "nontarget"} else key == "1")
    return np.array(sides[0]), np.array(sides[1]), np.array(labels, dtype=np.bool_)
