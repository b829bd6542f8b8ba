"""MUSAN: 109 h of music, speech and noise to augment with, 16 kHz.

Layout: `music`, `noise` and `speech`, each `<source>/<kind>-<source>-<number>.wav` with an `ANNOTATIONS` or `LICENSE` beside, in the folder `musan` (give
it or the folder above). Licence: public domain and Creative Commons, see each `LICENSE`. Source: Snyder, Chen, Povey: "MUSAN: a music,
speech, and noise corpus", arXiv:1510.08484, 2015; openslr.org/17.

Writes the data directories `music`, `noise` and `speech`, or those of other folders (`--prep.parts '["noise/free-sound"]'` makes
`noise-free-sound`). Recordings, up to half an hour long, are cut into equal segments of 10 to 20 s (`--prep.segment_seconds`), so that
augmenting need not decode a whole one each time; segments of digital silence, which no scale brings to a signal-to-noise ratio, are left out. A speaker is a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.audio import audio_info, read_audio
from audiossl.data.corpus import compare_numbers, identifier, listed, published, write_imitation
from audiossl.data.threads import in_threads
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KINDS = ("music", "noise", "speech")
_RECORDINGS = {"music": 660, "noise": 930, "speech": 426, "noise-free-sound": 843}


@dataclass(frozen=True)
class Config:
    """segment_seconds: the shortest segment that a longer recording is cut into. parts: folders, each a data directory, `/` in its name as `-`."""

    segment_seconds: float = 10.0
    parts: tuple[str, ...] = _KINDS

    def __post_init__(self) -> None:
        strange = [part for part in self.parts if part.split("/")[0] not in _KINDS or ".." in part.split("/")]
        if strange or not self.parts:
            raise ValueError(f"prep.parts: {list(self.parts)}: choose from {', '.join(_KINDS)} and folders in them")
        if not self.segment_seconds > 0.0:
            raise ValueError(f"prep.segment_seconds: {self.segment_seconds} is not positive; give 10, say")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write a data directory per part under `out`; nothing is copied."""
    config = config or Config()
    if corpus is not None and (corpus / "musan").is_dir():
        corpus = corpus / "musan"
    corpus = published(corpus, *config.parts)
    for part in config.parts:
        write_data_dir(_segments(corpus / part, config.segment_seconds), out / identifier(part))
    compare_numbers(corpus, out, _RECORDINGS, "recordings")


def fake(root: Path) -> None:
    """Write a tiny imitation: two recordings of each kind, one of music long enough to be cut."""
    rng = np.random.default_rng(0)
    for kind, source in (("music", "fma"), ("noise", "free-sound"), ("speech", "librivox")):
        for number, seconds in enumerate((25.0 if kind == "music" else 3.0, 2.0)):
            path = root / "musan" / kind / source / f"{kind}-{source}-{number:04d}.wav"
            write_imitation(path, rng, duration=seconds, sample_rate=16000)
        (root / "musan" / kind / source / "LICENSE").write_text("An imitation.\n", encoding="utf-8")


def _segments(folder: Path, seconds: float) -> Iterator[CorpusUtterance]:
    paths = listed(folder, "**/*.wav")
    if not paths:
        raise ValueError(f"{folder}: holds no .wav; unpack it again")
    for path, spans in in_threads(lambda path: _sounding(path, seconds), paths, len(paths), f"reading {folder.name}"):
        name = identifier(path.stem)
        for number, (start, end) in spans:
            yield CorpusUtterance(f"{name}-{number:04d}", name, path, name, start, end)


def _sounding(path: Path, seconds: float) -> list[tuple[int, tuple[float, float]]]:
    """Equal segments of at least `seconds`, or all of a shorter recording: (number, (start, end)), s; without those of zeros."""
    rate = audio_info(path).sample_rate
    waveform = read_audio(path, allow_silent=True)
    count = max(1, int(len(waveform) / (seconds * rate)))
    edges = np.linspace(0, len(waveform), count + 1).astype(np.int64).tolist()
    spans = enumerate(pairwise(edges))
    return [(number, (start / rate, end / rate)) for number, (start, end) in spans if waveform[start:end].any()]
