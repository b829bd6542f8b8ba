"""Tokens of phones: chosen by group, cut where their frames lie, bounded."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from corpora import write_corpus

from audiossl.contracts import EncoderOutput
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.phone_tokens import Tokens, choose_tokens, spans, speakers_of, token_frames
from audiossl.diagnostics.pooled_cache import CacheConfig
from audiossl.diagnostics.sources import FeatureSource

RATE, STRIDE = 16_000, 320


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    rng, waves, marks = np.random.default_rng(0), [], []
    for _ in range(8):
        names = [str(name) for name in rng.choice(["a", "b", "c", "SIL"], 12)]
        lengths = rng.uniform(0.005, 0.09, 12)
        starts = np.cumsum(lengths) - lengths
        waves.append(0.1 * rng.standard_normal(round(RATE * lengths.sum())))
        marks.append(list(zip(starts.tolist(), lengths.tolist(), names, strict=True)))
    write_corpus(root, waves, speakers=("s0", "s1", "s2"), phones=marks)
    return Manifest.open(root / "data")


def numbered():
    """A source whose frames are (number of the frame, first sample of it), in two layers."""

    def extract(waveform, lengths):
        count = (lengths - 400) // STRIDE + 1
        frame = torch.arange(int(count.max()))
        first = torch.stack([frame.expand(len(waveform), -1).float(), waveform[:, frame * STRIDE]], dim=-1)
        return EncoderOutput([first, -first], count)

    return FeatureSource("numbered", "0", RATE, 2, 2, 400, STRIDE, extract)


def choose(manifest, **change):
    how = {"exclude": ("SIL",), "speakers": 10, "group_size": 100, "by_context": False, "seed": 0}
    return choose_tokens(manifest, **{**how, **change})


def test_all_tokens_but_the_excluded(manifest):
    lines = [line.split() for line in (manifest.path / "phones.ctm").read_text().splitlines()]
    wanted = sorted((u, float(s), p) for u, _, s, _, p in lines if p != "SIL")
    tokens = choose(manifest)
    ids = [manifest.ids[row] for row in tokens.utterances.tolist()]
    assert sorted(zip(ids, tokens.starts.tolist(), tokens.phones.tolist(), strict=True)) == wanted
    assert all(name.startswith(speaker) for name, speaker in zip(ids, tokens.speakers.tolist(), strict=True))
    assert set(tokens.contexts.tolist()) == {""}


def test_groups_and_speakers_are_bounded(manifest):
    whole, some = choose(manifest), choose(manifest, group_size=3, speakers=2)
    commonest = [name for name, _ in Counter(whole.speakers.tolist()).most_common(2)]
    assert set(some.speakers.tolist()) == set(commonest)
    sizes = Counter(zip(whole.speakers.tolist(), whole.phones.tolist(), strict=True))
    for group, size in Counter(zip(some.speakers.tolist(), some.phones.tolist(), strict=True)).items():
        assert size == min(3, sizes[group])
    assert choose(manifest, group_size=3).starts.tolist() == choose(manifest, group_size=3).starts.tolist()
    assert choose(manifest, group_size=3).starts.tolist() != choose(manifest, group_size=3, seed=1).starts.tolist()


def test_an_utterance_without_a_speaker_has_no_tokens(manifest, tmp_path):
    shutil.copytree(manifest.path, tmp_path / "data")
    lines = (manifest.path / "utt2spk").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "utt2spk").write_text("".join(lines[:5]) + f"{lines[5].split()[0]}\n")
    some = Manifest.open(tmp_path / "data")
    assert speakers_of(some) == [*speakers_of(manifest)[:5], "", "", ""]
    assert set(choose(some).utterances.tolist()) == set(range(5))
    assert set(choose(some).speakers.tolist()) == set(speakers_of(manifest)[:5])
    (tmp_path / "data" / "utt2spk").unlink()
    assert len(choose(Manifest.open(tmp_path / "data"))) == 0


def test_contexts_are_both_neighbours(manifest):
    lines = [line.split() for line in (manifest.path / "phones.ctm").read_text().splitlines()]
    neighbours = {}
    for place, (utterance, _, start, _, _) in enumerate(lines):
        around = [lines[at] for at in (place - 1, place + 1) if 0 <= at < len(lines)]
        before = next((row[4] for row in around if row[0] == utterance and float(row[2]) < float(start)), "")
        after = next((row[4] for row in around if row[0] == utterance and float(row[2]) > float(start)), "")
        neighbours[utterance, float(start)] = f"{before} {after}"
    tokens = choose(manifest, by_context=True)
    for row, start, context in zip(
        tokens.utterances.tolist(), tokens.starts.tolist(), tokens.contexts.tolist(), strict=True
    ):
        assert context == neighbours[manifest.ids[row], start]


@pytest.mark.parametrize("batch_seconds", [0.1, 100.0])
def test_frames_are_those_whose_middle_lies_in_the_token(manifest, tmp_path, batch_seconds):
    tokens = choose(manifest)
    config = CacheConfig(batch_seconds=batch_seconds, num_workers=0)
    found = token_frames(tokens, manifest, numbered(), tmp_path / "frames.npy", config=config, log=print)
    rate, number = RATE / STRIDE, 0
    for token in range(len(tokens)):
        waveform = manifest.audio(int(tokens.utterances[token]), sample_rate=RATE)
        count = (len(waveform) - 400) // STRIDE + 1
        start, end = tokens.starts[token], tokens.ends[token]
        wanted = range(max(0, math.ceil(start * rate - 0.5)), min(count, math.floor(end * rate - 0.5) + 1))
        if not wanted:
            continue
        assert found.tokens.starts[number] == start
        for layer, sign in ((0, 1), (1, -1)):
            [frames] = found.of(np.array([number]), layer)
            assert frames[:, 0].tolist() == [sign * frame for frame in wanted]
            np.testing.assert_allclose(frames[:, 1], sign * waveform[[frame * STRIDE for frame in wanted]], atol=1e-6)
        number += 1
    assert number == len(found.tokens) < len(tokens)


@pytest.mark.parametrize("rate", [50, 100])
def test_no_frame_is_lost_to_rounding(rate):
    """All times of ten seconds on a grid of 10 ms, against decimal arithmetic; an end is a start and a duration."""
    starts, lengths = np.arange(1000), 1 + np.arange(1000) % 37
    seconds = [[float(f"{n // 100}.{n % 100:02d}") for n in grid] for grid in (starts, lengths)]
    begin, duration = (np.array(each) for each in seconds)
    nothing = np.zeros(1000)
    first, stop = spans(Tokens(nothing, begin, begin + duration, nothing, nothing, nothing), float(rate))
    half, scale = Fraction(1, 2), Fraction(rate, 100)
    assert first.tolist() == [max(0, math.ceil(int(n) * scale - half)) for n in starts]
    assert stop.tolist() == [math.floor(int(n) * scale - half) + 1 for n in starts + lengths]


def test_a_line_that_is_no_phone(manifest, tmp_path):
    (tmp_path / "wav.scp").write_text("a /nowhere.wav\n")
    (tmp_path / "phones.ctm").write_text("a 1 0.0 0.1 x\na 1 zero 0.1 x\n")
    with pytest.raises(ValueError, match=r"phones.ctm:2: not `utterance 1 start duration phone`"):
        choose(Manifest.open(tmp_path))
