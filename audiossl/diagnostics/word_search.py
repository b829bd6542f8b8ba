"""Keyword search: where in recordings words are heard, by the nearness of windows to the embeddings of the words."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from audiossl.data.audio import AudioError, audio_info, read_audio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import EncoderOutput
    from audiossl.nn.ssl_encoder import SSLEncoder

_BATCH = 512  # windows that are embedded together


@dataclass(frozen=True)
class SearchConfig:
    """durations: of the windows, seconds: as long as the words of training, with the silence around them. hop: from window to window, as a share of the duration.

    piece: seconds of a recording that the encoder hears at once; pieces overlap by the longest window. threshold: least cosine of a hit. top: hits of each word that are kept, of
    all recordings together; 0: all.
    """

    durations: tuple[float, ...] = (0.25, 0.4, 0.6, 0.9)
    hop: float = 0.2
    piece: float = 20.0
    threshold: float = 0.5
    top: int = 10

    def __post_init__(self) -> None:
        if not self.durations or min(self.durations) <= 0 or not 0 < self.hop <= 1 or self.top < 0:
            raise ValueError("search: durations must be above 0, hop between 0 and 1, top at least 0")
        if self.piece < 2 * max(self.durations):
            raise ValueError(f"search.piece: {self.piece:g} s is less than two windows; give more")


class Hit(NamedTuple):
    """A place where a word is heard: seconds from the recording's start; score: cosine."""

    word: str
    recording: str
    start: float
    end: float
    score: float


class Found(NamedTuple):
    """Windows of a recording: starts, ends: (window,) seconds; scores: (window, word)."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray


@torch.no_grad()
def search(
    encoder: SSLEncoder,
    task: Any,
    words: dict[str, tuple[str, ...]],
    recordings: Sequence[Path],
    config: SearchConfig,
    *,
    device: str = "cpu",
    on_bad: Callable[[str], None],
) -> list[Hit]:
    """Search recordings for words, given with their symbols; the best hits first, those of a word in one recording apart from one another.

    task: `tasks.word_embedding`, in eval mode like the encoder. on_bad: called with the fault of each recording that cannot be read; the others are searched.
    """
    queries = task.embed_words(list(words.values()))
    best: dict[str, list[Hit]] = {word: [] for word in words}
    for path in recordings:
        try:
            parts = list(_pieces(encoder, task, queries, path, config, device))
        except AudioError as error:
            on_bad(str(error))
            continue
        if not parts:
            continue
        found = Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for number, word in enumerate(words):
            apart = islice(_apart(found, number, word, path, config), config.top or None)
            hits = sorted([*best[word], *apart], key=_rank)
            best[word] = hits[: config.top or None]
    return sorted((hit for hits in best.values() for hit in hits), key=_rank)


def _rank(hit: Hit) -> tuple[float, str, float, str]:
    return -hit.score, hit.recording, hit.start, hit.word


def _pieces(
    encoder: SSLEncoder, task: Any, queries: Tensor, path: Path, config: SearchConfig, device: str
) -> Iterator[Found]:
    """Score the windows of a recording, piece by piece."""
    seconds, step = audio_info(path).duration, config.piece - max(config.durations)
    for number in range(max(int(np.ceil((seconds - max(config.durations)) / step)), 1)):
        start = number * step
        length = min(config.piece, seconds - start)
        wave = read_audio(path, start=start, duration=length, sample_rate=encoder.sample_rate, allow_silent=True)
        lengths = torch.tensor([len(wave)], device=device)
        if int(encoder.num_frames(len(wave))) < 1:
            continue
        output = encoder(torch.from_numpy(wave)[None].to(device), lengths)
        yield from _windows(task, queries, output, encoder.sample_rate / encoder.stride, start, config)


def _windows(
    task: Any, queries: Tensor, output: EncoderOutput, rate: float, start: float, config: SearchConfig
) -> Iterator[Found]:
    """Embed all windows of a piece; one that is longer than the piece is the piece."""
    total, frames = int(output.lengths[0]), task.weighted(output)[0]
    for length in sorted({min(max(round(duration * rate), 1), total) for duration in config.durations}):
        firsts = np.arange(0, total - length + 1, max(round(config.hop * length), 1))
        scores = []
        for block in np.split(firsts, range(_BATCH, len(firsts), _BATCH)):
            at = torch.from_numpy(block[:, None] + np.arange(length)).to(output.lengths.device)
            vectors = task.embed_frames(frames[at], torch.full((len(block),), length))
            scores.append((vectors @ queries.T).float().cpu().numpy())
        yield Found(start + firsts / rate, start + (firsts + length) / rate, np.concatenate(scores))


def _apart(found: Found, number: int, word: str, path: Path, config: SearchConfig) -> Iterator[Hit]:
    """Yield the windows of a word that overlap none that is better, the best first; of equal ones the first."""
    scores = found.scores[:, number]
    left = np.flatnonzero(scores >= config.threshold)
    left = left[np.lexsort((found.starts[left], -scores[left]))]
    taken: list[tuple[float, float]] = []  # by their starts
    for start, end, score in zip(found.starts[left], found.ends[left], scores[left], strict=True):
        after = bisect_right(taken, start, key=itemgetter(0))
        if (after == 0 or taken[after - 1][1] <= start) and (after == len(taken) or taken[after][0] >= end):
            taken.insert(after, (start, end))
            yield Hit(word, str(path), float(start), float(end), float(score))
