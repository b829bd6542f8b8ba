"""WAV files of 16-bit samples, the most usual kind, without libsndfile, which takes ten times as long to open one.

Only what is plain and whole is read here; whatever else a WAV may be is left to libsndfile and to what `audio` says of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD = 4096  # bytes in which the samples must begin
_MOST = 1 << 30  # bytes: the system reads no more than twice that at once
_PCM, _WIDTH = 1, 2


@dataclass
class PlainWav:
    """As much of `soundfile.SoundFile` as `audio` asks for. begin: the byte of the first sample."""

    bytes_at: Callable[[int, int], bytes | memoryview]
    begin: int
    frames: int
    channels: int
    samplerate: int
    format: str = "WAV"
    subtype: str = "PCM_16"
    extra_info: str = ""
    _place: int = 0

    def seek(self, frame: int) -> None:
        """Read from there on."""
        self._place = frame

    def read(self, frames: int) -> np.ndarray:
        """(sample, channel) int16, fewer than `frames` at the end."""
        width = _WIDTH * self.channels
        count = max(0, min(frames, self.frames - self._place))
        encoded = self.bytes_at(self.begin + self._place * width, count * width)
        self._place += count
        whole = len(encoded) // width * self.channels  # less, where somebody shortens the file just now
        return np.frombuffer(encoded, dtype="<i2", count=whole).reshape(-1, self.channels)


def plain_wav(bytes_at: Callable[[int, int], bytes | memoryview], size: int) -> PlainWav | None:
    """Understand the header of a file of `size` bytes; None where it is no whole WAV of 16-bit samples.

    bytes_at: (first byte, number of bytes) -> bytes, fewer at the end.
    """
    head = bytes(bytes_at(0, _HEAD)) if size else b""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or int.from_bytes(head[4:8], "little") + 8 > size:
        return None
    place, layout = 12, None
    while place + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"fmt ":
            if length < 16 or place + 16 > len(head):
                return None
            layout = struct.unpack_from("<HHIIHH", head, place)
        elif name == b"data":
            return _of(bytes_at, layout, place, length, size)
        place += length + length % 2
    return None


def _of(
    bytes_at: Callable[[int, int], bytes | memoryview],
    layout: tuple[int, ...] | None,
    begin: int,
    length: int,
    size: int,
) -> PlainWav | None:
    if layout is None:
        return None
    kind, channels, rate, _, block, bits = layout
    plain = kind == _PCM and bits == 8 * _WIDTH and channels > 0 and rate > 0 and block == _WIDTH * channels
    if not plain or length % block or not 0 < length <= min(size - begin, _MOST):
        return None
    return PlainWav(bytes_at, begin, length // block, channels, rate)
