"""Long recordings in windows: the same frames as of the whole, where a window covers what a frame depends on."""

from __future__ import annotations

import pytest
import torch
from test_fine_tune import NO_MASKS, model

from audiossl.adapters.frozen import Frozen
from audiossl.data.frame_grid import FrameGrid
from audiossl.train.windows import predict_in_windows, score_in_windows

GRID = FrameGrid(16_000, stride=4, first=10)


def score(waveform):
    """Frames of which each depends on three to either side: (frame, token)."""
    frames = waveform.unfold(0, GRID.first, GRID.stride).sum(1)
    near = torch.nn.functional.pad(frames, (3, 3)).unfold(0, 7, 1)
    return torch.stack((near.sum(1), near.amax(1), frames), dim=1)


@pytest.mark.parametrize("window", [18, 19, 40, 200])
@pytest.mark.parametrize("samples", [10, 81, 400, 403, 997, 1000])
def test_frames_are_those_of_the_whole(window, samples):
    heard = []

    def note(waveform):
        heard.append(len(waveform))
        return score(waveform)

    waveform = torch.randint(-9, 9, (samples,), generator=torch.Generator().manual_seed(0)).float()
    whole = score(waveform)
    assert torch.equal(score_in_windows(note, waveform, GRID, window, label="a"), whole)
    assert max(heard) < GRID.samples_of(window + 1)
    assert len(heard) == 1 or len(whole) > window


def test_every_recording_of_a_batch_is_read(capsys, monkeypatch):
    monkeypatch.setattr("audiossl.data.progress.LINE_EVERY", 0.0)
    module = model(Frozen(Frozen.Config()), NO_MASKS).eval()
    waveform = 0.1 * torch.randn(2, 64_000, generator=torch.Generator().manual_seed(0))
    batch = {"waveform": waveform, "waveform_lengths": torch.tensor([64_000, 40_000]), "utt_ids": ["a", "b"]}
    grid = FrameGrid.of(module.encoder)
    with torch.no_grad():
        assert [*predict_in_windows(module, batch, grid, 10_000)] == module.predict(batch)
        assert len([*predict_in_windows(module, batch, grid, 6)]) == 2
    assert capsys.readouterr().err.startswith("a: ")
