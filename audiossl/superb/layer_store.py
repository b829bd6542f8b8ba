"""Frames of chosen layers of every utterance of a data directory, on disk: one pass of the upstream, then any layer again and again."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.superb.frame_store import FrameStore
from audiossl.superb.frame_stream import Frames, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.data.loader import LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.frame_store import CacheType


@dataclass(frozen=True)
class StoredLayers:
    """What `store_layers` kept.

    layers: numbers of those in `store`. rows, ids, lengths: of the utterances, longest first; those that could not be used are not among them.
    forwards: utterances that went through the upstream in this call.
    """

    store: FrameStore
    layers: Sequence[int]
    rows: list[int]
    ids: list[str]
    lengths: np.ndarray
    forwards: int

    def groups(self, layer: int, max_frames: int) -> Iterator[list[Tensor]]:
        """Yield the utterances, (frame, dim) float32 each, in runs of at most `max_frames` frames, one utterance at least."""
        place, ends = self.layers.index(layer), np.cumsum(self.lengths)
        first, begin = 0, 0
        while first < len(self.rows):
            last = max(int(np.searchsorted(ends, begin + max_frames, side="right")), first + 1)
            frames = (self.store.read(row, place) for row in self.rows[first:last])
            yield [torch.from_numpy(array.astype(np.float32)) for array in frames]
            first, begin = last, int(ends[last - 1])


def of_layers(source: FeatureSource, layers: Sequence[int]) -> FeatureSource:
    """Return some layers of the features, in this order."""

    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        output = source.extract(waveform, lengths)
        return EncoderOutput([output.layers[layer] for layer in layers], output.lengths)

    digest = hashlib.sha256(f"{source.digest} layers {list(layers)}".encode()).hexdigest()
    return replace(source, digest=digest, num_layers=len(layers), extract=extract)


def store_layers(
    manifest: Manifest,
    source: FeatureSource,
    folder: Path,
    *,
    layers: Sequence[int],
    precision: CacheType,
    loading: LoaderConfig,
    log: Callable[[str], None],
) -> StoredLayers:
    """Run the upstream over a data directory and keep the frames of `layers`; of what is in the folder, the same is used and all else removed.

    Unusable recordings are named through `log`; ValueError when they are too many, and for features that are not finite.
    """
    source = of_layers(source, layers)
    store = FrameStore(folder, manifest, source, precision, sys.maxsize)
    for other in {*folder.iterdir()} - {store.path.parent}:
        if other.is_dir() and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)
        else:
            other.unlink(missing_ok=True)
    frames = Frames(source, store, torch.device("cpu"))
    ids: list[str] = []
    lengths: list[int] = []
    for taken in Split(manifest, frames, loading, 0, log).once(f"{source.name} on {manifest.path.name}"):
        if taken.output is not None:
            ids += taken.batch["utt_ids"]
            lengths += taken.output.lengths.tolist()
    if not ids:
        raise ValueError(f"{manifest.path}: no recording can be used; mend them")
    row = {utterance: number for number, utterance in enumerate(manifest.ids)}
    return StoredLayers(store, layers, [row[name] for name in ids], ids, np.array(lengths), frames.forwards)
