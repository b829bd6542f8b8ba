"""Voice conversion on a frozen encoder: what anybody says, in the one voice that training has heard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from audiossl import registry
from audiossl.contracts import StepOutput
from audiossl.data.audio import read_audio
from audiossl.nn.masking import valid_frames
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.task import Task, measured_lines
from audiossl.tasks._conversion_scores import converted
from audiossl.tasks._converter import Converter
from audiossl.tasks._labels import check_recordings
from audiossl.tasks._mel import BINS, HOP, SAMPLE_RATE, log_mel
from audiossl.tasks._variants import BY_CHANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder


class VoiceConversion(Task):
    """The task VC of SUPERB-SG (Tsai et al., 2022, section 3; Huang et al., 2022): a log-mel spectrum of the target's voice, made frame by frame.

    Trained to give the target's own recordings back, by the mean absolute error of normalised spectra; tested on other voices, beside recordings of the target saying the same.
    Differs from the published code: see `Converter`, `waveform_of`, `mel_cepstral_distortion`; while reading out, dropout leaves the same units out each time.
    """

    selects_on_test: ClassVar[bool] = True
    variant: ClassVar[str] = (
        "waveforms by Griffin and Lim, where a neural vocoder makes them; "
        "mel-cepstra of the power spectrum and an exact alignment, where the published code takes WORLD's envelope and FastDTW; "
        f"word errors and accept rates by other models than the published ones; {BY_CHANCE}"
    )

    @dataclass(frozen=True)
    class Config:
        """The published model `taco2_ar`; `encoder = "linear"` is its `simple_ar`. Its code has no use for its setting of narrower cells.

        column: file of the data directory that names, for each utterance, a recording of the target saying the same, at any rate; in training the
        utterance itself. hidden_dim: of the encoder and the cells. prenet_dims: of its layers. recogniser: an experiment of `audiossl finetune` that writes
        texts, for `wer` against `text_column`; "": none. verifier: an encoder, as `audiossl verify` takes it, for `accept`, the share of conversions whose cosine to the target's
        recording is above the threshold of equal errors between the recordings of a directory, where there are several voices; "": none. Published scores come
        from models that are not ours, so that no value of either is comparable (our variant). num_workers: processes that make waveforms and measure; 0 for none.
        """

        column: str = "utt2target"
        text_column: str = "text"
        encoder: Literal["tacotron2", "linear"] = "tacotron2"
        hidden_dim: int = 1024
        prenet_dims: tuple[int, ...] = (256, 256)
        prenet_dropout: float = 0.5
        cells: int = 2
        dropout: float = 0.2
        recogniser: str = ""
        verifier: str = ""
        num_workers: int = 4

        def __post_init__(self) -> None:
            if self.hidden_dim < 2 or self.hidden_dim % 2 or min((self.cells, *self.prenet_dims)) < 1:
                raise ValueError(
                    f"task: hidden_dim {self.hidden_dim} must be positive and even, cells {self.cells} and prenet_dims {self.prenet_dims} at least 1"
                )
            if not 0 <= self.dropout < 1 or not 0 <= self.prenet_dropout < 1 or self.num_workers < 0:
                raise ValueError(
                    f"task: dropout {self.dropout} and prenet_dropout {self.prenet_dropout} must be in [0, 1), num_workers {self.num_workers} at least 0"
                )

        @classmethod
        def tiny(cls) -> VoiceConversion.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(column="utt2clean", hidden_dim=4, prenet_dims=(3,), num_workers=0)

    aligned: ClassVar[bool] = True
    metric: tuple[str, Literal["min", "max"]] = ("mcd", "min")

    def __init__(self, encoder_dim: int, num_layers: int, frame_rate: float, config: Config) -> None:
        super().__init__()
        self.config: VoiceConversion.Config = config
        self.needs = self.label_files(config, "train")
        self.labels = TargetLabels(config.column)
        self.weighted = WeightedLayers(num_layers)
        self.converter = Converter(
            encoder_dim,
            BINS,
            ratio=SAMPLE_RATE / HOP / frame_rate,
            encoder=config.encoder,
            hidden_dim=config.hidden_dim,
            prenet_dims=config.prenet_dims,
            prenet_dropout=config.prenet_dropout,
            cells=config.cells,
            dropout=config.dropout,
        )

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> VoiceConversion:
        """Build it, with the mean and deviation of the target's spectra; reads all of its recordings once. ValueError for a judge that cannot be opened."""
        # By name, as tasks name their runner: what loads models lies above this room.
        registry.get("superb", "audiossl.superb.judges:check_judges")(config.recogniser, config.verifier)
        task = cls.from_experiment(encoder, config, manifest.path)
        count, total, squares = 0, np.zeros(BINS), np.zeros(BINS)
        for path in manifest.column(config.column):
            mel = log_mel(read_audio(path, sample_rate=SAMPLE_RATE)).astype(np.float64)
            count, total, squares = count + len(mel), total + mel.sum(axis=0), squares + (mel**2).sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
        task.converter.mean.copy_(torch.from_numpy(mean))
        task.converter.deviation.copy_(torch.from_numpy(deviation))
        return task

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> VoiceConversion:  # noqa: ARG003 - all is in the weights
        """Build it; the statistics come with the weights."""
        return cls(encoder.dim, encoder.num_layers, encoder.sample_rate / encoder.stride, config)

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Recordings of the target, and texts where words are counted."""
        return (config.column, *([config.text_column] if config.recogniser else []))

    @classmethod
    def file_columns(cls, config: Config) -> tuple[str, ...]:
        """The column that names recordings."""
        return (config.column,)

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError for a recording of the target that is not there, by its header."""
        check_recordings(manifest, config.column, as_long=False)

    @classmethod
    def not_measured(cls, config: Config) -> str:
        """Say which of the published values need a model that is not named; "" where none does."""
        keys = {"WER": "recogniser", "accept rate": "verifier"}
        absent = {value: f"task.{key}" for value, key in keys.items() if not getattr(config, key)}
        verb = "are" if len(absent) > 1 else "is"
        return (
            f"{' and '.join(absent)} {verb} not measured: {' and '.join(absent.values())} {verb} empty"
            if absent
            else ""
        )

    def save_labels(self, experiment: Path) -> None:
        """Write nothing: what is learnt is in the weights."""

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum over frames that both spectra have of the mean absolute error of their channels, and the number of such frames."""
        target, lengths = batch["mel"], batch["mel_lengths"]
        made, frames = self._made(output, target)
        width = min(made.shape[1], target.shape[1])
        valid = valid_frames(torch.minimum(frames, lengths.to(frames.device)), width)
        error = (self.converter.normalised(made[:, :width]) - self.converter.normalised(target[:, :width])).abs()
        total = error.mean(dim=2).masked_fill(~valid, 0.0).sum()
        return StepOutput(total, valid.sum().to(total))

    def predict(self, output: EncoderOutput) -> list[np.ndarray]:
        """Return the spectra of each utterance, (frame, bin) float32."""
        made, frames = self._made(output, None)
        return [row[:count] for row, count in zip(made.float().cpu().numpy(), frames.tolist(), strict=True)]

    def evaluate(self, predictions: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, float]:
        """Return `mcd`, the mean mel-cepstral distortion in dB, and what the models of `config` say of the waveforms."""
        return self.examine(predictions, manifest)[0]

    def examine(
        self, predictions: Mapping[str, np.ndarray], manifest: Manifest
    ) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return what `evaluate` does, and `mcd` of each utterance."""
        config = self.config
        where = {name: index for index, name in enumerate(manifest.ids)}
        rows = [where[name] for name in predictions]
        column = manifest.column(config.column)
        targets = [column[row] for row in rows]
        waveforms, distortions = converted(list(predictions.values()), targets, config.num_workers)
        scores = {"mcd": float(np.mean(distortions))}
        if config.recogniser:
            judge = registry.get("superb", "audiossl.superb.judges:recognised")
            texts = manifest.column(config.text_column)
            scores |= judge(waveforms, SAMPLE_RATE, [texts[row] for row in rows], config.recogniser)
        if config.verifier:
            judge = registry.get("superb", "audiossl.superb.judges:verified")
            scores |= judge(waveforms, SAMPLE_RATE, targets, manifest, rows, config.verifier)
        return scores, {name: {"mcd": value} for name, value in zip(predictions, distortions, strict=True)}

    def answers(
        self,
        said: Mapping[str, dict[str, float]],
        manifest: Manifest,  # noqa: ARG002 - as all tasks have it
        settings: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Iterable[str]]:
        """Lines `utterance mcd value`."""
        return {"scores": measured_lines(said)}

    def _made(self, output: EncoderOutput, target: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.weighted(output)
        made, frames = self.converter(features, output.lengths.to(features.device), target)
        return made, frames


@dataclass(frozen=True)
class TargetLabels:
    """The target's recording to its spectrum, in the loader's workers."""

    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """mel: (frame, bin) float32."""
        return {"mel": log_mel(read_audio(utterance.columns[self.column], sample_rate=SAMPLE_RATE))}
