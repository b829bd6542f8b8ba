"""Tokens of phones: which are compared, and their frames in every layer, kept on disk."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.data.alignments import read_phones
from audiossl.data.kaldi import PHONES_CTM, UTT2SPK
from audiossl.data.loader import BadRecordings, LoaderConfig, usable
from audiossl.data.whole import one_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.pooled_cache import CacheConfig
    from audiossl.diagnostics.sources import FeatureSource

_SLACK = 1e-6  # frames: decimal times are not exact, nor are sums of start and duration


@dataclass(frozen=True)
class Tokens:
    """Chosen tokens. utterances: (token,) numbers in the manifest; starts, ends: seconds; phones, contexts, speakers: (token,) str."""

    utterances: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    phones: np.ndarray
    contexts: np.ndarray
    speakers: np.ndarray

    def __len__(self) -> int:
        return len(self.utterances)

    def take(self, chosen: np.ndarray) -> Tokens:
        """Some of them."""
        return Tokens(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class TokenFrames:
    """Tokens with their frames: those of token i are frames[places[i] : places[i] + lengths[i]], (frame, layer, dim), memory-mapped."""

    tokens: Tokens
    frames: np.ndarray
    places: np.ndarray
    lengths: np.ndarray

    def of(self, chosen: np.ndarray, layer: int) -> list[Tensor]:
        """(frame, dim) of each of some tokens in one layer."""
        spans = zip(self.places[chosen].tolist(), self.lengths[chosen].tolist(), strict=True)
        return [torch.from_numpy(np.array(self.frames[place : place + length, layer])) for place, length in spans]


def choose_tokens(
    manifest: Manifest, *, exclude: tuple[str, ...], speakers: int, group_size: int, by_context: bool, seed: int
) -> Tokens:
    """Choose tokens from `phones.ctm`: of each phone of each speaker (and in each context, for `by_context`) at most `group_size`.

    The context of a token is its two neighbours, the excluded phones among them; "" without `by_context`. speakers: at most so many, those
    with the most tokens. Utterances without a speaker have none.
    """
    every = _all_tokens(manifest, exclude, by_context=by_context)
    names, number, counts = np.unique(every.speakers, return_inverse=True, return_counts=True)
    kept = np.isin(number, np.argsort(-counts, kind="stable")[:speakers]) if len(names) else np.zeros(0, dtype=bool)
    every = every.take(np.flatnonzero(kept))
    _, group = np.unique(np.stack([every.speakers, every.contexts, every.phones]), axis=1, return_inverse=True)
    order = np.lexsort((np.random.default_rng(seed).random(len(group)), group))
    sizes = np.bincount(group)
    rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[group[order]]
    return every.take(np.sort(order[rank < group_size]))


def speakers_of(manifest: Manifest) -> list[str]:
    """Speaker of each utterance, "" where `utt2spk` does not say it."""
    if UTT2SPK not in manifest.column_names():
        return [""] * len(manifest)
    column = manifest.column(UTT2SPK)
    return [column[row] if column.has(row) else "" for row in range(len(manifest))]


def token_frames(
    tokens: Tokens,
    manifest: Manifest,
    source: FeatureSource,
    path: Path,
    *,
    config: CacheConfig,
    log: Callable[[str], None],
) -> TokenFrames:
    """Run the encoder over the utterances of the tokens and keep their frames in the file `path`; tokens without a frame are left out.

    Frame t lies in the middle of its stride, at (t + 1/2) / rate seconds; a token has those from its start to its end, as ZeroSpeech cuts them.
    """
    first, stop = spans(tokens, source.sample_rate / source.stride)
    room = np.maximum(stop - first, 0)
    places = np.cumsum(room) - room
    lengths = np.zeros(len(tokens), dtype=np.int64)
    shape = (max(int(room.sum()), 1), source.num_layers, source.dim)
    frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for batch, rows in _batches(tokens, manifest, source, config, log):
        layers, valid = _frames(source, batch)
        for utterance, inside in rows:
            begin, end = np.clip(np.stack([first[inside], stop[inside]]), 0, valid[utterance])
            lengths[inside] = np.maximum(end - begin, 0)
            into = np.repeat(places[inside] - np.cumsum(lengths[inside]) + lengths[inside], lengths[inside])
            at = np.repeat(begin - np.cumsum(lengths[inside]) + lengths[inside], lengths[inside])
            step = np.arange(len(at))
            frames[into + step] = layers[utterance, at + step]
    found = np.flatnonzero(lengths)
    return TokenFrames(tokens.take(found), frames, places[found], lengths[found])


def spans(tokens: Tokens, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """First frame of each token, and the one after its last: (token,) int64 each. rate: frames per second."""
    first = np.maximum(np.ceil(tokens.starts * rate - 0.5 - _SLACK), 0).astype(np.int64)
    stop = np.floor(tokens.ends * rate - 0.5 + _SLACK).astype(np.int64) + 1
    return first, stop


def _all_tokens(manifest: Manifest, exclude: tuple[str, ...], *, by_context: bool) -> Tokens:
    rows = {utterance: row for row, utterance in enumerate(manifest.ids)}
    speakers = speakers_of(manifest)
    columns: dict[str, list[object]] = defaultdict(list)
    for utterance, lines in groupby(read_phones(manifest.path / PHONES_CTM), key=lambda line: line[0]):
        row = rows.get(utterance)
        if row is None or not speakers[row]:
            continue
        phones = [phone for _, phone in lines]
        names = ["", *(phone.phone for phone in phones), ""]
        kept = [place for place, phone in enumerate(phones) if phone.phone not in exclude]
        columns["utterances"] += [row] * len(kept)
        columns["starts"] += [phones[place].start for place in kept]
        columns["ends"] += [phones[place].start + phones[place].duration for place in kept]
        columns["phones"] += [phones[place].phone for place in kept]
        columns["contexts"] += [f"{names[place]} {names[place + 2]}" if by_context else "" for place in kept]
        columns["speakers"] += [speakers[row]] * len(kept)
    kinds: dict[str, type] = {"utterances": np.int64, "starts": np.float64, "ends": np.float64}
    return Tokens(*(np.array(columns[name], dtype=kinds.get(name, np.str_)) for name in Tokens.__dataclass_fields__))


def _batches(
    tokens: Tokens, manifest: Manifest, source: FeatureSource, config: CacheConfig, log: Callable[[str], None]
) -> Iterator[tuple[Batch, list[tuple[int, np.ndarray]]]]:
    """Yield each batch of the utterances that have tokens, with (row of the batch, its tokens)."""
    wanted, number = np.unique(tokens.utterances, return_inverse=True)
    order = np.argsort(number, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(number))[:-1]) if len(wanted) else []
    spoken = manifest.subset(wanted)
    inside = dict(zip(spoken.ids, members, strict=True))
    loading = LoaderConfig(batch_seconds=config.batch_seconds, num_workers=config.num_workers)
    bad = BadRecordings(config.max_bad_fraction, len(spoken))
    label = f"{source.name}: phones of {manifest.path.name}"
    batches = one_epoch(spoken, source.reader, loading, sample_rate=source.sample_rate, label=label)
    for batch in usable(batches, bad, log):
        yield batch, [(row, inside[utterance]) for row, utterance in enumerate(batch["utt_ids"])]


def _frames(source: FeatureSource, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """(utterance, frame, layer, dim) float32, and valid frames of each utterance."""
    output = source.extract(batch["waveform"], batch["waveform_lengths"])
    return torch.stack(output.layers, dim=2).float().cpu().numpy(), output.lengths.cpu().numpy()
