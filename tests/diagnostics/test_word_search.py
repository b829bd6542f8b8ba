"""Search with a planted space: the encoder tells silence from two tones, the embedding of a window is what it mostly hears."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.contracts import EncoderOutput
from audiossl.data.audio import write_audio
from audiossl.diagnostics import word_search
from audiossl.diagnostics.word_search import Found, Hit, SearchConfig, search
from audiossl.tasks.word_embedding import WordEmbedding

RATE, STRIDE = 16_000, 320
TONES = {"low": 500.0, "high": 2000.0}


class Encoder:
    sample_rate, stride = RATE, STRIDE

    def num_frames(self, samples):
        return samples // STRIDE

    def __call__(self, waveform, lengths):
        frames = waveform[:, : waveform.shape[1] // STRIDE * STRIDE].unflatten(1, (-1, STRIDE))
        time = torch.arange(STRIDE) / RATE
        waves = torch.stack([torch.exp(2j * torch.pi * tone * time) for tone in TONES.values()])
        energy = (frames.to(waves.dtype) @ waves.T).abs() / STRIDE
        layer = torch.cat([energy, torch.full_like(energy[..., :1], 0.02)], dim=2)
        return EncoderOutput([layer, layer.flip(2)], lengths // STRIDE)


class Task:
    def embed_words(self, words):
        return torch.stack([torch.eye(3)[int(word[0])] for word in words])

    def weighted(self, output):
        return output.layers[0]

    def embed_frames(self, frames, lengths):
        return F.normalize(frames.mean(dim=1), dim=1)


WORDS = {"low": ("0",), "high": ("1",)}


def recording(path, spans, seconds):
    """spans: (tone, start, end)."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.001 * np.random.default_rng(0).standard_normal(len(time))
    for tone, start, end in spans:
        wave += 0.3 * np.sin(2 * np.pi * TONES[tone] * time) * ((time >= start) & (time < end))
    write_audio(path, wave.astype(np.float32), RATE)
    return path


def find(paths, *, on_bad=pytest.fail, **more):
    config = SearchConfig(**{"durations": (0.3, 0.5), "threshold": 0.9, **more})
    return search(Encoder(), Task(), WORDS, paths, config, on_bad=on_bad)


def test_words_are_found_where_they_are(tmp_path):
    spans = [("low", 1.0, 1.5), ("high", 2.2, 2.5), ("low", 3.0, 3.5)]
    path = recording(tmp_path / "a.wav", spans, 4.0)
    hits = find([path], top=0)
    for tone, start, end in spans:
        inside = [hit for hit in hits if hit.word == tone and min(hit.end, end) - max(hit.start, start) > 0.2]
        assert inside
        assert inside[0].score > 0.98
    for hit in hits:
        assert any(hit.word == tone and hit.start < end and hit.end > start for tone, start, end in spans)
    for word in WORDS:
        own = sorted((hit.start, hit.end) for hit in hits if hit.word == word)
        assert all(after[0] >= before[1] for before, after in pairwise(own))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_pieces_of_a_long_recording_hide_nothing(tmp_path):
    spans = [("high", 0.9 * k + 0.3, 0.9 * k + 0.6) for k in range(9)]
    path = recording(tmp_path / "a.wav", spans, 8.6)
    for piece in (1.0, 1.7, 20.0):
        hits = find([path], piece=piece, top=0, durations=(0.3,), hop=0.1)
        found = {
            number
            for number, (_, start, end) in enumerate(spans)
            for hit in hits
            if hit.start < end and hit.end > start
        }
        assert found == set(range(9))
        assert all(0 <= hit.start < hit.end <= 8.6 for hit in hits)


def test_the_best_of_all_recordings_are_kept(tmp_path):
    paths = [recording(tmp_path / f"{k}.wav", [("low", 0.5, 1.0), ("low", 1.5, 2.0)], 2.5) for k in range(3)]
    assert len([hit for hit in find(paths, top=0) if hit.score > 0.98]) >= 6
    few = find(paths, top=2)
    assert len(few) == 2
    assert few == find(paths, top=0)[:2]
    assert find(paths, threshold=1.01) == []


def test_no_more_hits_are_looked_for_than_are_kept(tmp_path, monkeypatch):
    spans = [("low", 0.9 * k + 0.3, 0.9 * k + 0.6) for k in range(6)]
    path, drawn = recording(tmp_path / "a.wav", spans, 6.0), []
    apart = word_search._apart
    monkeypatch.setattr(word_search, "_apart", lambda *a: (drawn.append(hit) or hit for hit in apart(*a)))
    hits = find([path], top=2)
    assert (len(drawn), len(hits)) == (2, 2)
    assert hits == find([path], top=0)[:2]
    assert len(drawn) == 2 + len(spans)


def test_hits_apart_are_those_of_a_loop_over_all_windows():
    rng = np.random.default_rng(0)
    starts = rng.integers(200, size=400) / 4
    ends, scores = starts + rng.choice([0.25, 0.5, 1.5], size=400), rng.integers(12, size=(400, 1)) / 10
    found, wanted = Found(starts, ends, scores), []
    for window in np.lexsort((starts, -scores[:, 0])):
        start, end = starts[window], ends[window]
        if scores[window] >= 0.5 and all(start >= hit.end or end <= hit.start for hit in wanted):
            wanted.append(Hit("low", "a.wav", start, end, scores[window, 0]))
    assert len(wanted) > 30
    assert list(word_search._apart(found, 0, "low", Path("a.wav"), SearchConfig())) == wanted


def test_layers_are_mixed_once_for_each_piece(tmp_path, monkeypatch):
    torch.manual_seed(0)
    task = WordEmbedding(3, 1, WordEmbedding.Config(dim=6, hidden_dim=5, symbol_dim=4), {"a": ("x",), "b": ("y",)})
    task.eval()
    torch.nn.init.normal_(task.weighted.layer_logits)
    mixed, mix = [], task.weighted.forward
    monkeypatch.setattr(task.weighted, "forward", lambda output: mixed.append(output) or mix(output))
    path = recording(tmp_path / "a.wav", [("low", 1.0, 1.5), ("high", 2.0, 2.5)], 4.0)
    config = SearchConfig(durations=(0.3, 0.5), piece=2.0, threshold=-1.0, top=0)
    hits = search(Encoder(), task, task.words, [path], config, on_bad=pytest.fail)
    assert len(mixed) == 3
    output = mixed[0]
    hit = next(hit for hit in hits if hit.end <= 1.5)
    first, last = round(hit.start * RATE / STRIDE), round(hit.end * RATE / STRIDE)
    cut = EncoderOutput([layer[:, first:last] for layer in output.layers], torch.tensor([last - first]))
    with torch.no_grad():
        alone = task.embed(cut) @ task.embed_words([task.words[hit.word]]).T
    assert hit.score == pytest.approx(alone.item(), abs=1e-6)


def test_a_damaged_recording_is_named_and_the_others_are_searched(tmp_path):
    paths = [recording(tmp_path / f"{k}.wav", [("low", 0.5, 1.0)], 1.5) for k in range(3)]
    paths[1].write_bytes(b"RIFF but nothing else")
    bad = []
    assert {hit.recording for hit in find(paths, on_bad=bad.append)} == {str(paths[0]), str(paths[2])}
    assert [line.startswith(f"{paths[1]}: ") for line in bad] == [True]


def test_recordings_shorter_than_a_window_or_a_frame(tmp_path):
    short = recording(tmp_path / "a.wav", [("low", 0.0, 0.2)], 0.2)
    tiny = recording(tmp_path / "b.wav", [("low", 0.0, 0.01)], 0.01)
    hits = find([short, tiny])
    assert [(hit.word, hit.recording) for hit in hits] == [("low", str(short))]
    assert hits[0].end == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"durations": ()}, "durations"),
        ({"hop": 0.0}, "hop"),
        ({"top": -1}, "top"),
        ({"piece": 1.0}, "search.piece: 1 s is less"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        SearchConfig(**wrong)
