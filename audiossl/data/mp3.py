"""The length of MP3 streams that do not say it, as programs that write into a pipe leave them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmap import mmap

_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by MPEG version
_SAME = 0xFFFE0C00  # bits of a header that all frames of a stream share
_SEARCHED = 1 << 16  # bytes after the tags in which the first frame must begin
_MIDDLE_BITRATE = 8  # its frames have room for a count


class _Frame(NamedTuple):
    header: int
    size: int  # bytes
    side: int  # bytes of side information, after which a frame count may come


def with_length(stream: bytes | mmap) -> bytes | None:
    """Return an MP3 with a first frame that says how many there are, without the tags in front; None where it has one, or cannot be counted.

    Decoders guess the length of one without from its size and its first frame: too long by the tags, wrong at a changing bitrate.
    """
    start = _first(stream)
    first = None if start is None else _frame(stream, start)
    if start is None or first is None or _says_length(stream[start : start + 60], first):
        return None
    return _counting_frame(first, _count(stream, start, first)) + stream[start:]


def _frame(stream: bytes | mmap, at: int) -> _Frame | None:
    """The Layer III frame whose header is at `at`; None where there is none."""
    if at + 4 > len(stream):
        return None
    (header,) = struct.unpack(">I", stream[at : at + 4])
    version, bitrate, rate = header >> 19 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or header >> 17 & 3 != 1 or version == 1 or bitrate in {0, 15} or rate == 3:
        return None
    kbits = _KBITS[3 if version == 3 else 2][bitrate]
    size = (144 if version == 3 else 72) * 1000 * kbits // _RATES[version][rate] + (header >> 9 & 1)
    mono = header >> 6 & 3 == 3
    return _Frame(header, size, (17 if mono else 32) if version == 3 else (9 if mono else 17))


def _first(stream: bytes | mmap) -> int | None:
    """Where the first frame begins that another one follows."""
    at = 0
    if stream[:3] == b"ID3":
        a, b, c, d = stream[6:10]  # of seven bits each
        at = 10 + (a << 21 | b << 14 | c << 7 | d)
    found = stream.find(b"\xff", at)
    while 0 <= found < at + _SEARCHED:
        frame = _frame(stream, found)
        following = None if frame is None else _frame(stream, found + frame.size)
        if frame is not None and following is not None and not (frame.header ^ following.header) & _SAME:
            return found
        found = stream.find(b"\xff", found + 1)
    return None


def _says_length(start: bytes, frame: _Frame) -> bool:
    at = 4 + frame.side
    return start[at : at + 4] in {b"Xing", b"Info"} and bool(start[at + 7] & 1)


def _count(stream: bytes | mmap, at: int, first: _Frame) -> int:
    """Whole frames like `first` from `at` on."""
    count, end = 0, len(stream)
    while 0 <= at < end:
        frame = _frame(stream, at)
        if frame is None or (frame.header ^ first.header) & _SAME:
            at = stream.find(b"\xff", at + 1)
            continue
        at += frame.size
        count += at <= end
    return count


def _counting_frame(first: _Frame, count: int) -> bytes:
    header = first.header & ~0xF200 | 1 << 16 | _MIDDLE_BITRATE << 12  # no padding, no checksum
    start = struct.pack(">I", header)
    frame = _frame(start, 0)
    assert frame is not None
    return (start + bytes(frame.side) + struct.pack(">4sII", b"Xing", 1, count)).ljust(frame.size, b"\0")
