"""Read, measure and write recordings through libsndfile (formats) and soxr (sample rates).

Whatever comes in - WAV, FLAC, Ogg Vorbis or Opus, MP3, NIST SPHERE; any rate; any number of channels - comes out as mono
float32 at the wanted rate. A recording that cannot be used is an `AudioError`: one line with the file, what is wrong and a
cure. libsndfile silently shortens a WAV whose data end early; here the header's promise is held against what is there. An
Ogg stream, or an MP3 that was written into a pipe, does not say how long it should be, so one that was cut at a page or
frame boundary passes.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.mp3 import with_length
from audiossl.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".sph", ".nist", ".aiff", ".aif", ".au", ".w64"}
)
"""File name suffixes of recordings, lower case, for those who search a folder."""

OVERSHOOT = 0.01
"""Seconds by which a segment may pass the end of its recording: times are often rounded to hundredths."""

# Frames of an MP3 borrow bits of those before, and a decoder that sought gives silence or noise until it has some.
_RUN_UP = 1 << 15  # samples
_STREAMED = 0x7FFF0000  # programs that write a WAV into a pipe put a length from here up in its header
_UNKNOWN_LENGTH = 1 << 40  # libsndfile's answer for a FLAC stream without a length is near 2**63
_PROMISED = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_FLOATS = frozenset({"FLOAT", "DOUBLE"})
_NIST_COUNT = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)


_LOUDEST = 2.0
"""The largest sample that passes: resamplers and mixers overshoot 1 a little, samples in the range of integers pass it by far."""


class AudioError(ValueError):
    """One recording cannot be used; the message is one line: file, what is wrong, cure."""


class PartError(AudioError):
    """The recording may be sound, but the part or channel that is asked for is not in it: a segment is wrong."""


@dataclass(frozen=True)
class AudioInfo:
    """What a recording's header says: rate in Hz, samples per channel, channels, seconds."""

    sample_rate: int
    num_samples: int
    num_channels: int
    duration: float


def audio_info(path: Path | str) -> AudioInfo:
    """Length and layout of a recording, from its header; AudioError if it is missing, no audio, cut short or empty."""
    with _opened(path) as sound:
        return _info(sound, str(path))


def read_audio(
    path: Path | str,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    channel: int | None = None,
    allow_silent: bool = False,
) -> np.ndarray:
    """Read a recording, or only the part of it that is asked for.

    start, duration: seconds; None means up to the end. sample_rate: Hz, None keeps the file's. channel: counted from 0,
    None takes the mean of all. Returns (sample,) float32. AudioError if it cannot be used; a part that is all zeros is
    one, unless `allow_silent`.
    """
    with _opened(path) as sound:
        return _read(sound, str(path), start, duration, sample_rate, channel, allow_silent=allow_silent)


def decode_audio(
    encoded: bytes,
    name: str,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    channel: int | None = None,
    allow_silent: bool = False,
) -> np.ndarray:
    """Like `read_audio`, for a recording that is in memory (a member of an archive, a program's output) and called `name`."""
    with _decoding(encoded, name) as sound:
        return _read(sound, name, start, duration, sample_rate, channel, allow_silent=allow_silent)


def decoded_info(encoded: bytes, name: str) -> AudioInfo:
    """Like `audio_info`, for a recording that is in memory."""
    with _decoding(encoded, name) as sound:
        return _info(sound, name)


def write_audio(path: Path | str, waveform: np.ndarray, sample_rate: int) -> None:
    """Write (sample,) floats in [-1, 1] as 16-bit FLAC or WAV, by suffix, atomically.

    Sample x becomes round(32768 x), so that what was read from 16 bits is written back unchanged. A little beyond 1, as a
    resampler overshoots, is clipped; AudioError beyond 2, for NaN and for no samples at all.
    """
    import soundfile

    path = Path(path)
    kinds = {".flac": "FLAC", ".wav": "WAV"}
    if path.suffix.lower() not in kinds:
        raise AudioError(f"{path}: cannot write {path.suffix or 'a name without suffix'}; call it .flac or .wav")
    if waveform.ndim != 1 or len(waveform) == 0:
        raise AudioError(f"{path}: a waveform of shape {waveform.shape}; give (sample,) with at least one sample")
    peak = float(np.abs(waveform).max())
    if not peak <= _LOUDEST:  # not, so that NaN is caught too
        raise AudioError(f"{path}: samples up to {peak:g}; scale the waveform to [-1, 1]")
    samples = np.clip(np.rint(np.asarray(waveform, np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    # Encoded in memory, because libsndfile does not say why it cannot write a file.
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format=kinds[path.suffix.lower()], subtype="PCM_16")
    with whole_file(path) as partial:
        partial.write_bytes(encoded.getbuffer())


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    import soundfile

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; correct the path in wav.scp or restore the recording") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror}); correct its permissions or the path") from None
    try:
        # By descriptor, because by name libsndfile takes `.raw` for headerless audio and hides why a file does not open.
        with soundfile.SoundFile(descriptor, closefd=False) as sound:
            if sound.format == "NIST":
                _check_nist(os.pread(descriptor, 1024, 0), sound, str(path))
            if sound.format == "MP3":
                with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as stream, _measured(sound, stream) as measured:
                    yield measured
            else:
                yield sound
    except soundfile.LibsndfileError as error:
        raise _undecodable(str(path), os.fstat(descriptor).st_size, error) from error
    finally:
        os.close(descriptor)


@contextmanager
def _decoding(encoded: bytes, name: str) -> Iterator[Any]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as sound:
            if sound.format == "NIST":
                _check_nist(encoded[:1024], sound, name)
            with _measured(sound, encoded) as measured:
                yield measured
    except soundfile.LibsndfileError as error:
        raise _undecodable(name, len(encoded), error) from error


@contextmanager
def _measured(sound: Any, encoded: bytes | mmap.mmap) -> Iterator[Any]:
    """The same recording, but with its true length where libsndfile guesses that of an MP3."""
    import soundfile

    stream = with_length(encoded) if sound.format == "MP3" else None
    if stream is None:
        yield sound
        return
    with soundfile.SoundFile(io.BytesIO(stream)) as measured:
        yield measured


def _undecodable(name: str, size: int, error: Exception) -> AudioError:
    if size == 0:
        return AudioError(f"{name}: an empty file; restore the recording or leave it out")
    reason = str(getattr(error, "error_string", error)).strip().removeprefix("Error : ").rstrip(".")
    return AudioError(f"{name}: no readable audio, cut short or damaged ({reason}); restore it or leave it out")


def _info(sound: Any, name: str) -> AudioInfo:
    frames, rate = int(sound.frames), int(sound.samplerate)
    promised = _PROMISED.search(sound.extra_info)
    if promised and int(promised[1]) < _STREAMED:
        raise _cut_short(name, f"{promised[2]} of {promised[1]} bytes are there")
    if frames > _UNKNOWN_LENGTH:
        raise AudioError(f"{name}: its header does not say how long it is; encode it again from a file, not a pipe")
    if frames == 0:
        raise AudioError(f"{name}: holds no samples; restore the recording or leave it out")
    return AudioInfo(rate, frames, int(sound.channels), frames / rate)


def _check_nist(header: bytes, sound: Any, name: str) -> None:
    promised = _NIST_COUNT.search(header)
    if promised and int(promised[1]) > sound.frames:
        raise _cut_short(name, f"{sound.frames} of {int(promised[1])} samples are there")


def _cut_short(name: str, how: str) -> AudioError:
    return AudioError(f"{name}: cut short: {how}; restore the recording or leave it out")


def _read(
    sound: Any,
    name: str,
    start: float,
    duration: float | None,
    sample_rate: int | None,
    channel: int | None,
    *,
    allow_silent: bool,
) -> np.ndarray:
    info = _info(sound, name)
    first, count = _part(info, name, start, duration)
    begin = max(0, first - _RUN_UP) if sound.format == "MP3" else first
    if begin:
        sound.seek(begin)
    samples = _decode(sound, first - begin + count)[first - begin :]
    if len(samples) < count:
        raise _cut_short(name, f"{first + len(samples)} of {info.num_samples} samples can be decoded")
    waveform = _mono(samples, name, channel)
    low, high = float(waveform.min()), float(waveform.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AudioError(f"{name}: holds NaN or infinite samples; restore the recording or leave it out")
    if sound.subtype in _FLOATS and max(-low, high) > _LOUDEST:
        raise AudioError(f"{name}: peak {max(-low, high):g}: is not in [-1, 1]; scale the waveform")
    if low == high == 0.0 and not allow_silent:
        raise AudioError(f"{name}: silent: all {count} samples are zero; restore the recording or leave it out")
    if sample_rate is None or sample_rate == info.sample_rate:
        return waveform
    resampled = _resample(waveform, info.sample_rate, sample_rate)
    if len(resampled) == 0:
        raise AudioError(f"{name}: {count} samples at {info.sample_rate} Hz are none at {sample_rate} Hz; leave it out")
    return resampled


def _decode(sound: Any, count: int) -> np.ndarray:
    """(sample, channel) float32, fewer samples than `count` where the recording ends early."""
    # Of what it may seek in, soundfile seeks to where the read ended anyway: in FLAC that decodes a frame again.
    sound.seekable = lambda: False
    if sound.subtype != "PCM_16":
        samples: np.ndarray = sound.read(count, dtype="float32", always_2d=True)
        return samples
    # The same numbers as libsndfile's floats, for a WAV in half the time.
    return np.asarray(sound.read(count, dtype="int16", always_2d=True) * np.float32(2**-15))


def _part(info: AudioInfo, name: str, start: float, duration: float | None) -> tuple[int, int]:
    """First sample and number of samples of the part from `start`, `duration` seconds long."""
    rate, total = info.sample_rate, info.num_samples
    if start < 0.0 or (duration is not None and not duration > 0.0):
        raise PartError(f"{name}: no part of {duration} s can start at {start} s; correct the segment")
    first = round(start * rate)
    last = total if duration is None else round((start + duration) * rate)
    if first >= total or last > total + OVERSHOOT * rate:
        asked = "the end" if duration is None else f"{start + duration:g} s"
        raise PartError(
            f"{name}: {start:g} s to {asked} is asked for, but it ends at {info.duration:g} s; correct the segment "
            "or utt2dur, or restore the recording"
        )
    last = min(last, total)
    if last <= first:
        raise PartError(f"{name}: the part from {start:g} s, {duration} s long, holds no sample; correct the segment")
    return first, last - first


def _mono(samples: np.ndarray, name: str, channel: int | None) -> np.ndarray:
    num_channels = samples.shape[1]
    if channel is not None:
        if not 0 <= channel < num_channels:
            raise PartError(f"{name}: no channel {channel} among {num_channels}, counted from 0; correct the channel")
        return np.ascontiguousarray(samples[:, channel])
    return samples[:, 0] if num_channels == 1 else samples.mean(axis=1)


def _resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    resampled: np.ndarray = soxr.resample(waveform, rate, wanted, quality="HQ")
    return resampled
