"""Turns of speakers: written and read, and as labels of frames against a loop over frames."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.data.audio import write_audio
from audiossl.data.turns import UTT2TURNS, Turn, parse_turns, turn_labels, write_turns
from audiossl.data.validate import faults
from audiossl.data.writer import CorpusUtterance, write_data_dir

TURNS = [Turn("b", 0.9, 2.95), Turn("a", 0.2, 1.4), Turn("a", 1.7, 2.1)]


def test_what_is_written_is_read():
    line = write_turns(TURNS)
    assert line == "a 0.2 1.4 b 0.9 2.95 a 1.7 2.1"
    assert parse_turns(line) == sorted(TURNS, key=lambda turn: turn.start)


@pytest.mark.parametrize("line", ["", "a 0", "a 0 1 b", "a 1 1", "a 2 1", "a -1 1", "a x 1", "a 0 nan", "a 0 inf"])
def test_what_is_no_turn(line):
    assert parse_turns(line) is None


@pytest.mark.parametrize("start", [0.0, 0.5, 1.31, 2.5])
@pytest.mark.parametrize("rate", [50.0, 100.0])
def test_labels_equal_a_loop_over_frames(start, rate):
    found = turn_labels(TURNS, start=start, num_frames=160, rate=rate)
    for frame in range(160):
        for column, speaker in enumerate("ab"):
            begins = [
                (np.rint((t.start - start) * rate), np.rint((t.end - start) * rate))
                for t in TURNS
                if t.speaker == speaker
            ]
            assert found[frame, column] == any(first <= frame < last for first, last in begins)
    assert found.shape == (160, 2)


def test_a_turn_across_a_whole_piece_is_heard_in_it():
    assert turn_labels([Turn("a", 0.0, 9.0)], start=3.0, num_frames=50, rate=50.0).all()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (write_turns(TURNS), []),
        (
            "a 0 1 b",
            ["utt2turns:1: 'm': 'a 0 1 b' is not `speaker start end` once or more, in seconds; correct the line"],
        ),
        ("a 0 3.2", ["utt2turns:1: 'm': someone speaks until 3.2 s, where it ends at 3 s; correct the line"]),
        ("a 0 3.04", []),
    ],
)
def test_validation(tmp_path, line, wrong):
    write_audio(tmp_path / "m.wav", 0.1 * np.random.default_rng(0).standard_normal(48_000), 16_000)
    write_data_dir([CorpusUtterance("m", "m", tmp_path / "m.wav", "m", columns={UTT2TURNS: line})], tmp_path / "data")
    found = [str(fault) for fault in faults(tmp_path / "data")]
    assert [text.replace(f"{tmp_path / 'data'}/", "") for text in found] == wrong
