"""Frames of chosen layers of every utterance of a data directory, on disk: one pass of the upstream, then any layer again and again."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from audiossl.data.json_files import read_json, write_json
from audiossl.data.loader import BadRecordings, LoaderConfig
from audiossl.data.whole import WholeUtterances, one_epoch
from audiossl.diagnostics.pooled_cache import data_digest
from audiossl.nn.masking import valid_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import BufferedRandom
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource

Precision: TypeAlias = Literal["float32", "float16"]

_JOURNAL = "progress.json"
_BATCHES_PER_SAVE = 20


@dataclass(frozen=True)
class StoredLayers:
    """What `store_layers` wrote: `layer_NN` in `folder` holds (frame, dim), all utterances one after the other.

    ids, lengths: of the utterances in that order, longest first; those that could not be used are not among them. forwards: utterances that
    went through the upstream in this call.
    """

    folder: Path
    ids: list[str]
    lengths: np.ndarray
    dim: int
    precision: Precision
    forwards: int

    def frames(self, layer: int) -> np.ndarray:
        """(frame, dim), memory-mapped."""
        shape = (int(self.lengths.sum()), self.dim)
        return np.memmap(_file(self.folder, layer), dtype=self.precision, mode="r", shape=shape)

    def groups(self, layer: int, max_frames: int) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield (where, utterances) in runs of at most `max_frames` frames, one utterance at least; where: a slice of `ids`."""
        frames, ends = self.frames(layer), np.cumsum(self.lengths)
        first, begin = 0, 0
        while first < len(self.ids):
            last = max(int(np.searchsorted(ends, begin + max_frames, side="right")), first + 1)
            end = int(ends[last - 1])
            block = torch.from_numpy(frames[begin:end].astype(np.float32))
            yield slice(first, last), list(block.split_with_sizes(self.lengths[first:last].tolist()))
            first, begin = last, end


def bytes_needed(manifest: Manifest, source: FeatureSource, num_layers: int, precision: Precision) -> float:
    """About what `store_layers` will write."""
    frames = float(manifest.durations.sum()) * source.sample_rate / source.stride
    return frames * num_layers * source.dim * np.dtype(precision).itemsize


def store_layers(
    manifest: Manifest,
    source: FeatureSource,
    folder: Path,
    *,
    layers: Sequence[int],
    precision: Precision,
    loading: LoaderConfig,
    log: Callable[[str], None],
) -> StoredLayers:
    """Run the upstream over a data directory and keep the frames of `layers`; what an interrupted call has written is used.

    Unusable recordings are named through `log`; ValueError when they are too many, and for features that are not finite.
    """
    facts = {
        "source_digest": source.digest,
        "data_digest": data_digest(manifest),
        "layers": list(layers),
        "precision": precision,
        "batch_seconds": loading.batch_seconds,
    }
    state = _earlier(folder, facts)
    bad = BadRecordings(loading.max_bad_fraction, len(manifest))
    bad.add([(name, message) for name, message in state["bad"]])
    forwards = 0
    if not state["complete"]:
        with ExitStack() as stack:
            files = {layer: stack.enter_context(_opened(folder, layer, state, source, precision)) for layer in layers}
            for batch in _batches(manifest, source, loading, state["batches"]):
                for line in bad.add(batch["bad"]):
                    log(line)
                if batch["utt_ids"]:
                    state["lengths"] += _append(files, source, batch, precision)
                    state["ids"] += batch["utt_ids"]
                forwards += len(batch["utt_ids"])
                state["batches"] += 1
                if state["batches"] % _BATCHES_PER_SAVE == 0:
                    _save(folder, files.values(), state, bad)
            state["complete"] = True
            _save(folder, files.values(), state, bad)
    if not state["ids"]:
        raise ValueError(f"{manifest.path}: no recording can be used; mend them")
    return StoredLayers(folder, state["ids"], np.array(state["lengths"]), source.dim, precision, forwards)


def _earlier(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an earlier call with the same facts, or a fresh one."""
    journal = folder / _JOURNAL
    if journal.is_file():
        found: dict[str, Any] = read_json(journal)
        if all(found.get(key) == value for key, value in facts.items()):
            return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return {**facts, "batches": 0, "ids": [], "lengths": [], "bad": [], "complete": False}


def _opened(
    folder: Path, layer: int, state: dict[str, Any], source: FeatureSource, precision: Precision
) -> BufferedRandom:
    """Open a layer's file behind what the journal knows of."""
    path = _file(folder, layer)
    path.touch()
    file = path.open("r+b")
    file.truncate(sum(state["lengths"]) * source.dim * np.dtype(precision).itemsize)
    file.seek(0, os.SEEK_END)
    return file


def _batches(manifest: Manifest, source: FeatureSource, loading: LoaderConfig, first: int) -> Iterator[Batch]:
    return one_epoch(
        manifest,
        WholeUtterances(source.min_samples),
        loading,
        sample_rate=source.sample_rate,
        first=first,
        label=f"{source.name} on {manifest.path.name}",
    )


def _append(files: dict[int, BufferedRandom], source: FeatureSource, batch: Batch, precision: Precision) -> list[int]:
    """Write a batch's valid frames; returns their numbers."""
    output = source.extract(batch["waveform"], batch["waveform_lengths"])
    valid = valid_frames(output.lengths, output.layers[0].shape[1])
    for layer, file in files.items():
        frames = output.layers[layer][valid].to(getattr(torch, precision)).cpu()
        if not frames.isfinite().all():
            raise ValueError(
                f"{batch['utt_ids'][0]} or a recording of its length: {source.name} gives nan or infinity in layer {layer}; "
                "check them, or set superb.precision to float32"
            )
        file.write(frames.numpy().tobytes())
    lengths: list[int] = output.lengths.tolist()
    return lengths


def _save(folder: Path, files: Any, state: dict[str, Any], bad: BadRecordings) -> None:
    """Write the journal after the frames that it knows of."""
    for file in files:
        file.flush()
    state["bad"] = list(bad.messages.items())
    write_json(folder / _JOURNAL, state)


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer:02d}"
