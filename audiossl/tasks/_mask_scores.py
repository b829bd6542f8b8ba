"""How good the sources are that masks cut out of a mixture; free of torch, so that processes which score start quickly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.audio import OVERSHOOT, AudioError, read_audio
from audiossl.data.processes import in_processes
from audiossl.data.stft import istft, num_frames, stft
from audiossl.metrics.pesq import pesq
from audiossl.metrics.si_sdr import si_sdr
from audiossl.metrics.stoi import stoi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from audiossl.data.manifest import Manifest

IMPROVEMENT = "si_sdr_improvement"
PACKAGES = {"pesq": "pesq", "stoi": "pystoi"}
METRICS = ("pesq", "stoi", IMPROVEMENT)


def check_metrics(metrics: Sequence[str], sample_rate: int) -> None:
    """Raise ValueError for a metric that would fail at the first evaluation."""
    for name in metrics:
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            raise ValueError(
                f"task.metrics: {name!r} needs the package {PACKAGES[name]}; pip install 'audiossl[enh]', or leave the metric out"
            )
    if "pesq" in metrics and sample_rate != 16_000:
        raise ValueError(f"task.metrics: 'pesq' is for 16000 Hz, and the upstream takes {sample_rate}; leave it out")


def read_source(
    path: str, samples: int, sample_rate: int, *, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """Read one of the recordings that a mixture was made of: (sample,) float32 of as many samples as the mixture.

    start, seconds: of the piece. What 10 ms explain (a rate of its own) is cut or filled with zeros; ValueError for a larger difference.
    """
    found = read_audio(path, start=start, duration=seconds, sample_rate=sample_rate, allow_silent=True)
    if abs(len(found) - samples) > OVERSHOOT * sample_rate:
        raise AudioError(
            f"{path}: {len(found)} samples at {sample_rate} Hz, where the mixture has {samples}; give a source as long as its mixture"
        )
    return np.pad(found[:samples], (0, max(samples - len(found), 0)))


@dataclass(frozen=True)
class Scoring:
    """What is measured, and on which data directory. columns: of the sources' files. hop: of the spectrum, samples."""

    manifest: Manifest
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    hop: int
    sample_rate: int

    def each(self, masks: Mapping[str, np.ndarray], workers: int) -> dict[str, dict[str, float]]:
        """Metrics by utterance. masks: (frame, bin, source) by utterance. workers: processes; 0 for none."""
        where = _places(self.manifest)
        rows = in_processes(partial(_scored, self), [(where[name], array) for name, array in masks.items()], workers)
        return dict(zip(masks, rows, strict=True))

    def one(self, index: int, masks: np.ndarray) -> dict[str, float]:
        """Return the metrics of one utterance, mean of its sources."""
        rate = self.sample_rate
        mixture = self.manifest.audio(index, sample_rate=rate)
        paths = [self.manifest.column(name)[index] for name in self.columns]
        sources = [read_source(path, len(mixture), rate) for path in paths]
        estimates = separated(mixture, masks, self.hop)
        order = _best_order(estimates, sources)
        measured: dict[str, Any] = {
            "pesq": lambda estimate, source: pesq(estimate, source, rate),
            "stoi": lambda estimate, source: stoi(estimate, source, rate),
            IMPROVEMENT: lambda estimate, source: si_sdr(estimate, source) - si_sdr(mixture, source),
        }
        pairs = [(estimates[k], source) for k, source in zip(order, sources, strict=True)]
        return {name: float(np.mean([measured[name](*pair) for pair in pairs])) for name in self.metrics}


def separated(mixture: np.ndarray, masks: np.ndarray, hop: int) -> list[np.ndarray]:
    """Waveforms of the sources, with the phase of the mixture. mixture: (sample,). masks: (frame, bin, source); see `aligned`."""
    masks = masks[aligned(num_frames(len(mixture), hop), len(masks))]
    spectrum = stft(mixture, hop)
    return [istft(spectrum * masks[..., source], hop, len(mixture)) for source in range(masks.shape[2])]


def aligned(wanted: int, given: int) -> np.ndarray:
    """For each frame of the spectrum the frame of an upstream, which may give some less or more: the last one is repeated, or some are left."""
    return np.minimum(np.arange(wanted), given - 1)


@lru_cache(maxsize=4)
def _places(manifest: Manifest) -> dict[str, int]:
    """Index of each utterance; made once for a directory that is scored batch by batch."""
    return {name: index for index, name in enumerate(manifest.ids)}


def _best_order(estimates: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Which estimate is each source's, by the greatest sum of ratios."""
    ratios = np.array([[si_sdr(estimate, source) for estimate in estimates] for source in sources])
    ways = list(permutations(range(len(estimates))))
    return max(ways, key=lambda way: float(ratios[np.arange(len(sources)), list(way)].sum()))


def _scored(scoring: Scoring, item: tuple[int, np.ndarray]) -> dict[str, float]:
    index, masks = item
    try:
        return scoring.one(index, masks)
    except ValueError as error:
        raise ValueError(f"{scoring.manifest.ids[index]}: {error}") from None
