"""Fit a codebook to a corpus of any size in bounded memory: a uniform sample of frames, then k-means on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.units.codebook import Codebook, CodebookCard
from audiossl.units.features import CodeFeatures, CodesAlone
from audiossl.units.guards import check_usage
from audiossl.units.kmeans import NearestCentroid
from audiossl.units.residual import residual_kmeans
from audiossl.units.stream import stream_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiossl.data.manifest import Manifest
    from audiossl.units.features import Features
    from audiossl.units.stream import StreamConfig

SAMPLE_BYTES = 512 * 2**20
"""Size of the frame sample unless `max_frames` is given: 3.4 million MFCC frames, 170 thousand of 768 numbers."""

ALL_HOURS = 100.0
LARGE_FRACTION = 0.1

FRAMES_PER_KEPT = 10
"""Frames that are looked at for each one that the sample holds: more would cost an encoder's passes and change it little."""

FEW_FRAMES_PER_CODE = 40


@dataclass(frozen=True)
class FitConfig:
    """How a codebook is fitted.

    clusters: number of units (HuBERT: 100 on MFCC, 500 on an encoder; Hsu et al., 2021, section IV-B); of `codes`, at most so many. fraction: share of
    the utterances; None takes all of a corpus of up to 100 hours, and of a larger one as many as make 100 hours but no
    less than the paper's 10 %; of neither more than give 10 times `max_frames` (`FRAMES_PER_KEPT`). max_frames: frames kept in memory; None fills 512 MiB. iterations: Lloyd steps. redo:
    starts of k-means, of which the best is kept. codebooks: with more than one, each clusters what those before it leave over (`units.residual`).
    """

    clusters: int = 100
    fraction: float | None = None
    max_frames: int | None = None
    iterations: int = 30
    redo: int = 1
    seed: int = 0
    codebooks: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, least in (("clusters", 2), ("iterations", 1), ("redo", 1), ("seed", 0), ("codebooks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}; give at least {least}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction = {self.fraction}; give a share of the utterances in (0, 1]")
        if self.max_frames is not None and self.max_frames < self.clusters:
            raise ValueError(f"max_frames = {self.max_frames}, fewer than the {self.clusters} clusters; give more")


class Reservoir:
    """A uniform sample of `capacity` frames of a stream of unknown length (Vitter, 1985, algorithm R), a batch at a time."""

    def __init__(self, capacity: int, dim: int, rng: np.random.Generator) -> None:
        self._frames = np.empty((capacity, dim), dtype=np.float32)
        self._rng = rng
        self.seen = 0

    def add(self, frames: np.ndarray) -> None:
        """frames: (frame, dim)."""
        capacity = len(self._frames)
        head = max(0, min(capacity - self.seen, len(frames)))
        self._frames[self.seen : self.seen + head] = frames[:head]
        rest = frames[head:]
        if len(rest):
            # Frame number n takes a slot drawn from 0..n and is dropped beyond the capacity. Where two frames draw one
            # slot NumPy keeps the later, as one after the other would.
            numbers = np.arange(self.seen + head, self.seen + len(frames))
            slots = self._rng.integers(0, numbers, endpoint=True)
            kept = slots < capacity
            self._frames[slots[kept]] = rest[kept]
        self.seen += len(frames)

    @property
    def frames(self) -> np.ndarray:
        """(min(seen, capacity), dim) float32."""
        return self._frames[: self.seen]


def fit_codebook(
    manifest: Manifest, features: Features, config: FitConfig, stream: StreamConfig, *, log: Callable[[str], None]
) -> Codebook:
    """Sample frames of a corpus and cluster them. Memory: the sample and one batch, whatever the corpus' size.

    The codebook is a function of the data, the configuration and `stream.batch_seconds`: same bytes on every run. Codes are not clustered, but
    counted: see `fit_vocabulary`.
    """
    if isinstance(features, CodeFeatures):
        return fit_vocabulary(manifest, features, config, stream, log=log)
    reservoir, utterances = _sample(manifest, features, config, stream, log)
    frames = reservoir.frames
    log(f"k-means: {config.clusters} clusters on {len(frames)} of {reservoir.seen} frames, {utterances} utterances")
    if len(frames) < FEW_FRAMES_PER_CODE * config.clusters:
        log(f"warning: {len(frames)} frames are few for {config.clusters} clusters; expect units that are noise")
    found = residual_kmeans(
        frames,
        config.clusters,
        config.codebooks,
        iterations=config.iterations,
        redo=config.redo,
        seed=config.seed,
        log=log,
    )
    for clustering in found:
        check_usage(clustering.counts, f"codebook of {manifest.path}", log=log)
    card = CodebookCard(
        feature=features.kind,
        encoder=features.encoder,
        layer=features.layer,
        encoder_hash=features.encoder_hash,
        rate=features.rate,
        sample_rate=features.sample_rate,
        dim=features.dim,
        size=config.clusters,
        seed=config.seed,
        iterations=config.iterations,
        inertia=found[-1].inertia,
        frames=len(frames),
        utterances=utterances,
        unused=sum(int((clustering.counts == 0).sum()) for clustering in found),
        codebooks=config.codebooks,
        full_scale=features.full_scale,
    )
    return Codebook(np.concatenate([clustering.centroids for clustering in found]), card)


def _sample(
    manifest: Manifest, features: Features, config: FitConfig, stream: StreamConfig, log: Callable[[str], None]
) -> tuple[Reservoir, int]:
    """Frames of the chosen utterances, and how many of these could be read."""
    capacity = config.max_frames or SAMPLE_BYTES // (4 * features.dim)
    rng = np.random.default_rng([config.seed, 2**31 - 1])
    seconds = FRAMES_PER_KEPT * capacity / features.rate
    chosen = choose_utterances(manifest.durations, config.fraction, rng, seconds)
    part = manifest if len(chosen) == len(manifest) else manifest.subset(chosen)
    reservoir = Reservoir(capacity, features.dim, np.random.default_rng([config.seed, 2**31 - 2]))
    utterances = 0
    for batch in stream_frames(part, features, stream, label="reading features", log=log):
        reservoir.add(batch.frames.cpu().numpy())
        utterances += len(batch.ids)
    return reservoir, utterances


def fit_vocabulary(
    manifest: Manifest, features: CodeFeatures, config: FitConfig, stream: StreamConfig, *, log: Callable[[str], None]
) -> Codebook:
    """Make units of the combinations of codes that a corpus holds, the most frequent first (Baevski et al., 2020, discrete BERT).

    A corpus with more than `config.clusters` keeps that many. Memory: one batch, and a count for each combination. ValueError for
    options of `config` that only k-means has.
    """
    for name, unset in (("max_frames", None), ("iterations", FitConfig.iterations), ("redo", 1), ("codebooks", 1)):
        if getattr(config, name) != unset:
            raise ValueError(f"{name} = {getattr(config, name)}: codes are counted, not clustered; leave it out")
    chosen = choose_utterances(manifest.durations, config.fraction, np.random.default_rng([config.seed, 2**31 - 1]))
    part = manifest if len(chosen) == len(manifest) else manifest.subset(chosen)
    counts: Counter[tuple[int, ...]] = Counter()
    utterances = 0
    for batch in stream_frames(part, CodesAlone(features), stream, label="counting codes", log=log):
        rows, numbers = np.unique(batch.frames.cpu().numpy(), axis=0, return_counts=True)
        counts.update(dict(zip(map(tuple, rows.tolist()), numbers.tolist(), strict=True)))
        utterances += len(batch.ids)
    # Equal counts in the order of the codes, so that the same corpus gives the same numbers.
    ranked = sorted(counts, key=lambda codes: (-counts[codes], codes))
    kept = ranked[: config.clusters]
    log(
        f"codes: {len(ranked)} combinations in {counts.total()} frames of {utterances} utterances, {len(kept)} become units"
    )
    if len(kept) < 2:
        raise ValueError(
            f"codes of {features.encoder}: all frames have the same; its quantiser has collapsed, train it again"
        )
    centroids = features.entries(torch.tensor(kept)).cpu().numpy()
    card = CodebookCard(
        feature=features.kind,
        encoder=features.encoder,
        layer=features.layer,
        encoder_hash=features.encoder_hash,
        rate=features.rate,
        sample_rate=features.sample_rate,
        dim=features.dim,
        size=len(kept),
        seed=config.seed,
        iterations=0,
        inertia=_distance_of_others(centroids, ranked, counts, features),
        frames=counts.total(),
        utterances=utterances,
        unused=0,
    )
    return Codebook(centroids, card)


def _distance_of_others(
    centroids: np.ndarray, ranked: list[tuple[int, ...]], counts: Counter[tuple[int, ...]], features: CodeFeatures
) -> float:
    """Mean squared distance of a frame to its unit: only combinations that are no unit themselves have any."""
    others = ranked[len(centroids) :]
    if not others:
        return 0.0
    entries = features.entries(torch.tensor(others)).cpu()
    nearest = NearestCentroid(centroids)(entries)
    squares = np.square(entries.numpy() - centroids[nearest]).sum(axis=1)
    return float(squares @ [counts[codes] for codes in others]) / counts.total()


def choose_utterances(
    durations: np.ndarray, fraction: float | None, rng: np.random.Generator, seconds: float = np.inf
) -> np.ndarray:
    """Draw the utterances to fit on; see `FitConfig.fraction`. Returns sorted indices, at least one, and no more than make up `seconds`."""
    if fraction is None:
        hours = float(durations.sum()) / 3600
        fraction = 1.0 if hours <= ALL_HOURS else max(LARGE_FRACTION, ALL_HOURS / hours)
    count = max(1, round(fraction * len(durations)))
    drawn = rng.choice(len(durations), count, replace=False)
    enough = 1 + int(np.searchsorted(np.cumsum(durations[drawn]), seconds))
    return np.sort(drawn[:enough])
