from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from audiossl.config import build, to_table
from audiossl.data.audio import write_audio
from audiossl.data.augment import (
    AugmentConfig,
    Augmenter,
    add_gaussian,
    add_noise,
    change_gain,
    change_pitch,
    change_speed,
    reverberate,
)
from audiossl.data.manifest import Manifest

RATE = 16_000


def noise(length, seed=0):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32) * np.float32(0.1)


def data_dir(path, waveforms):
    path.mkdir()
    for name, waveform in waveforms.items():
        write_audio(path / f"{name}.flac", waveform, RATE)
    (path / "wav.scp").write_text("".join(f"{name} {path / name}.flac\n" for name in sorted(waveforms)))
    return path


def db(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 17.3])
def test_noise_is_added_at_exactly_the_snr(snr):
    speech, other = noise(16_000), noise(16_000, 1) * 7
    noisy = add_noise(speech, other, snr)
    assert noisy.dtype == np.float32
    added = noisy.astype(np.float64) - speech
    assert db(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-3)
    assert np.corrcoef(added, other)[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_silence_and_unequal_lengths_have_no_snr():
    with pytest.raises(ValueError, match="noise is silent"):
        add_noise(noise(10), np.zeros(10, np.float32), 0.0)
    with pytest.raises(ValueError, match="speech is silent"):
        add_noise(np.zeros(10, np.float32), noise(10), 0.0)
    with pytest.raises(ValueError, match="cut the noise"):
        add_noise(noise(10), noise(11), 0.0)


def test_reverberation_is_a_convolution_from_the_direct_path_on_with_the_energy_of_the_speech():
    speech, response = noise(5000), noise(700, 2)
    response[40] = -2.0
    wet = reverberate(speech, response)
    expected = np.convolve(speech.astype(np.float64), response.astype(np.float64))[40:5040]
    expected *= np.sqrt(np.sum(speech.astype(np.float64) ** 2) / np.sum(expected**2))
    assert wet.dtype == np.float32
    assert wet.shape == speech.shape
    np.testing.assert_allclose(wet, expected, atol=1e-6)


@pytest.mark.parametrize(("length", "taps"), [(150_000, 700), (300_000, 21_000), (100, 9000), (32_768, 1), (65_536, 2)])
def test_reverberation_in_blocks_is_a_sum_of_shifted_copies(length, taps):
    speech, response = noise(length), np.zeros(taps, np.float32)
    response[[taps - 1, taps // 3, 0]] = -1.0, 0.5, 2.0  # the peak is first, also of one or two taps
    expected = np.zeros(length)
    for tap in np.flatnonzero(response):
        expected[tap:] += response[tap] * speech[: max(length - tap, 0)].astype(np.float64)
    expected *= np.sqrt(np.sum(speech.astype(np.float64) ** 2) / np.sum(expected**2))
    np.testing.assert_allclose(reverberate(speech, response), expected, atol=1e-6)


def test_an_echo_free_room_changes_nothing():
    response = np.zeros(300, np.float32)
    response[123] = 0.01
    np.testing.assert_allclose(reverberate(noise(4000), response), noise(4000), atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_scales_length_and_pitch(factor):
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    fast = change_speed(tone, factor)
    assert len(fast) == pytest.approx(RATE / factor, abs=2)
    middle = np.arange(1000, len(fast) - 1000)
    np.testing.assert_allclose(fast[middle], np.sin(2 * np.pi * 500 * factor * middle / RATE), atol=1e-3)
    assert change_speed(tone, 1.0) is tone


def test_gain_is_in_db():
    np.testing.assert_allclose(change_gain(noise(10), 20.0), 10 * noise(10), rtol=1e-6)


def test_augmenter_is_a_function_of_the_generator(tmp_path):
    noises = data_dir(tmp_path / "noise", {"a": noise(8000, 3), "b": noise(90_000, 4)})
    config = AugmentConfig(
        noise_probability=0.8,
        noise_dirs=(noises,),
        noise_counts=((1, 3),),
        reverb_probability=0.5,
        speed_probability=0.5,
        gain_probability=0.5,
        num_rooms=3,
    )
    augmenter, speech = Augmenter(config), noise(20_000)
    copy = pickle.loads(pickle.dumps(augmenter))
    results = []
    for seed in range(8):
        result = augmenter(speech, np.random.default_rng(seed), RATE)
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(copy(speech, np.random.default_rng(seed), RATE), result)
        results.append(result.tobytes())
    assert len(set(results)) > 5
    np.testing.assert_array_equal(speech, noise(20_000))  # the argument is left as it was


def test_the_snr_of_the_drawn_noise_is_within_its_directory_s_range(tmp_path):
    dirs = (data_dir(tmp_path / "n", {"a": noise(8000, 3)}), data_dir(tmp_path / "m", {"b": noise(90_000, 4)}))
    ranges = ((0.0, 3.0), (20.0, 23.0))
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0, noise_dirs=dirs, noise_snr=ranges))
    speech, found = noise(20_000), []
    for seed in range(40):
        added = augmenter(speech, np.random.default_rng(seed), RATE).astype(np.float64) - speech
        found.append(db(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2)))
    low, high = [x for x in found if x < 10], [x for x in found if x > 10]
    assert min(len(low), len(high)) > 8
    assert -0.01 < min(low) < max(low) < 3.01
    assert 19.99 < min(high) < max(high) < 23.01


@pytest.mark.parametrize("level", ["each", "sum"])
def test_babble_is_of_different_talkers_each_at_an_snr_of_its_own_or_all_at_one(tmp_path, level):
    talkers = [noise(4000, seed) * np.float32(0.6**seed) for seed in range(5)]
    folder = data_dir(tmp_path / "n", {str(number): talker for number, talker in enumerate(talkers)})
    babble = {"noise_dirs": (folder,), "noise_counts": ((5, 5),), "noise_snr": ((13.0, 20.0),), "noise_level": level}
    noisy, speech = Augmenter(AugmentConfig(noise_probability=1.0, **babble)), noise(4000, 9)
    alone, together = [], []
    for seed in range(20):
        added = noisy(speech, np.random.default_rng(seed), RATE).astype(np.float64) - speech
        together.append(db(np.square(speech).sum() / np.square(added).sum()))
        for talker in talkers:  # each goes round from another place; white ones are nearly orthogonal
            found = np.fft.irfft(np.fft.rfft(added) * np.fft.rfft(talker).conj()).max()
            alone.append(db(np.square(speech).sum() * np.square(talker).sum() / found**2))
    if level == "sum":
        assert 13 <= min(together) + 0.01 < max(together) <= 20.01
    else:
        assert 12 < min(alone) < 14.5
        assert 18.5 < max(alone) < 21.5
        assert np.mean(alone) == pytest.approx(16.5, abs=0.5)
        assert np.mean(together) == pytest.approx(16.5 - 7.3, abs=0.5)


def test_of_a_long_noise_only_a_piece_is_decoded_from_anywhere(tmp_path, monkeypatch):
    ramp = np.linspace(0.1, 0.9, 80_000).astype(np.float32)
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0, noise_dirs=(data_dir(tmp_path / "n", {"a": ramp}),)))
    decoded, whole = [], Manifest.audio

    def audio(*arguments, **how):
        piece = whole(*arguments, **how)
        decoded.append(len(piece))
        return piece

    monkeypatch.setattr(Manifest, "audio", audio)
    speech, places = noise(1000), []
    for seed in range(200):
        added = augmenter(speech, np.random.default_rng(seed), RATE).astype(np.float64) - speech
        slope, level = np.polyfit(np.arange(1000), added, 1)
        places.append(level / slope - 0.1 / 0.8 * 80_000)  # where the line of this slope was 0.1
        np.testing.assert_allclose(added, level + slope * np.arange(1000), atol=1e-3 * added.max())
    assert max(decoded) <= 1001
    shares = np.histogram(places, bins=4, range=(-50, 79_050))[0] / 200
    assert shares.sum() == 1
    assert np.abs(shares - 0.25).max() < 0.15


def test_a_short_noise_goes_round(tmp_path):
    ramp = np.linspace(0.1, 0.9, 400).astype(np.float32)
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0, noise_dirs=(data_dir(tmp_path / "n", {"a": ramp}),)))
    added = augmenter(noise(1000), np.random.default_rng(0), RATE) - noise(1000)
    np.testing.assert_allclose(added[400:], added[:-400], atol=1e-6)
    np.testing.assert_allclose(np.sort(added[:400]) / added.max(), ramp / ramp.max(), atol=1e-3)


def test_a_pause_in_the_noise_is_not_used(tmp_path):
    mostly_silent = np.zeros(200_000, np.float32)
    mostly_silent[100_000:100_050] = 0.5
    dirs = (data_dir(tmp_path / "n", {"a": mostly_silent}),)
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0, noise_dirs=dirs))
    for seed in range(10):
        assert not np.array_equal(augmenter(noise(1000), np.random.default_rng(seed), RATE), noise(1000))


def test_impulse_responses_come_from_their_directory(tmp_path):
    response = np.zeros(400, np.float32)
    response[[100, 350]] = 0.5, 0.25
    config = AugmentConfig(reverb_probability=1.0, reverb_dir=data_dir(tmp_path / "rir", {"r": response}))
    wet = Augmenter(config)(noise(4000), np.random.default_rng(0), RATE)
    np.testing.assert_allclose(wet, reverberate(noise(4000), response), atol=1e-6)


@pytest.fixture(params=["silent", "gone"])
def damaged(tmp_path, request):
    """A directory of noises of which every other one cannot be used."""
    folder = data_dir(tmp_path / "n", {name: noise(3000, seed) for seed, name in enumerate("abcd")})
    for name in "bd":
        write_audio(folder / f"{name}.flac", np.zeros(3000), RATE)
    Manifest.open(folder).durations  # noqa: B018 - measured once, before a file goes
    if request.param == "gone":
        for name in "bd":
            (folder / f"{name}.flac").unlink()
    return folder


@pytest.mark.parametrize("step", ["noise", "reverb"])
def test_a_recording_that_cannot_be_used_is_named_once_and_another_is_drawn(damaged, caplog, step):
    place = {"noise": {"noise_dirs": (damaged,), "noise_counts": ((1, 2),)}, "reverb": {"reverb_dir": damaged}}[step]
    config, speech = AugmentConfig(**{f"{step}_probability": 1.0}, **place), noise(4000)
    augmenter = Augmenter(config)
    results = [augmenter(speech, np.random.default_rng(seed), RATE) for seed in range(20)]
    assert not any(np.array_equal(result, speech) for result in results)
    assert sorted(message.split(" is not augmented")[0] for message in caplog.messages) == [
        f"{damaged}: b",
        f"{damaged}: d",
    ]
    for seed in (19, 3):  # whatever was drawn before
        np.testing.assert_array_equal(Augmenter(config)(speech, np.random.default_rng(seed), RATE), results[seed])


def test_a_directory_without_a_usable_noise_is_an_error(tmp_path):
    folder = data_dir(tmp_path / "n", {"a": np.zeros(3000)})
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0, noise_dirs=(folder,)))
    with pytest.raises(ValueError, match=f"^{folder}: none of 10 recordings .* can be used; run `audiossl data fix"):
        augmenter(noise(100), np.random.default_rng(0), RATE)


@pytest.mark.parametrize("relative", [0.001, 0.3, 0.7])
def test_gaussian_noise_is_a_multiple_of_the_waveforms_deviation(relative):
    speech = 0.02 * np.sin(np.arange(40_000) / 9).astype(np.float32) + np.float32(0.5)  # an offset is no deviation
    noisy = add_gaussian(speech, relative, np.random.default_rng(0))
    added = noisy.astype(np.float64) - speech
    assert noisy.dtype == np.float32
    assert added.std() / speech.std() == pytest.approx(relative, rel=0.02)
    assert abs(added.mean()) < 0.02 * added.std()
    assert abs(np.corrcoef(added[1:], added[:-1])[0, 1]) < 0.02
    np.testing.assert_array_equal(add_gaussian(np.zeros(9, np.float32), 0.7, np.random.default_rng(0)), np.zeros(9))


def test_gaussian_step_draws_its_deviation_uniformly():
    augmenter, speech = Augmenter(AugmentConfig(gaussian_probability=0.6)), noise(2000)
    added = [augmenter(speech, np.random.default_rng(seed), RATE).astype(np.float64) - speech for seed in range(500)]
    shares = [one.std() / speech.std() for one in added if one.any()]
    assert len(shares) / 500 == pytest.approx(0.6, abs=0.06)
    assert np.histogram(shares, bins=4, range=(0, 0.7))[0] / len(shares) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("semitones", [-3.0, 1.5, 3.0])
def test_pitch_changes_and_time_does_not(semitones):
    speech = np.zeros(32_000, np.float32)
    speech[12_000:20_000] = np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)
    higher = change_pitch(speech, semitones, RATE)
    assert (higher.dtype, higher.shape) == (np.float32, speech.shape)
    heard = np.abs(np.fft.rfft(higher[13_000:19_000] * np.hanning(6000), 64_000))
    assert np.argmax(heard) / 4 == pytest.approx(440 * 2 ** (semitones / 12), abs=1.5)
    for quantile in (0.01, 0.5, 0.99):  # within a frame
        when = [
            np.searchsorted(np.cumsum(x.astype(np.float64) ** 2), quantile * np.sum(x**2)) for x in (speech, higher)
        ]
        assert when[0] == pytest.approx(when[1], abs=320)


@pytest.mark.parametrize("samples", [1, 100, 1023])
def test_pitch_of_pieces_shorter_than_a_window(samples):
    piece = change_pitch(noise(samples), 2.0, RATE)
    assert piece.shape == (samples,)
    assert np.isfinite(piece).all()


def test_pitch_step_and_its_order():
    config = AugmentConfig(pitch_probability=1.0, pitch_semitones=(2.0, 2.0), gain_probability=1.0, gain_db=(6.0, 6.0))
    expected = change_pitch(change_gain(noise(4000), 6.0), 2.0, RATE)
    np.testing.assert_array_equal(Augmenter(config)(noise(4000), np.random.default_rng(0), RATE), expected)


def test_steps_that_are_off_change_no_draw_of_the_others():
    """An experiment of before these steps has them not in its order, and goes on as it began."""
    options = {"gain_probability": 0.5, "reverb_probability": 0.5, "num_rooms": 3}
    before = Augmenter(AugmentConfig(**options, order=("speed", "reverb", "noise", "gain")))
    for seed in range(8):
        one, other = (
            a(noise(900), np.random.default_rng(seed), RATE) for a in (before, Augmenter(AugmentConfig(**options)))
        )
        np.testing.assert_array_equal(one, other)


def test_steps_follow_the_order():
    config = AugmentConfig(
        gain_probability=1.0, gain_db=(6.0, 6.0), speed_probability=1.0, speed_factors=(2.0,), order=("gain", "speed")
    )
    expected = change_speed(change_gain(noise(4000), 6.0), 2.0)
    np.testing.assert_array_equal(Augmenter(config)(noise(4000), np.random.default_rng(0), RATE), expected)


def test_probability_is_kept():
    augmenter = Augmenter(AugmentConfig(gain_probability=0.3, gain_db=(6.0, 6.0)))
    speech = noise(10)
    changed = [not np.array_equal(augmenter(speech, np.random.default_rng(seed), RATE), speech) for seed in range(2000)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.04)


def test_at_most_one_of_some_steps_is_taken():
    """30 % each: 40 % are left as they are, and no waveform has both gains."""
    shared = {"gain_probability": 0.3, "gain_db": (6.0, 6.0), "speed_probability": 0.3, "speed_factors": (2.0,)}
    augmenter = Augmenter(AugmentConfig(**shared, one_of=("gain", "speed")))
    speech, found = noise(100), []
    for seed in range(2000):
        changed = augmenter(speech, np.random.default_rng(seed), RATE)
        faster = len(changed) < len(speech)
        found.append((faster, np.abs(changed).sum() > 1.5 * np.abs(speech).sum() * (0.5 if faster else 1.0)))
    shares = [np.mean([pair == wanted for pair in found]) for wanted in ((True, False), (False, True), (True, True))]
    assert shares == pytest.approx([0.3, 0.3, 0.0], abs=0.04)


def test_time_is_kept_unless_speed_changes():
    assert AugmentConfig(noise_probability=0.0, reverb_probability=0.5).keeps_time
    assert AugmentConfig(gaussian_probability=0.5, pitch_probability=0.5).keeps_time
    assert not AugmentConfig(speed_probability=0.1).keeps_time
    assert AugmentConfig(speed_probability=0.1, speed_factors=(1.0,)).keeps_time
    assert AugmentConfig(speed_probability=0.1, speed_factors=(0.8, 1.0)).longest_stretch == 1.25
    assert AugmentConfig(speed_probability=0.0, speed_factors=(0.8,)).longest_stretch == 1.0


def test_toml_round_trip():
    config = AugmentConfig(noise_probability=0.5, noise_dirs=(Path("musan/noise"),), noise_snr=((0.0, 5.0),))
    assert build(AugmentConfig, to_table(config), "augment") == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain_probability": 1.5}, "gain_probability is 1.5"),
        ({"noise_probability": 0.5}, "noise_dirs is empty"),
        ({"noise_dirs": (Path("a"), Path("b"), Path("c")), "noise_snr": ((0, 1), (0, 1))}, "2 ranges for 3"),
        ({"gain_db": (3.0, 1.0)}, r"range \(3.0, 1.0\) is empty"),
        ({"speed_factors": (0.0,)}, "speed_factors"),
        ({"gaussian_std": (-0.1, 0.7)}, "gaussian_std"),
        ({"pitch_semitones": (3.0, -3.0)}, r"range \(3.0, -3.0\) is empty"),
        ({"order": ("gain", "gain")}, "once at the most"),
        ({"order": ("echo",)}, "once at the most"),
        ({"gain_probability": 0.1, "order": ("noise",)}, "lacks 'gain'"),
        ({"one_of": ("echo",)}, "one_of is"),
        (
            {"one_of": ("gain", "pitch"), "gain_probability": 0.6, "pitch_probability": 0.6},
            "add up to 1 at the most, not to 1.2",
        ),
        ({"rt60": (0.0, 0.1)}, "above 0"),
        ({"noise_counts": ((0, 1),)}, "above 0"),
        ({"noise_level": "all"}, "noise_level: 'all' is neither"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)
