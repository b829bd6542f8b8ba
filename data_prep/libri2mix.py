"""Libri2Mix: two readers of LibriSpeech at once, 16 kHz, with who speaks when, or with each reader alone.

Layout, for diarisation (`max`: the longer one sets the length): Kaldi directories `train` (of train-100), `dev` and `test` with `wav.scp`, `segments` and `utt2spk`, as the recipe for SUPERB writes them
(`generate_librimix_sd.sh` and `scripts/prepare_diarization.py` of LibriMix for s3prl); its `rttm`, `reco2dur` and `spk2utt` say the same again and
are not read. A recording of `wav.scp` may be relative to its directory. For separation (`min`: the shorter one does): `wav16k/min/{train-100,dev,test}`, each
with `mix_clean`, `s1` and `s2` and in these the same file names, as LibriMix writes them. One of both is enough. Licence: CC BY 4.0 (LibriSpeech), WHAM! noise CC BY-NC 4.0. Source: Cosentino et al.:
"LibriMix: an open-source dataset for generalizable speech separation", 2020.

Writes `train`, `dev`, `test`: each mixture an utterance, without a speaker of its own, with `utt2turns` (`speaker start end ...`, seconds). And
`superb_ss` with the same three for `audiossl superb ss --data OUT/superb_ss`: mixtures without noise, their readers' files in `utt2source1` and
`utt2source2`; its `dev` are the 1,000 mixtures that SUPERB-SG draws of 3,000, or those that are there if they are no more.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.corpus import compare_numbers, listed, published, write_imitation
from audiossl.data.turns import UTT2TURNS, Turn, write_turns
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARTS = ("train", "dev", "test")
_FILES = (kaldi.WAV_SCP, kaldi.SEGMENTS, kaldi.UTT2SPK)
_SEPARATION = "wav16k/min"
_SEPARATION_PARTS = {"train": "train-100", "dev": "dev", "test": "test"}
_KINDS = ("mix_clean", "s1", "s2")
_MIXTURES = {"train": 13_900, "dev": 3000}
_DEV_MIXTURES, _DEV_SEED = 1000, 7


def prepare(corpus: Path | None, out: Path) -> None:
    """Write the data directories under `out`; nothing is copied."""
    separation = corpus is not None and (corpus / _SEPARATION).is_dir()
    if not separation or (corpus is not None and (corpus / _PARTS[0]).is_dir()):
        folder = published(corpus, *(f"{part}/{file}" for part in _PARTS for file in _FILES))
        for part in _PARTS:
            write_data_dir(_mixtures(folder / part), out / part)
    if separation:
        members = [f"{_SEPARATION}/{name}/{kind}" for name in _SEPARATION_PARTS.values() for kind in _KINDS]
        folder = published(corpus, *members) / _SEPARATION
        for part, name in _SEPARATION_PARTS.items():
            write_data_dir(_separable(folder / name, sampled=part == "dev"), out / "superb_ss" / part)
    separable = _MIXTURES | {"dev": _DEV_MIXTURES}
    compare_numbers(
        published(corpus), out, _MIXTURES | {f"superb_ss/{part}": count for part, count in separable.items()}
    )


def fake(root: Path) -> None:
    """Write a tiny imitation: two mixtures of two readers in each part, for diarisation and for separation."""
    rng = np.random.default_rng(0)
    for name in _SEPARATION_PARTS.values():
        for mixture in ("103-1240-0000_1034-121119-0001", "200-1240-0000_211-121119-0001"):
            paths = [root / _SEPARATION / name / kind / f"{mixture}.wav" for kind in _KINDS]
            for path in paths:
                write_imitation(path, rng, duration=1.0, sample_rate=16000)
            write_audio(paths[0], 0.5 * (read_audio(paths[1]) + read_audio(paths[2])), 16000)
    for part in _PARTS:
        folder = root / part
        scp, segments, speakers = [], [], []
        for first, second in (("103", "1034"), ("200", "211")):
            mixture = f"{first}-1240-0000_{second}-121119-0001"
            write_imitation(folder / "wav" / f"{mixture}.wav", rng, duration=3.0, sample_rate=16000)
            scp.append(f"{mixture} wav/{mixture}.wav")
            for speaker, start, end in ((first, 0.2, 1.4), (second, 0.9, 2.95), (first, 1.7, 2.1)):
                utterance = f"{speaker}_{mixture}_{round(100 * start):07d}_{round(100 * end):07d}"
                segments.append(f"{utterance} {mixture} {start} {end}")
                speakers.append(f"{utterance} {speaker}")
        for name, lines in zip(_FILES, (scp, sorted(segments), sorted(speakers)), strict=True):
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mixtures(folder: Path) -> Iterator[CorpusUtterance]:
    turns = _turns(folder)
    for number, mixture, entry in kaldi.read_table(folder / kaldi.WAV_SCP):
        place = f"{folder / kaldi.WAV_SCP}:{number}"
        if kaldi.is_command(entry) or not entry:
            raise ValueError(f"{place}: {mixture!r} is no audio file ({entry}); write the mixture and name it there")
        if mixture not in turns:
            raise ValueError(f"{place}: nobody speaks in {mixture!r} by `segments`; take it out")
        beside = folder / entry
        path = beside if beside.is_file() else kaldi.audio_path(entry, folder)
        yield CorpusUtterance(mixture, mixture, path, mixture, columns={UTT2TURNS: write_turns(turns[mixture])})


def _separable(folder: Path, *, sampled: bool) -> Iterator[CorpusUtterance]:
    names = sorted(path.stem for path in listed(folder / _KINDS[0], "*.wav"))
    if sampled and len(names) > _DEV_MIXTURES:
        if len(names) != _MIXTURES["dev"]:
            raise ValueError(
                f"{folder / _KINDS[0]}: {len(names):,} mixtures, of which the published draw of {_DEV_MIXTURES:,} from "
                f"{_MIXTURES['dev']:,} would be other ones; generate all of them"
            )
        random.Random(_DEV_SEED).shuffle(names)  # noqa: S311 - the draw that SUPERB-SG publishes
        names = sorted(names[:_DEV_MIXTURES])
    for name in names:
        mixture, *sources = (folder / kind / f"{name}.wav" for kind in _KINDS)
        missing = next((path for path in sources if not path.is_file()), None)
        if missing is not None:
            raise ValueError(f"{missing}: not there, but {mixture} is; generate the mixtures again")
        columns = {f"utt2source{number}": str(path) for number, path in enumerate(sources, start=1)}
        yield CorpusUtterance(name, name, mixture, name, columns=columns)


def _turns(folder: Path) -> dict[str, list[Turn]]:
    """Turns by recording."""
    speaker = {utterance: name for _, utterance, name in kaldi.read_table(folder / kaldi.UTT2SPK)}
    turns: dict[str, list[Turn]] = defaultdict(list)
    for number, utterance, value in kaldi.read_table(folder / kaldi.SEGMENTS):
        segment = kaldi.parse_segment(value)
        if segment is None or utterance not in speaker:
            what = "is not `recording start end`" if segment is None else "has no line in utt2spk"
            raise ValueError(f"{folder / kaldi.SEGMENTS}:{number}: {utterance!r} {what}; write the directory again")
        turns[segment[0]].append(Turn(speaker[utterance], segment[1], segment[2]))
    return turns
