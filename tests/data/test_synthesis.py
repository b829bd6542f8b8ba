from __future__ import annotations

import numpy as np
import pytest

from audiossl.data.audio import read_audio
from audiossl.data.synthesis import Line, Manner, Recording, Studio, Voice, _starts, make_voices


def test_voices_of_splits_are_apart_and_counted():
    rng = np.random.default_rng(0)
    found = {split: make_voices(split, 20, rng) for split in ("train", "dev", "test")}
    assert all(len({voice.name for voice in voices}) == 20 for voices in found.values())
    variants = [{voice.variant for voice in voices} for voices in found.values()]
    assert not variants[0] & variants[1] | variants[0] & variants[2] | variants[1] & variants[2]
    with pytest.raises(ValueError, match="29 voices for dev; there are 1 to 28"):
        make_voices("dev", 29, rng)


def test_lines_follow_one_another_and_no_voice_speaks_over_itself():
    one, other = make_voices("train", 2, np.random.default_rng(0))
    lines = [Line("", one), Line("", other, gap=0.5), Line("", other, gap=-0.1), Line("", one, gap=-9.0)]
    # The second voice starts half a second after the first; its next line cannot overlap it; the last interrupts at once.
    assert _starts(lines, [16000, 8000, 8000, 100]) == [0, 24000, 32000, 32000]
    assert _starts([Line("", one), Line("", other, gap=-0.9), Line("", one, gap=-0.05)], [16000, 1600, 100]) == [
        0,
        1600,
        16000,
    ]


def test_recordings_say_where_their_lines_are(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra `synth`")
    voice, other = make_voices("train", 2, np.random.default_rng(0))
    noise = Recording(tmp_path / "noise.flac", (), (0,), clip=0.5)
    clip = Recording(tmp_path / "clip.flac", (Line("yes.", voice),), (1,), clip=1.0, snr=(60.0, 60.0))
    talk = Recording(tmp_path / "talk.flac", (Line("yes.", voice), Line("no.", other, gap=0.3)), (2,), snr=(60.0, 60.0))
    low = Recording(tmp_path / "low.flac", (Line("yes.", voice, Manner(level=-8.0)),), (1,), clip=1.0, snr=(60.0, 60.0))
    with Studio(2) as studio:
        made = list(studio.record([noise, clip, talk, low], "test"))
    assert [round(one.seconds, 6) for one in made[:2]] == [0.5, 1.0]
    assert made[0].spans == made[0].phones == made[2].phones == []
    assert "".join(phone for *_, phone in made[1].phones if phone != "SIL").startswith("j")
    assert sum(length for _, length, _ in made[1].phones) == pytest.approx(1.0)
    (first, length), (second, _) = made[2].spans
    assert second == pytest.approx(first + length + 0.3, abs=1e-3)
    wave = read_audio(talk.path)
    between = wave[round((first + length) * 16000) + 160 : round(second * 16000) - 160]
    assert np.mean(between**2) < 1e-3 * np.mean(wave**2)
    plain, quiet = (np.mean(read_audio(one.path) ** 2) for one in (clip, low))
    assert 10 * np.log10(quiet / plain) == pytest.approx(-8.0, abs=0.5)


def test_noise_is_at_the_asked_ratio(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra `synth`")
    (voice,) = make_voices("train", 1, np.random.default_rng(0))
    lines = (Line("the river was old and the house was green.", voice),)
    path = tmp_path / "noisy.flac"
    with Studio(1) as studio:
        (made,) = studio.record([Recording(path, lines, (0,), clip=12.0, snr=(25.0, 25.0))], "test")
    wave = read_audio(path).astype(np.float64)
    ((start, length),) = made.spans
    first, last = round(start * 16000), round((start + length) * 16000)
    noise = np.mean(np.concatenate([wave[: first - 160], wave[last + 160 :]]) ** 2)
    assert 10 * np.log10(np.mean(wave[first:last] ** 2) / noise) == pytest.approx(25.0, abs=1.0)


def test_throats_move_formants_and_leave_the_tempo(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra `synth`")
    lines = [
        (Line("the river was old and the house was green.", Voice("x", "en+Alex", 50, 160, formants)),)
        for formants in (0.86, 1.0, 1.16)
    ]
    recordings = [Recording(tmp_path / f"{n}.flac", line, (0,), snr=(60.0, 60.0)) for n, line in enumerate(lines)]
    with Studio(1) as studio:
        seconds = [made.spans[0][1] for made in studio.record(recordings, "test")]
    centres = []
    for recording in recordings:
        power = np.abs(np.fft.rfft(read_audio(recording.path).astype(np.float64))) ** 2
        centres.append(np.average(np.arange(len(power)) / len(power), weights=power))
    assert max(seconds) / min(seconds) < 1.1
    assert centres[1] / centres[0] > 1.05
    assert centres[2] / centres[1] > 1.05
