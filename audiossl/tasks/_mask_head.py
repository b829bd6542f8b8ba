"""What the tasks share that cut sources out of a mixture by masks on its spectrum: enhancement and separation of SUPERB-SG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.stft import BINS, MAX_HOP, stft
from audiossl.losses.permutation_free_mse import permutation_free_mse
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.recurrent import BLSTM
from audiossl.nn.task import Task, measured_lines
from audiossl.tasks._labels import check_recordings
from audiossl.tasks._mask_scores import METRICS, Scoring, check_metrics, read_source
from audiossl.tasks._variants import BY_CHANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder


_HOP = 320
"""Samples between windows where an upstream's stride is too long for their transform to be inverted: that of the upstreams the protocol was made for."""


@dataclass(frozen=True)
class MaskConfig:
    """The head of SUPERB-SG's SE and SS; defaults are the protocol's.

    columns: files of the data directory that name, for each utterance, the recordings in it, one output each: audio files as long as the utterance,
    relative ones from the current directory.
    hidden_dim: units of each direction. metrics: what is measured, of `pesq`, `stoi` and `si_sdr_improvement`; the first one chooses. num_workers:
    processes that measure; 0 measures in this one.
    """

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    hidden_dim: int = 896
    num_layers: int = 3
    dropout: float = 0.5
    num_workers: int = 4

    def __post_init__(self) -> None:
        if not 1 <= len(self.columns) <= 4:  # all orders of sources are tried
            raise ValueError(f"task.columns: {len(self.columns)} sources; give 1 to 4")
        if not self.metrics or not set(self.metrics) <= set(METRICS):
            raise ValueError(f"task.metrics: {' '.join(self.metrics) or 'none'}; give some of {', '.join(METRICS)}")
        if min(self.hidden_dim, self.num_layers) < 1 or not 0 <= self.dropout < 1 or self.num_workers < 0:
            raise ValueError(
                f"task: hidden_dim {self.hidden_dim} and num_layers {self.num_layers} must be at least 1, dropout {self.dropout} "
                f"in [0, 1) and num_workers {self.num_workers} at least 0"
            )


class MaskHead(Task):
    """BLSTM on the weighted layers, a linear layer and ReLU: a mask for each source on the magnitude of the mixture (SUPERB-SG: Tsai et al., 2022, section 3).

    The spectrum has windows of 512 samples (32 ms) every stride of the upstream. Masked magnitudes are trained to equal
    |S| max(0, cos(phase of the mixture - phase of S)) (Kolbaek et al., 2017, section III: the nonnegative phase-sensitive mask), sources in their best order.
    Our variant: the frames of an upstream with a stride above 400 samples are interpolated to one every 320, which the BLSTM then reads.
    Differs from the published code: where the upstream has fewer frames than the spectrum, the last mask is repeated, while there the BLSTM
    runs on through frames of zeros; the order of sources is that of the best SI-SDR; and see `data.stft.istft` for a recording's last samples.
    """

    averages: ClassVar[bool] = True
    variant: ClassVar[str] = (
        f"the last mask is repeated where an upstream has too few frames; sources in the order of the best SI-SDR; {BY_CHANCE}"
    )
    hears: ClassVar[bool] = True
    aligned: ClassVar[bool] = True
    encoder_needs: ClassVar[tuple[str, ...]] = ("local_features", "contextualise")  # and so one that reads waveforms

    labels: MaskLabels

    def __init__(self, encoder_dim: int, num_layers: int, stride: int, sample_rate: int, config: MaskConfig) -> None:
        super().__init__()
        self.config: MaskConfig = config
        self.stride, self.sample_rate = stride, sample_rate
        self.hop = stride if stride <= MAX_HOP else _HOP
        self.needs = config.columns
        self.metric: tuple[str, Literal["min", "max"]] = (config.metrics[0], "max")
        self.labels = MaskLabels(config.columns, self.hop)
        self.weighted = WeightedLayers(num_layers)
        self.blstm = BLSTM(encoder_dim, config.hidden_dim, config.num_layers, dropout=config.dropout)
        self.output = nn.Linear(2 * config.hidden_dim, BINS * len(config.columns))

    @classmethod
    def variant_at(cls, stride: int) -> str:
        """`variant` on an upstream with this stride, samples."""
        return (
            cls.variant
            if stride <= MAX_HOP
            else f"{cls.variant}; frames every {stride} samples interpolated to every {_HOP}"
        )

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: MaskConfig, manifest: Manifest) -> Self:  # noqa: ARG003 - nothing to learn there
        """Build it; ValueError for metrics that cannot be measured here."""
        check_metrics(config.metrics, encoder.sample_rate)
        return cls(encoder.dim, encoder.num_layers, encoder.stride, encoder.sample_rate, config)

    @classmethod
    def file_columns(cls, config: MaskConfig) -> tuple[str, ...]:
        """All columns name recordings."""
        return config.columns

    @classmethod
    def check_labels(cls, config: MaskConfig, manifest: Manifest) -> None:
        """Raise ValueError for a source that is not there or not as long as its mixture, by its header."""
        for name in config.columns:
            check_recordings(manifest, name, as_long=True)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: MaskConfig, experiment: Path) -> Self:  # noqa: ARG003 - nothing was saved
        """Build it as for training."""
        return cls(encoder.dim, encoder.num_layers, encoder.stride, encoder.sample_rate, config)

    def save_labels(self, experiment: Path) -> None:
        """Write nothing: sources have no names."""

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def masks(self, output: EncoderOutput) -> tuple[Tensor, Tensor]:
        """(batch, frame, bin, source), not negative, a frame every `hop` samples, and their numbers (batch,)."""
        frames, lengths = self._every_hop(self.weighted(output), output.lengths)
        masks: Tensor = self.output(self.blstm(frames, lengths)).relu().unflatten(-1, (BINS, len(self.config.columns)))
        return masks, lengths

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum over utterances of the squared error per frame and source, and their number."""
        mixture, targets, lengths = batch["mixture"], batch["targets"], batch["mixture_lengths"]
        masks, given = self.masks(output)
        frame = torch.arange(mixture.shape[1], device=masks.device)
        last = given.to(masks.device).unsqueeze(1) - 1
        masks = masks[torch.arange(len(masks), device=masks.device).unsqueeze(1), torch.minimum(frame, last)]
        loss = permutation_free_mse(masks * mixture.unsqueeze(3), targets, lengths)
        return StepOutput(loss.sum(), torch.full_like(loss[0], len(loss)).detach())

    def predict(self, output: EncoderOutput) -> list[np.ndarray]:
        """Return the masks of each utterance, (frame, bin, source) float32, a frame every `hop` samples."""
        masks, lengths = self.masks(output)
        return [row[:length] for row, length in zip(masks.float().cpu().numpy(), lengths.tolist(), strict=True)]

    def evaluate(self, predictions: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, float]:
        """Return `config.metrics`, means over utterances; the recordings are read again, and the masks applied to them."""
        return self.examine(predictions, manifest)[0]

    def examine(
        self, predictions: Mapping[str, np.ndarray], manifest: Manifest
    ) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return the means, and the metrics of each utterance."""
        config = self.config
        scoring = Scoring(manifest, config.columns, config.metrics, self.hop, self.sample_rate)
        each = scoring.each(predictions, config.num_workers)
        return {name: float(np.mean([row[name] for row in each.values()])) for name in config.metrics}, each

    def answers(
        self,
        said: Mapping[str, dict[str, float]],
        manifest: Manifest,  # noqa: ARG002 - as all tasks have it
        settings: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Iterable[str]]:
        """Lines `utterance metric value ...`."""
        return {"scores": measured_lines(said)}

    def _every_hop(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate (batch, frame, dim) linearly from one frame every `stride` samples to one every `hop`."""
        if self.hop == self.stride:
            return frames, lengths
        many = (lengths * self.stride + self.hop - 1) // self.hop
        place = torch.arange(int(many.max()), device=frames.device) * (self.hop / self.stride)
        last = lengths.to(frames.device).unsqueeze(1) - 1
        before = torch.minimum(place.long().unsqueeze(0), last)
        row = torch.arange(len(frames), device=frames.device).unsqueeze(1)
        share = place.frac().unsqueeze(1)
        return torch.lerp(frames[row, before], frames[row, torch.minimum(before + 1, last)], share.to(frames)), many


@dataclass(frozen=True)
class MaskLabels:
    """Recordings of the sources to targets, in the loader's workers."""

    columns: tuple[str, ...]
    hop: int

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """mixture: magnitudes (frame, bin) float32. targets: (frame, bin, source) float32. Of the utterance or, where it is one, of the piece."""
        start, samples = getattr(utterance, "start", 0.0), len(utterance.waveform)
        mixture = stft(utterance.waveform, self.hop)
        magnitude = np.abs(mixture)
        # |S| cos(difference of phases) = Re(S conj(X)) / |X|; where the mixture has nothing, no mask can give anything.
        phase = np.divide(mixture, magnitude, out=np.zeros_like(mixture), where=magnitude > 0)
        targets = []
        for name in self.columns:
            source = read_source(
                utterance.columns[name], samples, utterance.sample_rate, start=start, seconds=utterance.duration
            )
            targets.append(np.maximum((stft(source, self.hop) * phase.conj()).real, 0.0))
        return {"mixture": magnitude, "targets": np.stack(targets, axis=2)}
