"""Reading and writing recordings: every format, every fault."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiossl.data.audio import AudioError, audio_info, decode_audio, decoded_info, read_audio, write_audio

RATE = 16000
FORMATS = [
    ("a.wav", "WAV", "PCM_16", 1e-4),
    ("a.wav", "WAV", "FLOAT", 1e-6),
    ("a.flac", "FLAC", "PCM_16", 1e-4),
    ("a.sph", "NIST", "PCM_16", 1e-4),
    ("a.ogg", "OGG", "VORBIS", 0.05),
    ("a.opus", "OGG", "OPUS", 0.05),
    ("a.mp3", "MP3", "MPEG_LAYER_III", 0.05),
]


def tone(seconds=1.0, rate=RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(1, round(seconds * rate) + 1) / rate)).astype(np.float32)


def fails(path, words, **how):
    with pytest.raises(AudioError) as caught:
        read_audio(path, **how)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert ";" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "format_name", "subtype", "tolerance"), FORMATS)
def test_every_format_is_read_from_file_and_memory(tmp_path, name, format_name, subtype, tolerance):
    path, wave = tmp_path / name, tone()
    soundfile.write(path, wave, RATE, format=format_name, subtype=subtype)
    info = audio_info(path)
    assert (info.sample_rate, info.num_samples, info.num_channels, info.duration) == (RATE, RATE, 1, 1.0)
    assert decoded_info(path.read_bytes(), name) == info
    read = read_audio(path)
    assert read.dtype == np.float32
    assert read.shape == wave.shape
    # Lossy coders blur the edges: compare the middle.
    assert np.abs(read - wave)[1000:-1000].max() < tolerance
    assert np.array_equal(decode_audio(path.read_bytes(), name), read)
    if subtype in {"PCM_16", "FLOAT"}:
        assert np.array_equal(soundfile.read(path, dtype="float32")[0], read)


def test_sixteen_bits_come_back_unchanged(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:2] = -32768, 32767
    for name in ("a.flac", "a.wav"):
        write_audio(tmp_path / name, samples.astype(np.float32) / 32768, RATE)
        stored, rate = soundfile.read(tmp_path / name, dtype="int16")
        assert rate == RATE
        assert np.array_equal(stored, samples)
        assert np.array_equal(read_audio(tmp_path / name), samples.astype(np.float32) / 32768)
    assert {p.name for p in tmp_path.iterdir()} == {"a.flac", "a.wav"}


@pytest.mark.parametrize(
    ("wave", "name", "words"),
    [
        (np.zeros((4, 2)), "a.wav", "shape"),
        (np.zeros(0), "a.wav", "shape"),
        (np.full(4, 3.0), "a.wav", "scale"),
        (np.full(4, np.nan), "a.wav", "scale"),
        (np.zeros(4), "a.mp3", ".flac or .wav"),
    ],
)
def test_a_waveform_that_cannot_be_written(tmp_path, wave, name, words):
    with pytest.raises(AudioError, match=words):
        write_audio(tmp_path / name, wave, RATE)
    assert not list(tmp_path.iterdir())


def test_overshoot_is_clipped(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([1.5, -1.5]), RATE)
    assert read_audio(tmp_path / "a.wav").tolist() == [32767 / 32768, -1.0]


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_any_rate_becomes_the_wanted_one(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav", sample_rate=RATE)
    assert abs(len(read) - RATE) <= 1
    # The oracle is the tone itself, sampled at the wanted rate; sample k of the file is at (k + 1) / rate.
    times = np.arange(len(read)) / RATE + 1 / rate
    assert np.abs(read - 0.5 * np.sin(2 * np.pi * 440 * times))[400:-400].max() < 2e-4


def test_channels_are_averaged_or_chosen(tmp_path):
    left, right = tone(hertz=200), tone(hertz=900)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)
    assert np.array_equal(read_audio(tmp_path / "a.wav", channel=1), right)
    fails(tmp_path / "a.wav", "no channel 2 among 2", channel=2)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.sph", "PCM_16")])
def test_a_part_is_a_slice_of_the_whole(tmp_path, name, subtype):
    path = tmp_path / name
    soundfile.write(path, tone(2.0), RATE, format="NIST" if name.endswith("sph") else None, subtype=subtype)
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, start=0.5, duration=0.25), whole[8000:12000])
    assert np.array_equal(read_audio(path, start=1.5), whole[24000:])
    assert np.array_equal(read_audio(path, start=1.5, duration=0.505), whole[24000:])  # rounding is forgiven
    fails(path, "ends at 2 s", start=1.5, duration=0.6)
    fails(path, "ends at 2 s", start=2.0)
    fails(path, "correct the segment", start=-1.0)
    fails(path, "correct the segment", start=1.0, duration=0.0)
    fails(path, "no sample", start=1.0, duration=1e-6)


def test_only_the_part_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(2.0), RATE)
    asked = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames=-1, **kw: asked.append(frames) or original(self, frames, **kw)
    )
    read_audio(tmp_path / "a.wav", start=0.5, duration=0.25)
    assert asked == [4000]


@pytest.mark.parametrize(
    ("name", "format_name", "subtype"), [(n, f, s) for n, f, s, _ in FORMATS if s not in {"VORBIS", "OPUS"}]
)
def test_a_file_that_was_cut_short(tmp_path, name, format_name, subtype):
    path = tmp_path / name
    soundfile.write(path, tone(2.0), RATE, format=format_name, subtype=subtype)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, "cut short")
    with pytest.raises(AudioError, match="cut short"):
        decode_audio(path.read_bytes(), name)


def test_an_ogg_cut_in_its_first_pages(tmp_path):
    soundfile.write(tmp_path / "a.ogg", tone(), RATE, format="OGG", subtype="VORBIS")
    (tmp_path / "a.ogg").write_bytes((tmp_path / "a.ogg").read_bytes()[:2000])
    fails(tmp_path / "a.ogg", "damaged")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF7DB])
def test_a_wav_written_into_a_pipe_is_not_cut_short(tmp_path, length):
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav")) == RATE
    assert decoded_info(bytes(content), "a").num_samples == RATE


def test_files_that_are_missing_empty_or_no_audio(tmp_path):
    fails(tmp_path / "none.wav", "no such file")
    (tmp_path / "empty.wav").touch()
    fails(tmp_path / "empty.wav", "an empty file")
    (tmp_path / "a.wav").write_text("hello " * 50)
    fails(tmp_path / "a.wav", "no readable audio")
    (tmp_path / "a.raw").write_bytes(b"\0\1" * 500)
    fails(tmp_path / "a.raw", "no readable audio")
    fails(tmp_path, "no readable audio")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    fails(tmp_path / "none.wav", "no samples")
    with pytest.raises(AudioError, match="empty file"):
        decode_audio(b"", "a.wav")


def test_silence_and_nan(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(100), RATE)
    fails(tmp_path / "s.wav", "silent")
    assert not read_audio(tmp_path / "s.wav", allow_silent=True).any()
    for value in (np.nan, np.inf, -np.inf):
        wave = tone()
        wave[7] = value
        soundfile.write(tmp_path / "n.wav", wave, RATE, subtype="FLOAT")
        fails(tmp_path / "n.wav", "NaN or infinite")


def test_too_short_for_the_wanted_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), 44100)
    fails(tmp_path / "a.wav", "none at 8000 Hz", sample_rate=8000)


def piped_mp3(tmp_path, *, rate, mode, tag=b"", seconds=2.0):
    """An MP3 as a pipe leaves it, without the first frame of Xing or Info; and the samples that it was cut from."""
    soundfile.write(tmp_path / "whole.mp3", tone(seconds, rate), rate, bitrate_mode=mode)
    encoded = (tmp_path / "whole.mp3").read_bytes()
    assert b"Xing" in encoded[:60]
    frames = encoded[encoded.index(encoded[:2], 4) :]
    (tmp_path / "a.mp3").write_bytes(tag + frames)
    return tmp_path / "a.mp3", read_audio(tmp_path / "whole.mp3")


ID3 = b"ID3\3\0\0\0\0\x1f\x20" + bytes(31 * 128 + 32)
ENCODER_DELAY = 576


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("tag", [b"", ID3], ids=["plain", "tagged"])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(tmp_path, rate, mode, tag):
    path, samples = piped_mp3(tmp_path, rate=rate, mode=mode, tag=tag)
    info, read = audio_info(path), read_audio(path)
    assert info.num_samples == len(read) == decoded_info(path.read_bytes(), "a").num_samples
    assert 0 <= len(read) - len(samples) - ENCODER_DELAY < 2 * 1152
    assert np.abs(read[ENCODER_DELAY:][: len(samples)] - samples).max() < 1e-4
    assert np.array_equal(decode_audio(path.read_bytes(), "a"), read)
    part = read_audio(path, start=1.0, duration=0.5)
    assert len(part) == rate // 2
    assert np.abs(part - read[rate : rate + rate // 2]).max() < 1e-4


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_part_of_an_mp3_begins_as_the_whole_goes_on(tmp_path, rate):
    pauses = np.random.default_rng(0).integers(0, 2, 80).repeat(rate // 10)
    soundfile.write(tmp_path / "a.mp3", tone(8.0, rate) * pauses, rate)
    whole = read_audio(tmp_path / "a.mp3")
    for start in (0.1, 0.7, 1.0, 3.3, 5.55, 6.1):
        part = read_audio(tmp_path / "a.mp3", start=start, duration=1.0, allow_silent=True)
        assert np.abs(part - whole[round(start * rate) :][:rate]).max() < 1e-4


def test_an_mp3_that_says_its_length_behind_a_tag_is_still_cut_short(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(2.0), RATE)
    encoded = ID3 + path.read_bytes()
    path.write_bytes(encoded)
    assert audio_info(path).num_samples == 2 * RATE
    path.write_bytes(encoded[: len(encoded) * 2 // 3])
    fails(path, "cut short")


def test_what_follows_the_frames_of_an_mp3_is_no_sound(tmp_path):
    path, _ = piped_mp3(tmp_path, rate=RATE, mode="CONSTANT")
    samples = audio_info(path).num_samples
    path.write_bytes(path.read_bytes() + b"TAG" + b"abc".ljust(125, b"\0"))
    assert audio_info(path).num_samples == len(read_audio(path)) == samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert RATE / 2 < len(read_audio(path)) < RATE * 1.5


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_in_the_range_of_integers_are_refused(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone() * 30000, RATE, subtype=subtype)
    with pytest.raises(AudioError, match=r"a\.wav: peak \d+(\.\d+)?: is not in \[-1, 1\]; scale the waveform"):
        read_audio(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", tone() * 2, RATE, subtype=subtype)  # a little too loud
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav"), tone() * 2, rtol=1e-6)
