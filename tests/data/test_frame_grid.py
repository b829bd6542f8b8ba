import math

import numpy as np
import pytest

from audiossl.data.frame_grid import FrameGrid


class Convolutions:
    """Frame counts of a chain of convolutions, one floor at a time."""

    sample_rate = 16000

    def __init__(self, kernels):
        self.kernels = kernels
        self.stride = math.prod(stride for _, stride in kernels)

    def num_frames(self, samples):
        for kernel, stride in self.kernels:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples


WAV2VEC2 = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize("kernels", [WAV2VEC2, [(400, 160), (5, 2)], [(7, 3)]])
def test_counts_frames_as_the_encoder_does(kernels):
    encoder = Convolutions(kernels)
    grid = FrameGrid.of(encoder)
    for samples in [*range(3000), 249_999, 250_000]:
        assert grid.num_frames(samples) == encoder.num_frames(samples)


def test_the_field_of_wav2vec2():
    assert FrameGrid.of(Convolutions(WAV2VEC2)) == FrameGrid(sample_rate=16000, stride=320, first=400)


@pytest.mark.parametrize("label_rate", [100, 50, 75, 25])
@pytest.mark.parametrize("start", [0, 1, 159, 4000, 12345])
def test_labels_are_those_of_the_frames_own_time(label_rate, start):
    grid = FrameGrid(sample_rate=16000, stride=320, first=400)
    labels = np.arange(5 * label_rate)
    aligned = grid.align(labels, start=start, num_samples=32000, label_rate=label_rate)
    assert len(aligned) == grid.num_frames(32000)
    for frame, label in enumerate(aligned):
        assert label == math.floor(frame * label_rate / 50) + round(start * label_rate / 16000)
        time = (start + 320 * frame) / 16000
        assert abs(label - time * label_rate) < 1.5  # rounding down the frame and rounding the start


def test_frames_after_the_last_label_have_none():
    grid = FrameGrid(sample_rate=16000, stride=320, first=400)
    aligned = grid.align(np.arange(10), start=0, num_samples=3840, label_rate=100)
    assert aligned.tolist() == [0, 2, 4, 6, 8, -1, -1, -1, -1, -1, -1]
    assert (grid.align(np.zeros(0, dtype=np.int64), start=0, num_samples=3840, label_rate=100) == -1).all()
