"""Where the frames of an encoder lie on the waveform, as a value small enough to send to a loader's workers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiossl.contracts import Encoder


@dataclass(frozen=True)
class FrameGrid:
    """Frame t of an encoder begins at sample t * stride; the first one needs `first` samples.

    A chain of convolutions, floor((n - k) / s) + 1 at each, is the same as one with the kernel `first` and the stride `stride`, so
    these two numbers give the frame count of any waveform without the encoder.
    """

    sample_rate: int
    stride: int
    first: int

    @classmethod
    def of(cls, encoder: Encoder) -> FrameGrid:
        """Measure the grid of an encoder."""
        window = 100 * encoder.stride
        first = 1 + bisect_left(range(1, window), 1, key=lambda samples: int(encoder.num_frames(samples)))
        grid = cls(encoder.sample_rate, encoder.stride, first)
        for samples in (first - 1, first, first + encoder.stride - 1, first + 7 * encoder.stride, 50 * window + 1):
            assert grid.num_frames(samples) == encoder.num_frames(samples), (grid, samples)
        return grid

    def num_frames(self, samples: int) -> int:
        """Frames of a waveform of `samples` samples."""
        return max(0, (samples - self.first) // self.stride + 1)

    def samples_of(self, frames: int) -> int:
        """Fewest samples that give so many frames."""
        return self.first + (frames - 1) * self.stride

    def align(self, labels: NDArray[np.int64], *, start: int, num_samples: int, label_rate: float) -> NDArray[np.int64]:
        """Labels of the frames of a crop that begins at sample `start`: (frame,), -1 where the labels have run out.

        labels: (label,), of the whole utterance, `label_rate` per second. Frame t has label floor(rho t), with rho labels per frame,
        counted from the label nearest to the start of the crop, as HuBERT does: at most half a label of jitter.
        """
        frame = np.arange(self.num_frames(num_samples))
        index = np.floor(frame * (label_rate * self.stride) / self.sample_rate).astype(np.int64)
        index += round(start * label_rate / self.sample_rate)
        aligned = np.full(len(frame), -1, dtype=np.int64)
        known = index < len(labels)
        aligned[known] = labels[index[known]]
        return aligned
