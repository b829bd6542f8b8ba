"""One pass of an encoder over data directories: the frames of each utterance as a NumPy file, and `feats.scp`, which lists these.

A folder holds what one source makes of some data directories, as its card says. The card is there before the first file, and each file
is whole or absent: where a run was killed, the next one makes what is missing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from audiossl.data.json_files import read_json_table, write_json
from audiossl.data.kaldi import WAV_SCP, file_stem, write_sorted_table
from audiossl.data.loader import BadRecordings, LoaderConfig, usable
from audiossl.data.whole import one_epoch
from audiossl.diagnostics.pooled_cache import AUDIO_TABLES, data_digest
from audiossl.diagnostics.results import command_line
from audiossl.files import locked, require_folder, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from audiossl.contracts import Batch
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource

CARD, FEATS_SCP = "frames.json", "feats.scp"
_CURE = "choose another --out, or --overwrite"


@dataclass(frozen=True)
class FramesConfig:
    """What is written, and how the data directories are read.

    all_layers: each of them, (layer, frame, dim); False: the last one of the source, (frame, dim). batch_seconds: padded audio per batch.
    max_bad_fraction: share of the utterances of a data directory that may be unusable.
    """

    all_layers: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    batch_seconds: float = 100.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    @property
    def loading(self) -> LoaderConfig:
        """How the loader reads."""
        return LoaderConfig(
            batch_seconds=self.batch_seconds, num_workers=self.num_workers, max_bad_fraction=self.max_bad_fraction
        )


def frames_path(folder: Path, utterance: str) -> Path:
    """Where the frames of an utterance are."""
    return folder / f"{file_stem(utterance)}.npy"


def write_frames(
    manifests: Sequence[Manifest],
    source: FeatureSource,
    out: Path,
    config: FramesConfig,
    *,
    overwrite: bool = False,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Write the frames of every utterance into the folder `out`, unless they are there; then `feats.scp` and the card, which is returned.

    Memory: one batch, and a byte per utterance. overwrite: all are made again. Unusable utterances are named through `log` and left out; ValueError when these are too many,
    where directories share an utterance, for frames that are not finite, and, unless told to overwrite, where `out` holds others.
    """
    loading, made_of = config.loading, _made_of(manifests, source, config)
    _require_different(manifests)
    require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _require_place(out, made_of, overwrite=overwrite)
        if overwrite:
            _clear(out, manifests)
        write_json(out / CARD, made_of)
        bad: dict[str, str] = {}
        for manifest in manifests:
            bad |= _fill(manifest, source, out, config, loading, log)
        utterances = sum(map(len, manifests)) - len(bad)
        if not utterances:
            raise ValueError(f"{manifests[0].path}: none of its {len(manifests[0])} utterances can be used; see above")
        places = ((utterance, frames_path(out.absolute(), utterance)) for utterance, _ in _in_order(manifests))
        write_sorted_table(out / FEATS_SCP, ((utterance, str(path)) for utterance, path in places if path.exists()))
        said = {"command": command_line(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
        card = {**made_of, "utterances": utterances, "left_out": bad, **said}
        write_json(out / CARD, card)
    return card


def _fill(
    manifest: Manifest,
    source: FeatureSource,
    out: Path,
    config: FramesConfig,
    loading: LoaderConfig,
    log: Callable[[str], None],
) -> dict[str, str]:
    """Write the files of a data directory that are missing; returns what is wrong with the utterances that were left out."""
    missing = np.fromiter((not frames_path(out, name).exists() for name in manifest.ids), bool, len(manifest))
    there = len(manifest) - int(missing.sum())
    if there:
        log(f"{out}: has the frames of {there} of {len(manifest)} utterances of {manifest.path} already")
    if there == len(manifest):
        return {}
    bad = BadRecordings(config.max_bad_fraction, len(manifest))
    rest, label = manifest.subset(np.flatnonzero(missing)), f"{source.name} on {manifest.path.name}"
    batches = one_epoch(rest, source.reader, loading, sample_rate=source.sample_rate, label=label)
    for batch in usable(batches, bad, log):
        for utterance, frames in _frames(source, batch, config):
            with whole_file(frames_path(out, utterance)) as partial, partial.open("wb") as file:
                np.save(file, frames)
    return bad.messages


def _frames(source: FeatureSource, batch: Batch, config: FramesConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the utterances of a batch with their frames, without padding."""
    output = source.extract(batch["waveform"], batch["waveform_lengths"])
    layers = output.layers if config.all_layers else output.layers[-1:]
    dtype = getattr(torch, config.dtype)
    for row, (utterance, length) in enumerate(zip(batch["utt_ids"], output.lengths.tolist(), strict=True)):
        frames = torch.stack([layer[row, :length] for layer in layers]).to(dtype)
        if not torch.isfinite(frames).all():
            raise ValueError(
                f"{utterance}: {source.name} gives nan or infinity in {config.dtype}; check this recording and the encoder"
                + (", or write float32" if config.dtype == "float16" else "")
            )
        yield utterance, (frames if config.all_layers else frames[0]).cpu().numpy()


def _made_of(manifests: Sequence[Manifest], source: FeatureSource, config: FramesConfig) -> dict[str, Any]:
    """What frames depend on; `source` is only how it was spelled. data: directory -> digest of its recordings, and of units that are read."""
    tables = (*AUDIO_TABLES, *source.reader.needs)
    return {
        "source": source.name,
        "source_digest": source.digest,
        "layer": "all" if config.all_layers else source.num_layers - 1,
        "layers": source.num_layers if config.all_layers else 1,
        "dim": source.dim,
        "dtype": config.dtype,
        "sample_rate": source.sample_rate,
        "stride": source.stride,
        "rate": source.sample_rate / source.stride,
        "data": {str(manifest.path.resolve()): data_digest(manifest, tables) for manifest in manifests},
    }


def _require_place(out: Path, made_of: dict[str, Any], *, overwrite: bool) -> None:
    """Raise ValueError for a data directory and, unless told to overwrite, where `out` holds frames of something else.

    Further data directories may come to those that the card names, which must be as they were: no utterance is in two of them.
    """
    if (out / WAV_SCP).exists():
        raise ValueError(f"{out}: is a data directory; choose another --out, such as {out / 'frames'}")
    if overwrite:
        return
    if not (out / CARD).is_file():
        found = next(chain(out.glob(FEATS_SCP), out.glob("*.npy")), None)
        if found is not None:
            raise ValueError(f"{found}: exists already, and no {CARD} says what it was made of; {_CURE}")
        return
    before = read_json_table(out / CARD, _CURE)
    for key, value in made_of.items():
        had = before.get(key)
        if key not in ("source", "data") and had != value:
            raise ValueError(f"{out}: holds other frames already ({key} {had}, not {value}); {_CURE}")
    data = before.get("data")
    if not isinstance(data, dict):
        raise ValueError(f"{out / CARD}: does not say what recordings were read; {_CURE}")
    for path, digest in data.items():
        if made_of["data"].get(path) != digest:
            what = "has changed since" if path in made_of["data"] else "is not among those given"
            raise ValueError(f"{out}: holds other frames already (data {path} {what}); {_CURE}")


def _clear(out: Path, manifests: Sequence[Manifest]) -> None:
    """Remove the list and the files in a folder of ours, whatever they were made of; where there is no card only those to be made again."""
    (out / FEATS_SCP).unlink(missing_ok=True)
    ours = (frames_path(out, utterance) for utterance, _ in _in_order(manifests))
    for path in out.glob("*.npy") if (out / CARD).is_file() else ours:
        path.unlink(missing_ok=True)


def _in_order(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Path]]:
    """Yield all utterances in C order, each with its data directory."""
    return heapq.merge(*(zip(manifest.ids, repeat(manifest.path)) for manifest in manifests))


def _require_different(manifests: Sequence[Manifest]) -> None:
    """Raise ValueError for an utterance in two data directories, whose frames would be one file."""
    for (before, first), (utterance, second) in pairwise(_in_order(manifests)):
        if before == utterance:
            raise ValueError(f"{second}: {utterance!r} is in {first} as well; give each an --out of its own")
