"""Read a data directory as a stream of frames: length buckets, worker processes, one batch in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.data.loader import BadRecordings, LoaderConfig, usable
from audiossl.data.whole import FileList, WholeUtterances, one_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.manifest import Manifest
    from audiossl.units.features import Frames


@dataclass(frozen=True)
class StreamConfig:
    """How a data directory is read.

    batch_seconds: seconds of audio per batch, padding included. num_workers: processes that read audio (and compute
    MFCC); 0 reads in this one. max_bad_fraction: share of the utterances that may be unreadable.
    """

    batch_seconds: float = 100.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class FrameBatch:
    """Frames of some utterances, without padding.

    ids: utterances. frames: (frame, dim), one utterance after the other. lengths: (utterance,) int64 frames of each.
    """

    ids: list[str]
    frames: Tensor
    lengths: np.ndarray


class _Reader:
    """What the loader's workers run: light to send, and with the MFCC in it."""

    needs: tuple[str, ...] = ()

    def __init__(self, features: Frames) -> None:
        self._in_workers = features if features.in_workers else None
        self.views = WholeUtterances(features.min_samples).views

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        if self._in_workers is None or "waveform" not in batch:
            return batch
        waveform, lengths = torch.as_tensor(batch.pop("waveform")), torch.as_tensor(batch.pop("waveform_lengths"))
        frames, num_frames = self._in_workers(waveform, lengths)
        return {**batch, "frames": _packed(frames, num_frames), "num_frames": num_frames}


def stream_frames(
    manifest: Manifest | FileList, features: Frames, config: StreamConfig, *, label: str, log: Callable[[str], None]
) -> Iterator[FrameBatch]:
    """Yield the frames of every utterance once, in batches of similar length.

    Those of a data directory that last less than a frame are counted and left out, as training leaves them out. Unreadable utterances
    are named through `log`; ValueError when more than their allowed share are. label: what the progress display calls this pass.
    """
    manifest = _long_enough(manifest, features, log)
    loading = LoaderConfig(batch_seconds=config.batch_seconds, num_workers=config.num_workers)
    batches = one_epoch(manifest, _Reader(features), loading, sample_rate=features.sample_rate, label=label)
    for batch in usable(batches, BadRecordings(config.max_bad_fraction, len(manifest)), log):
        yield _frame_batch(batch, features)


def _long_enough(manifest: Manifest | FileList, features: Frames, log: Callable[[str], None]) -> Manifest | FileList:
    if isinstance(manifest, FileList):
        return manifest
    enough = np.rint(manifest.durations * features.sample_rate) >= features.min_samples
    short, least = len(enough) - int(enough.sum()), features.min_samples / features.sample_rate
    if not short:
        return manifest
    if not enough.any():
        raise ValueError(f"{manifest.path}: every utterance is too short for one frame ({least:g} s); give longer ones")
    log(f"{manifest.path}: left out: {short} too short for one frame ({least:g} s)")
    return manifest.subset(np.flatnonzero(enough))


def _frame_batch(batch: Batch, features: Frames) -> FrameBatch:
    ids = list(batch["utt_ids"])
    if "frames" in batch:
        frames, lengths = batch["frames"], batch["num_frames"]
    else:
        padded, lengths = features(batch["waveform"], batch["waveform_lengths"])
        frames = _packed(padded, lengths)
    if not torch.isfinite(frames).all():
        raise ValueError(
            f"features of {ids[0]} ... {ids[-1]} hold nan or infinity; check these recordings and the encoder"
        )
    return FrameBatch(ids, frames, lengths.cpu().numpy())


def _packed(padded: Tensor, lengths: Tensor) -> Tensor:
    """Drop padding: (batch, frame, dim) -> (frame, dim)."""
    valid = torch.arange(padded.shape[1], device=padded.device) < lengths.to(padded.device)[:, None]
    return padded[valid]
