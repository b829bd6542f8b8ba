"""WAVs that are read without libsndfile hold what libsndfile reads; those that are not plain are left to it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from audiossl.data.audio import audio_info, decode_audio, read_audio
from audiossl.data.wav import plain_wav

RATE = 8000


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def layout(kind=1, channels=1, bits=16, rate=RATE):
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits))


def wave(*chunks):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def samples(count, channels=1):
    return np.random.default_rng(0).integers(-32768, 32768, (count, channels)).astype("<i2")


def understood(encoded):
    return plain_wav(lambda begin, count: encoded[begin : begin + count], len(encoded))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("before", "after"), [((), ()), ((chunk(b"LIST", b"odd"), chunk(b"fact", b"1234")), (chunk(b"LIST", b"after"),))]
)
def test_plain_ones_are_read_as_by_libsndfile(tmp_path, channels, before, after):
    path = tmp_path / "a.wav"
    path.write_bytes(wave(*before, layout(channels=channels), chunk(b"data", samples(501, channels).tobytes()), *after))
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    for read in (read_audio(path, channel=channels - 1), decode_audio(path.read_bytes(), "a", channel=channels - 1)):
        np.testing.assert_array_equal(read, expected[:, channels - 1])
    part = read_audio(path, start=100 / RATE, duration=50 / RATE, channel=0)
    np.testing.assert_array_equal(part, expected[100:150, 0])
    assert understood(path.read_bytes()).frames == audio_info(path).num_samples == 501


def test_libsndfile_is_not_asked_for_a_plain_one(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, samples(100), RATE, subtype="PCM_16")
    monkeypatch.setattr(soundfile, "SoundFile", None)
    assert len(read_audio(path)) == 100


DATA = chunk(b"data", samples(100).tobytes())


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"RIFF",
        wave(layout(bits=24), DATA),
        wave(layout(kind=3), DATA),
        wave(layout(kind=0xFFFE), DATA),
        wave(layout(channels=0), DATA),
        wave(layout(rate=0), DATA),
        wave(layout(channels=3), DATA),  # 200 bytes are no whole number of blocks of 6
        wave(DATA, layout()),
        wave(chunk(b"fmt ", b"short"), DATA),
        wave(layout(), chunk(b"data", b"")),
        wave(layout()),
        wave(layout(), chunk(b"LIST", bytes(5000)), DATA),
        wave(layout(), DATA)[:-1],
        wave(layout(), DATA).replace(b"RIFF", b"RF64"),
        wave(layout(), DATA[:4] + struct.pack("<I", 0xFFFFFFFF) + DATA[8:]),
        wave(layout(), DATA)[:4] + struct.pack("<I", 1000) + wave(layout(), DATA)[8:],
    ],
    ids=[
        "empty",
        "head",
        "24-bit",
        "float",
        "extensible",
        "silent-layout",
        "no-rate",
        "blocks",
        "swapped",
        "short-layout",
        "no-samples",
        "no-data",
        "far",
        "cut",
        "rf64",
        "endless",
        "promised",
    ],
)
def test_others_are_left_to_libsndfile(encoded):
    assert understood(wave(layout(), DATA)) is not None
    assert understood(encoded) is None
