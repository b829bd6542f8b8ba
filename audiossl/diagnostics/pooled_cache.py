"""One pass of an encoder over a data directory: the time-mean of every layer, and on request its deviation, kept on disk and used again.

The heads of utterance-level probes are affine in time, so that they lose nothing by starting from the mean over frames; thousands of
probe steps then cost one upstream pass. A cache is `features.npy` (utterance, layer, dim) float32 with `features.json`; it is
used again as long as encoder and data directory are the same, and an interrupted pass goes on where it stopped. Of processes that want
the same cache one computes it while the others wait.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiossl.data.json_files import read_json, write_json
from audiossl.data.kaldi import WAV_SCP, audio_path, is_command, read_table
from audiossl.data.loader import BadRecordings, LoaderConfig, make_sampler
from audiossl.data.threads import in_threads
from audiossl.data.whole import one_epoch
from audiossl.files import locked, naming
from audiossl.nn.pooling import mean_over_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from audiossl.contracts import Batch
    from audiossl.data.directory import Source
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource

_BATCHES_PER_SAVE = 20
AUDIO_TABLES = (WAV_SCP, "segments", "shards.json")


@dataclass(frozen=True)
class CacheConfig:
    """How the data directory is read.

    batch_seconds: padded audio per batch. num_workers: processes that read audio. max_bad_fraction: share of the recordings
    that may be unreadable; they are left out. deviations: behind the mean of each dimension its standard deviation over time (divided by the number of frames).
    """

    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01
    deviations: bool = False


@dataclass(frozen=True)
class PooledFeatures:
    """Time-means of every layer.

    features: (utterance, layer, dim, or twice that with deviations) float32, memory-mapped, in the order of the manifest. usable: (utterance,) bool, False for recordings
    that could not be used. forwards: utterances that went through the encoder in this call, 0 when the cache was used.
    """

    path: Path
    features: np.ndarray
    usable: np.ndarray
    forwards: int


def pooled_features(
    manifest: Manifest, source: FeatureSource, folder: Path, *, config: CacheConfig, log: Callable[[str], None]
) -> PooledFeatures:
    """Return the pooled features of a data directory from below `folder`, computing what is not there yet.

    Unusable recordings are named through `log`, those of an earlier pass too; ValueError when they are too many.
    """
    data = data_digest(manifest, (*AUDIO_TABLES, *source.reader.needs))
    facts = {
        "source_digest": source.digest,
        "data_digest": data,
        "utterances": len(manifest),
        "layers": source.num_layers,
        "dim": source.dim * (2 if config.deviations else 1),
    }
    place = folder / f"{manifest.path.name}-{data[:8]}-{source.digest[:8]}{'-deviations' if config.deviations else ''}"
    path = place / "features.npy"
    forwards = None
    if not _reusable(place, facts):
        place.mkdir(parents=True, exist_ok=True)
        with locked(place):
            if not _reusable(place, facts):  # another process may have made it meanwhile
                forwards = _compute(manifest, source, place, facts, config, log)
    found = read_json(place / "features.json")["bad"]
    if forwards is None:
        _name_bad(BadRecordings(config.max_bad_fraction, len(manifest)), found, log)
    bad = {utterance for utterance, _ in found}
    usable = np.ones(len(manifest), dtype=bool)
    if bad:
        usable = np.fromiter((utterance not in bad for utterance in manifest.ids), bool, len(manifest))
    return PooledFeatures(path, np.load(path, mmap_mode="r"), usable, forwards or 0)


def unread_features(manifest: Manifest) -> PooledFeatures:
    """Stand for the features of a directory of which nothing is read yet, as if all recordings could be used: to look at its labels first."""
    nothing = np.broadcast_to(np.float32(0), (len(manifest), 1, 1))
    return PooledFeatures(manifest.path, nothing, np.ones(len(manifest), dtype=bool), 0)


def data_digest(manifest: Source, tables: Sequence[str] = AUDIO_TABLES) -> str:
    """SHA-256 of what says which audio a data directory holds: ids, durations, some files, by default wav.scp and segments, and when recordings were written.

    What a program in wav.scp prints is not looked at.
    """
    digest = hashlib.sha256(np.ascontiguousarray(manifest.durations, dtype=np.float64).tobytes())
    for start in range(0, len(manifest), 4096):
        stop = min(start + 4096, len(manifest))
        digest.update("\n".join(manifest.ids[index] for index in range(start, stop)).encode())
    for name in tables:
        path = manifest.path / name
        if path.is_file():
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    for stamp in _stamps(manifest.path):
        digest.update(stamp)
    return digest.hexdigest()


def _stamps(directory: Path) -> Iterator[bytes]:
    """Size and time of each recording, so that one made again under its name is another one; nothing of those that are missing."""
    listing = directory / WAV_SCP
    if not listing.is_file():
        return

    def stamp(entry: str) -> bytes:
        try:
            found = audio_path(entry, directory).stat()
        except (OSError, ValueError):
            return b""
        return f"{found.st_size} {found.st_mtime_ns}\n".encode()

    entries = (entry for _, _, entry in read_table(listing) if not is_command(entry))
    for _, stamped in in_threads(stamp, entries, None, f"{directory}: looking at recordings"):
        yield stamped


def _compute(
    manifest: Manifest,
    source: FeatureSource,
    place: Path,
    facts: dict[str, Any],
    config: CacheConfig,
    log: Callable[[str], None],
) -> int:
    """Fill features.npy.partial batch by batch and rename it at the end; returns how many utterances were forwarded."""
    partial, journal = place / "features.npy.partial", place / "progress.json"
    # Batches are numbered by their size limit: with another one the old numbers mean other utterances.
    state: dict[str, Any] = {**facts, "batch_seconds": config.batch_seconds}
    earlier = read_json(journal) if partial.is_file() and journal.is_file() else {}
    done = 0
    bad = BadRecordings(config.max_bad_fraction, len(manifest))
    if {key: earlier.get(key) for key in state} == state:
        done = earlier["batches"]
        _name_bad(bad, earlier["bad"], log)
        features = np.lib.format.open_memmap(partial, mode="r+")
    else:
        journal.unlink(missing_ok=True)  # it tells of the array that is now replaced
        shape = (len(manifest), source.num_layers, facts["dim"])
        with naming(partial):
            features = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
    forwards = 0
    for number, rows, batch in _batches(manifest, source, config, done):
        _name_bad(bad, batch["bad"], log)
        features[list(rows.values())] = np.nan
        if batch["utt_ids"]:
            features[[rows[utterance] for utterance in batch["utt_ids"]]] = _pool(source, batch, config)
        forwards += len(batch["utt_ids"])
        if (number + 1) % _BATCHES_PER_SAVE == 0:
            features.flush()
            write_json(journal, {**state, "batches": number + 1, "bad": list(bad.messages.items())})
    features.flush()
    del features
    # The description goes last: where it stands, the array is whole.
    partial.replace(place / "features.npy")
    write_json(place / "features.json", {"source": source.name, **facts, "bad": list(bad.messages.items())})
    journal.unlink(missing_ok=True)
    return forwards


def _name_bad(bad: BadRecordings, found: Iterable[Sequence[str]], log: Callable[[str], None]) -> None:
    for line in bad.add((utterance, message) for utterance, message in found):
        log(line)


def _batches(
    manifest: Manifest, source: FeatureSource, config: CacheConfig, first: int
) -> Iterator[tuple[int, dict[str, int], Batch]]:
    """Yield (number, row of each utterance of the batch, batch), every utterance once, from batch number `first` on."""
    loading = LoaderConfig(
        batch_seconds=config.batch_seconds, num_workers=config.num_workers, max_bad_fraction=config.max_bad_fraction
    )
    sampler = make_sampler(manifest, loading, seed=0, shuffle=False)
    batches = one_epoch(
        manifest,
        source.reader,
        loading,
        sample_rate=source.sample_rate,
        first=first,
        label=f"{source.name} on {manifest.path.name}",
    )
    for number, batch in enumerate(batches, first):
        _, rows = sampler.batch(number)
        yield number, {manifest.ids[int(row)]: int(row) for row in rows}, batch


def _pool(source: FeatureSource, batch: Batch, config: CacheConfig) -> np.ndarray:
    """Return the time-means of a batch, and the deviations behind them: (utterance, layer, dim)."""
    output = source.extract(batch["waveform"], batch["waveform_lengths"])
    assert len(output.layers) == source.num_layers
    means = [mean_over_frames(layer, output.lengths) for layer in output.layers]
    pooled = torch.stack(means, dim=1)
    if config.deviations:
        squares = [
            mean_over_frames((layer.float() - mean.unsqueeze(1)).square(), output.lengths)
            for layer, mean in zip(output.layers, means, strict=True)
        ]
        pooled = torch.cat([pooled, torch.stack(squares, dim=1).sqrt()], dim=2)
    finite = torch.isfinite(pooled).flatten(1).all(dim=1)
    if not finite.all():
        odd = batch["utt_ids"][int(torch.argmin(finite.int()))]
        raise ValueError(f"{odd}: {source.name} gives nan or infinity; check this recording and the encoder")
    return pooled.float().cpu().numpy()


def _reusable(place: Path, facts: dict[str, Any]) -> bool:
    card = place / "features.json"
    if not (card.is_file() and (place / "features.npy").is_file()):
        return False
    found = read_json(card)
    return "bad" in found and all(found.get(key) == value for key, value in facts.items())
