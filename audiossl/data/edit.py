"""Make a data directory from others: a part of one, or several together, with every file that they hold.

Tables are streamed from the memory-mapped rows of their sources; the ids of what is kept are held.
"""

from __future__ import annotations

import heapq
import shutil
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data import kaldi
from audiossl.data.manifest import Manifest
from audiossl.data.parts import write_parts
from audiossl.data.writer import new_directory

if TYPE_CHECKING:
    from collections.abc import Sequence


def refuse_shards(source: Path | str) -> None:
    """Raise ValueError for a folder of shards, which is read but neither checked, mended nor cut."""
    if not (Path(source) / kaldi.WAV_SCP).is_file() and (Path(source) / "shards.json").is_file():
        raise ValueError(f"{source}: a folder of shards; use the data directory that it was made from")


def _enough(manifest: Manifest, count: int) -> None:
    if not 0 < count <= len(manifest):
        raise ValueError(
            f"{manifest.path}: {count} of {len(manifest)} utterances cannot be chosen; ask for 1 to all of them"
        )


def listed(manifest: Manifest, path: Path) -> np.ndarray:
    """Indices of the utterances that the lines of a file begin with; ValueError for one that the manifest lacks."""
    ids = {utterance: index for index, utterance in enumerate(manifest.ids)}
    chosen: set[int] = set()
    for number, utterance, _ in kaldi.read_table(path):
        if utterance not in ids:
            raise ValueError(f"{path}:{number}: {utterance!r} is not in {manifest.path}; correct the list")
        chosen.add(ids[utterance])
    return np.array(sorted(chosen), np.int64)


def drawn(manifest: Manifest, count: int, seed: int) -> np.ndarray:
    """Indices of `count` utterances drawn without replacement."""
    _enough(manifest, count)
    return np.sort(np.random.default_rng(seed).permutation(len(manifest))[:count])


def first(manifest: Manifest, count: int) -> np.ndarray:
    """Indices of the first `count` utterances."""
    _enough(manifest, count)
    return np.arange(count, dtype=np.int64)


def part(manifest: Manifest, text: str) -> np.ndarray:
    """Indices of the K-th of N parts that follow one another and differ by one utterance at most. text: `K/N`."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 0 < int(number) <= int(count) <= len(manifest)):
        raise ValueError(
            f"{manifest.path}: {text!r} is no part of {len(manifest)} utterances; give K/N, such as 1/2, with K from 1 to N"
        )
    first, end = (len(manifest) * k // int(count) for k in (int(number) - 1, int(number)))
    return np.arange(first, end, dtype=np.int64)


def per_speaker(manifest: Manifest, count: int, seed: int) -> np.ndarray:
    """Indices of `count` utterances drawn from each speaker, all of them where a speaker has fewer."""
    if count < 1:
        raise ValueError(f"{manifest.path}: {count} utterances of each speaker cannot be chosen; ask for at least 1")
    speakers = np.unique(np.array(list(manifest.column(kaldi.UTT2SPK))), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(manifest))
    order = order[np.argsort(speakers[order], kind="stable")]  # (utterance,), by speaker, in random order within each
    starts = np.flatnonzero(np.diff(speakers[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(order[rank < count])


def of_speakers(manifest: Manifest, count: int, seed: int) -> np.ndarray:
    """Indices of all utterances of `count` speakers, who are drawn."""
    names, speakers = np.unique(np.array(list(manifest.column(kaldi.UTT2SPK))), return_inverse=True)
    if not 0 < count <= len(names):
        raise ValueError(
            f"{manifest.path}: {count} of {len(names)} speakers cannot be chosen; ask for 1 to {len(names)}"
        )
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    return np.flatnonzero(np.isin(speakers, chosen))


def seconds_of(manifest: Manifest, limit: float, seed: int) -> np.ndarray:
    """Indices of utterances in random order until the next one would pass `limit` seconds in all."""
    order = np.random.default_rng(seed).permutation(len(manifest))
    total = np.cumsum(manifest.durations[order])
    return np.sort(order[total <= limit + 1e-9])


def subset(source: Path | str, indices: np.ndarray, out: Path | str, *, allow_commands: bool = False) -> None:
    """Write the utterances `indices` of a data directory as the data directory `out`, with every file of the source.

    Trials stay where both of their utterances do; `spk2utt` and the counts of units are made anew; other files (not folders)
    are copied as they are. `out` must not exist. allow_commands: run the programs of `wav.scp` where durations need it.
    """
    manifest = _open(source, allow_commands=allow_commands)
    if len(indices) == 0:
        raise ValueError(f"{manifest.path}: no utterance is chosen; ask for more")
    part = manifest.subset(np.unique(indices))
    with new_directory(Path(out)) as folder:
        write_parts([part], set(kaldi.table_names(part.path)), folder)
        for path in _other_files(part.path):
            shutil.copy2(path, folder / path.name)


def combine(sources: Sequence[Path | str], out: Path | str, *, allow_commands: bool = False) -> list[str]:
    """Write several data directories as one and return what could not be carried over, a line each.

    Their utterances must be disjoint; speakers and recordings may be shared, where they are the same. A table of utterances that
    not all have is left out (`segments` and `utt2dur` are completed instead), and so are files that are no tables. Units
    must come from one codebook. `out` must not exist. allow_commands: as of `subset`.
    """
    manifests = [_open(source, allow_commands=allow_commands) for source in sources]
    if not manifests:
        raise ValueError("no data directory to combine; give at least one")
    _check_disjoint(manifests)
    names: set[str] = set()
    said: list[str] = []
    tables = [set(kaldi.table_names(manifest.path)) for manifest in manifests]
    for name in sorted(set().union(*tables)):
        lacking = [str(m.path) for m, held in zip(manifests, tables, strict=True) if name not in held]
        if not lacking or name in {kaldi.SEGMENTS, kaldi.UTT2DUR} or kaldi.keyed_by(name) != "utterance":
            names.add(name)
        else:
            said.append(f"{name} is left out: it is not in {', '.join(lacking)}")
    with new_directory(Path(out)) as folder:
        write_parts(manifests, names, folder)
    return said + [f"{path} is left out" for manifest in manifests for path in _other_files(manifest.path)]


def _open(source: Path | str, *, allow_commands: bool) -> Manifest:
    refuse_shards(source)
    return Manifest.open(source, allow_commands=allow_commands)


def _check_disjoint(manifests: Sequence[Manifest]) -> None:
    last, where = "", Path()
    for utterance, path in heapq.merge(*(zip(m.ids, repeat(m.path)) for m in manifests)):
        if utterance == last:
            raise ValueError(f"utterance {utterance!r} is in {where} and in {path}; rename it or leave one out")
        last, where = utterance, path


def _other_files(directory: Path) -> list[Path]:
    known = {*kaldi.table_names(directory), kaldi.TRIALS, kaldi.PHONES_CTM}
    files = (path for path in sorted(directory.iterdir()) if path.is_file())
    return [p for p in files if p.name not in known and not p.name.startswith(".") and p.suffix != ".partial"]
