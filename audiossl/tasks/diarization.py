"""Speaker diarisation: who of a fixed number of speakers talks in each frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.turns import UTT2TURNS, parse_turns, turn_labels, turn_spans
from audiossl.losses.permutation_free_cross_entropy import permutation_free_cross_entropy
from audiossl.metrics._diarization_grid import diarization_grid
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.task import Settled, Task
from audiossl.tasks._sizes import check_sizes
from audiossl.tasks._variants import BY_CHANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIANS = (1, 11)
"""What SUPERB's scoring tries on test, where the least counts."""


class Diarization(Task):
    """The task SD of SUPERB (Yang et al., 2021, section 3.2): a recurrent layer on the weighted layers, permutation-free binary cross entropy.

    Labels come from `utt2turns` at the upstream's stride. An upstream may give a frame less or more than a recording has labels; then its
    last answer is repeated, or what is left over is not asked for. Recordings go through the upstream in successive chunks, in evaluation too; accuracy is
    that of chunks, each with its own order of speakers, and DER that of recordings in time, whose chunks are put together as they are. Differs from the
    published code: who talks all through a chunk talks, where it hears nobody.
    """

    variant: ClassVar[str] = (
        f"who talks all through a chunk talks, where the published labels have nobody; turns end with frames, where the published tools round to segments; {BY_CHANCE}"
    )

    @dataclass(frozen=True)
    class Config:
        """Defaults are the protocol's.

        speakers: outputs; a recording may have fewer. chunk_frames: of the upstream, whatever its stride; of `audiossl superb` alone.
        """

        speakers: int = 2
        hidden_dim: int = 512
        chunk_frames: int = 2000

        def __post_init__(self) -> None:
            check_sizes(self, 1, "hidden_dim")
            if not 1 <= self.speakers <= 6:  # all orders of speakers are tried
                raise ValueError(f"task.speakers: {self.speakers} is not from 1 to 6")
            if self.chunk_frames < 1:
                raise ValueError(f"task.chunk_frames: {self.chunk_frames} is not positive; give frames of the upstream")

        @classmethod
        def tiny(cls) -> Diarization.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(hidden_dim=8)

    aligned: ClassVar[bool] = True
    metric: tuple[str, Literal["min", "max"]] = ("accuracy", "max")
    shown = "der"
    labels: TurnLabels

    def __init__(self, encoder_dim: int, num_layers: int, rate: float, config: Config) -> None:
        """rate: frames per second."""
        super().__init__()
        self.config: Diarization.Config = config
        self.rate = rate
        self.needs = (UTT2TURNS,)
        self.labels = TurnLabels(rate, config.speakers)
        self.weighted = WeightedLayers(num_layers)
        self.recurrent = nn.LSTM(encoder_dim, config.hidden_dim, batch_first=True)
        self.output = nn.Linear(config.hidden_dim, config.speakers)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:  # noqa: ARG003 - nothing to learn there
        """Build it; it wants nothing of the data but their turns."""
        return cls(encoder.dim, encoder.num_layers, encoder.sample_rate / encoder.stride, config)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> Self:  # noqa: ARG003 - nothing was saved
        """Build it as for training."""
        return cls(encoder.dim, encoder.num_layers, encoder.sample_rate / encoder.stride, config)

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Turns."""
        return (UTT2TURNS,)

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError for a line that holds no turns, and for more speakers than the head has outputs."""
        labels = TurnLabels(1.0, config.speakers)
        for name, value in zip(manifest.ids, manifest.column(UTT2TURNS), strict=True):
            try:
                labels.speech(name, value, 0.0, 0.0)
            except ValueError as error:
                raise ValueError(f"{manifest.path / UTT2TURNS}: {error}") from None

    def save_labels(self, experiment: Path) -> None:
        """Write nothing: speakers have no names here."""

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def logits(self, output: EncoderOutput) -> Tensor:
        """(batch, frame, speaker); a frame hears only what was before it, so that padding changes none."""
        hidden, _ = self.recurrent(self.weighted(output))
        scores: Tensor = self.output(hidden)
        return scores

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum over frames of the mean cross entropy of the speakers in their best order, and the number of frames."""
        labels, lengths = batch["turns"], batch["turns_lengths"]
        logits = self.logits(output)
        frame = torch.arange(labels.shape[1], device=logits.device)
        last = output.lengths.to(logits.device).unsqueeze(1) - 1
        logits = logits[torch.arange(len(logits), device=logits.device).unsqueeze(1), torch.minimum(frame, last)]
        result = permutation_free_cross_entropy(logits, labels, lengths)
        ordered = labels.gather(2, result.order.unsqueeze(1).expand(-1, labels.shape[1], -1))
        valid = (frame < lengths.unsqueeze(1)).unsqueeze(2)
        right = (((logits > 0) == ordered) & valid).sum() / self.config.speakers
        total, count = result.loss.sum(), lengths.sum()
        return StepOutput(total, count, {"accuracy": (right, count)})

    def predict(self, output: EncoderOutput) -> list[np.ndarray]:
        """Return the probability that each speaker talks, for each utterance (frame, speaker) float32."""
        probabilities = self.logits(output).float().sigmoid().cpu().numpy()
        return [row[:length] for row, length in zip(probabilities, output.lengths.tolist(), strict=True)]

    def evaluate(self, predictions: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, float]:
        """Return `accuracy` of frames, mean of the chunks, and `der_<threshold>_<median>` of every setting, all in percent."""
        turns, durations = manifest.column(UTT2TURNS), manifest.durations
        where = {name: index for index, name in enumerate(manifest.ids)}
        found, spans, accuracies, chunk = [], [], [], self.config.chunk_frames
        for name, prediction in predictions.items():
            index = where[name]
            reference = self.labels.speech(name, turns[index], 0.0, float(durations[index]))
            found.append(_of_length(prediction, len(reference)))
            accuracies += [
                _accuracy(found[-1][first : first + chunk], reference[first : first + chunk])
                for first in range(0, len(reference), chunk)
            ]
            spans.append(turn_spans(parse_turns(turns[index]) or [], num_frames=len(reference), rate=self.rate))
        rates = diarization_grid(
            found,
            [talking for talking, *_ in spans],
            thresholds=THRESHOLDS,
            medians=MEDIANS,
            spans=[(f, s) for _, f, s in spans],
        )
        named = {
            _setting(threshold, median): float(rates[row, column])
            for row, threshold in enumerate(THRESHOLDS)
            for column, median in enumerate(MEDIANS)
        }
        return {"accuracy": 100.0 * float(np.mean(accuracies)), **named}

    def answers(
        self, said: Mapping[str, np.ndarray], manifest: Manifest, settings: Mapping[str, Any]
    ) -> dict[str, Iterable[str]]:
        """Turns as lines of RTTM, at the threshold and median that dev chose, and at the official ones."""
        return {
            f"{choice}rttm": self._rttm(said, manifest, settings[f"{kind}threshold"], settings[f"{kind}median"])
            for choice, kind in (("", ""), ("official.", "official_"))
        }

    def _rttm(self, said: Mapping[str, np.ndarray], manifest: Manifest, threshold: float, median: int) -> Iterator[str]:
        from scipy.ndimage import median_filter  # type: ignore[import-untyped]

        seconds = dict(zip(manifest.ids, manifest.durations, strict=True))
        for name in sorted(said):
            talking = _of_length(said[name], self.labels.frames(float(seconds[name]))) > threshold
            talking = median_filter(talking.astype(np.int8), size=(median, 1), mode="constant")
            edges = np.diff(talking, axis=0, prepend=0, append=0)
            for speaker in range(talking.shape[1]):
                firsts, ends = (np.flatnonzero(edges[:, speaker] == sign) / self.rate for sign in (1, -1))
                for first, end in zip(firsts, ends, strict=True):
                    yield f"SPEAKER {name} 1 {first:.6f} {end - first:.6f} <NA> <NA> speaker{speaker + 1} <NA> <NA>"

    def settle(self, dev: Mapping[str, float], test: Mapping[str, float]) -> Settled:
        """Return test's values with `der` at the threshold and median that dev chose, and the official `der`: the least on test.

        dev, test: what `evaluate` returned for the same head.
        """
        grid = list(itertools.product(THRESHOLDS, MEDIANS))
        chosen, least = (min(grid, key=lambda pair: values[_setting(*pair)]) for values in (dev, test))
        settings = {
            "threshold": chosen[0], "median": chosen[1], "official_threshold": least[0], "official_median": least[1]
        }  # fmt: skip
        return Settled({"der": test[_setting(*chosen)], **test}, {"der": test[_setting(*least)]}, settings)


@dataclass(frozen=True)
class TurnLabels:
    """Turns of speakers to labels of frames, in the loader's workers. rate: frames per second. speakers: outputs of the head."""

    rate: float
    speakers: int

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """turns: (frame, speaker) bool, of the utterance or, where it is one, of the piece."""
        start = getattr(utterance, "start", 0.0)
        return {"turns": self.speech(utterance.id, utterance.columns[UTT2TURNS], start, utterance.duration)}

    def speech(self, name: str, value: str, start: float, duration: float) -> np.ndarray:
        """(frame, speaker) bool, whole frames of `duration` seconds from `start` on."""
        turns = parse_turns(value)
        if turns is None:
            raise ValueError(f"{name}: {UTT2TURNS} says {value[:40]!r}, not `speaker start end ...`; correct the line")
        found = turn_labels(turns, start=start, num_frames=self.frames(duration), rate=self.rate)
        if found.shape[1] > self.speakers:
            raise ValueError(
                f"{name}: {found.shape[1]} speakers, where the head tells {self.speakers} apart; leave it out or set task.speakers"
            )
        return np.pad(found, ((0, 0), (0, self.speakers - found.shape[1])))

    def frames(self, duration: float) -> int:
        """Whole frames of `duration` seconds."""
        return int(duration * self.rate + 1e-6)


def _of_length(prediction: np.ndarray, frames: int) -> np.ndarray:
    """(frame, speaker) of so many frames: the last one is repeated, or what is left over is cut."""
    found: np.ndarray = prediction[np.minimum(np.arange(frames), len(prediction) - 1)]
    return found


def _setting(threshold: float, median: int) -> str:
    return f"der_{threshold}_{median}"


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of decisions that are right, speakers in the order of least cross entropy, which is that of the largest logits at their labels."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    sure = np.clip(probabilities.astype(np.float64), 1e-7, 1.0 - 1e-7)
    logits = np.log(sure) - np.log1p(-sure)
    outputs, speakers = linear_sum_assignment(logits.T @ labels, maximize=True)
    return float(np.mean((probabilities[:, outputs] > 0.5) == labels[:, speakers]))
