"""Who speaks when in a recording: the column `utt2turns`, and its labels for the frames of an encoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audiossl.data.kaldi import parse_seconds, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

UTT2TURNS = "utt2turns"


class Turn(NamedTuple):
    """A stretch in which a speaker talks: seconds from the recording's start."""

    speaker: str
    start: float
    end: float


def write_turns(turns: Iterable[Turn]) -> str:
    """Write turns as a line of `utt2turns` holds them: `speaker start end speaker start end ...`, by time."""
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))
    return " ".join(f"{turn.speaker} {seconds(turn.start)} {seconds(turn.end)}" for turn in ordered)


def parse_turns(value: str) -> list[Turn] | None:
    """Read what `write_turns` wrote; None where it is not that."""
    words = value.split()
    if not words or len(words) % 3:
        return None
    triples = zip(words[::3], map(parse_seconds, words[1::3]), map(parse_seconds, words[2::3]), strict=True)
    turns = [Turn(*triple) for triple in triples]
    return turns if all(0.0 <= turn.start < turn.end < math.inf for turn in turns) else None


def turn_labels(turns: Iterable[Turn], *, start: float, num_frames: int, rate: float) -> np.ndarray:
    """Who speaks in each frame of a piece of a recording: (frame, speaker) bool, speakers in the order of their names.

    start: of the piece, seconds. rate: frames per second. A turn has the frames from round(begin x rate) up to round(end x rate), both
    counted from the start of the piece. Speakers who are silent in the piece have their column all the same.
    """
    turns = list(turns)
    column = {name: index for index, name in enumerate(sorted({turn.speaker for turn in turns}))}
    labels = np.zeros((num_frames, len(column)), dtype=np.bool_)
    for turn in turns:
        first, last = (max(0, round((edge - start) * rate)) for edge in (turn.start, turn.end))
        labels[first:last, column[turn.speaker]] = True
    return labels


def turn_spans(turns: Iterable[Turn], *, num_frames: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a recording where a frame or a turn begins or ends, so that in a span neither changes.

    Returns who speaks in each span, (span, speaker) bool in the order of `turn_labels`; its frame, `num_frames` behind the last one; and its seconds.
    """
    turns = list(turns)
    column = {name: index for index, name in enumerate(sorted({turn.speaker for turn in turns}))}
    edges = np.unique(
        [*(np.arange(num_frames + 1) / rate), *(edge for turn in turns for edge in (turn.start, turn.end))]
    )
    talking = np.zeros((len(edges) - 1, len(column)), dtype=np.bool_)
    for turn in turns:
        first, last = np.searchsorted(edges, [turn.start, turn.end])
        talking[first:last, column[turn.speaker]] = True
    middles = (edges[1:] + edges[:-1]) / 2
    return talking, np.minimum((middles * rate).astype(np.int64), num_frames), np.diff(edges)
