import pytest
import torch

from audiossl.nn.features import fbank
from audiossl.nn.mel_patches import mel_patches, patch_frames

RATE = 16000


def waves():
    lengths = torch.tensor([8000, 5333])
    waveform = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    waveform[1, 5333:] = 0
    return waveform, lengths


@pytest.mark.parametrize(("stride", "frames"), [(320, 24), (640, 12)])
def test_patches_are_the_stacked_normalised_filterbank(stride, frames):
    waveform, lengths = waves()
    stacked = stride // 160
    patches = mel_patches(waveform, lengths, num_frames=frames, stride=stride, num_mels=20)
    assert patches.shape == (2, frames, stacked * 20)
    for row in range(2):
        mels, count = fbank(waveform[row : row + 1, : lengths[row]], lengths[row : row + 1], num_mels=20)
        mels = mels[0].double()
        mels = (mels - mels.mean(0)) / (mels.var(0, correction=0) + 1e-5).sqrt()
        for t in range(frames):
            for k in range(stacked):
                expected = mels[min(t * stacked + k, int(count) - 1)]
                found = patches[row, t, k * 20 : (k + 1) * 20].double()
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_padding_is_never_heard():
    waveform, lengths = waves()
    louder = waveform.clone()
    louder[1, 5333:] = 1.0
    first, second = (mel_patches(w, lengths, num_frames=24, stride=320) for w in (waveform, louder))
    assert torch.equal(first, second)


def test_frames_that_are_no_multiple_are_refused():
    assert patch_frames(640, RATE) == 4
    with pytest.raises(ValueError, match="frames of 500 samples at 16000 Hz are not a multiple of 10 ms; choose"):
        patch_frames(500, RATE)
