"""Mixing of a batch: where pieces lie, how loud they are, and that nothing else changes."""

import numpy as np
import pytest

from audiossl.data.audio import write_audio
from audiossl.data.augment import Noises
from audiossl.data.mixing import NoiseMix, add_pieces, draw_clips, draw_noises, draw_overlaps

LENGTHS = np.array([1000, 700, 400, 900])
ANY_SEED = range(300)


def batch(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    waveform = rng.standard_normal((len(lengths), lengths.max())).astype(np.float32)
    waveform *= 10.0 ** -np.arange(len(lengths))[:, None].astype(np.float32)  # 20 dB from one to the next
    waveform[np.arange(lengths.max()) >= lengths[:, None]] = 0
    return waveform


def overlaps(seed, probability=1.0, ratio_db=(-5.0, 5.0), waveform=None, **options):
    waveform = batch() if waveform is None else waveform
    rng = np.random.default_rng(seed)
    return draw_overlaps(waveform, LENGTHS, probability=probability, ratio_db=ratio_db, rng=rng, **options)


def clips(seed, probability=1.0, count=(1, 3), samples=(50, 100), lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return draw_clips(lengths, probability=probability, count=count, samples=samples, rng=rng)


@pytest.mark.parametrize("draw", [overlaps, clips])
def test_pieces_lie_inside_two_different_utterances(draw):
    for seed in ANY_SEED:
        pieces = draw(seed)
        assert (pieces.target != pieces.source).all()
        for row, start in ((pieces.target, pieces.target_start), (pieces.source, pieces.source_start)):
            assert (start >= 0).all()
            assert (start + pieces.length <= LENGTHS[row]).all()


def test_an_overlap_is_at_most_half_of_the_utterance():
    found = [overlaps(seed) for seed in ANY_SEED]
    assert all((p.length <= LENGTHS[p.target] // 2).all() for p in found)
    share = np.concatenate([p.length / LENGTHS[p.target] for p in found if len(p.length)])
    assert share.max() > 0.49
    assert share.mean() == pytest.approx(0.25, abs=0.02)
    assert all((overlaps(seed, max_share=0.1).length <= 100).all() for seed in ANY_SEED)


def test_share_of_rows_that_are_mixed_and_their_partners():
    found = [overlaps(seed, probability=0.2) for seed in range(2000)]
    assert sum(len(p.target) for p in found) / (4 * 2000) == pytest.approx(0.2, abs=0.02)
    pairs = np.zeros((4, 4))
    for pieces in (overlaps(seed) for seed in range(2000)):
        np.add.at(pairs, (pieces.target, pieces.source), 1)
    assert (pairs.diagonal() == 0).all()
    assert pairs[~np.eye(4, dtype=bool)] / 2000 == pytest.approx(1 / 3, abs=0.05)
    assert all((np.diff(p.target) > 0).all() for p in found)  # each row once


@pytest.mark.parametrize("decibel", [-5.0, 0.0, 5.0])
def test_energy_ratio_is_that_of_whole_utterances(decibel):
    waveform = batch()
    power = [float(np.square(row[:n], dtype=np.float64).mean()) for row, n in zip(waveform, LENGTHS, strict=True)]
    pieces = overlaps(3, ratio_db=(decibel, decibel))
    assert len(pieces.target) == 4
    for target, source, gain in zip(pieces.target, pieces.source, pieces.gain, strict=True):
        assert 10 * np.log10(power[target] / (power[source] * gain**2)) == pytest.approx(decibel, abs=1e-6)


def test_ratios_fill_the_published_range():
    waveform = batch() / 10.0 ** -np.arange(4)[:, None].astype(np.float32)
    gains = np.concatenate([overlaps(seed, waveform=waveform).gain for seed in ANY_SEED])
    decibels = -20 * np.log10(gains)  # the rows differ by less than 1 dB
    assert -6 < decibels.min() < -4
    assert 4 < decibels.max() < 6


def test_a_silent_partner_adds_nothing():
    waveform = batch()
    waveform[1:] = 0
    pieces = overlaps(0, waveform=waveform)
    assert np.isfinite(pieces.gain).all()
    assert np.isfinite(add_pieces(waveform, LENGTHS, pieces)).all()


@pytest.mark.parametrize("draw", [overlaps, clips])
def test_sum_is_that_of_single_samples(draw):
    waveform = batch()
    before = waveform.copy()
    for seed in range(20):
        pieces = draw(seed)
        expected = waveform.astype(np.float64)
        for target, at, source, begin, length, gain in zip(*pieces, strict=True):
            for n in range(length):
                expected[target, at + n] += gain * before[source, begin + n]
        np.testing.assert_allclose(add_pieces(waveform, LENGTHS, pieces), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(waveform, before)


def test_mixed_rows_are_normalised_again_and_others_left_alone():
    waveform = batch()
    pieces = overlaps(1, probability=0.5)
    assert 0 < len(pieces.target) < 4
    mixed = add_pieces(waveform, LENGTHS, pieces, normalise=True)
    for row, length in enumerate(LENGTHS):
        if row in pieces.target:
            assert mixed[row, :length].mean() == pytest.approx(0, abs=1e-5)
            assert mixed[row, :length].var() == pytest.approx(1, abs=0.15)  # 1e-5 is added to the variance
        else:
            assert np.array_equal(mixed[row], waveform[row])
        assert not mixed[row, length:].any()


def test_clips_are_as_many_and_as_long_as_asked():
    found = [clips(seed) for seed in ANY_SEED]
    counts = np.concatenate([np.bincount(p.target, minlength=4) for p in found])
    lengths = np.concatenate([p.length for p in found])
    assert set(counts) == {1, 2, 3}
    assert counts.mean() == pytest.approx(2, abs=0.1)
    assert (lengths.min(), lengths.max()) == (50, 100)
    assert all((p.gain == 1).all() for p in found)


def test_sources_of_clips_are_as_likely_as_they_are_long():
    pairs = np.zeros((4, 4))
    for pieces in (clips(seed) for seed in range(3000)):
        np.add.at(pairs, (pieces.target, pieces.source), 1)
    expected = np.tile(LENGTHS, (4, 1)) * ~np.eye(4, dtype=bool)
    assert pairs / pairs.sum(1, keepdims=True) == pytest.approx(expected / expected.sum(1, keepdims=True), abs=0.03)


def test_clips_longer_than_an_utterance_are_cut():
    for seed in range(50):
        pieces = clips(seed, samples=(600, 600))
        assert (pieces.length == np.minimum(600, np.minimum(LENGTHS[pieces.target], LENGTHS[pieces.source]))).all()


@pytest.mark.parametrize("lengths", [np.array([500]), np.array([500, 600])])
def test_a_single_utterance_is_not_mixed(lengths):
    waveform = batch(lengths)
    rng = np.random.default_rng(0)
    overlap = draw_overlaps(waveform, lengths, probability=1.0, ratio_db=(0.0, 0.0), rng=rng)
    clip = clips(0, lengths=lengths)
    for pieces in (overlap, clip):
        assert set(pieces.target) == (set() if len(lengths) == 1 else {0, 1})
    assert np.array_equal(add_pieces(waveform, lengths, overlap), waveform) is (len(lengths) == 1)


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A data directory of one recording, far longer than the batch, of white noise at -26 dB."""
    folder = tmp_path_factory.mktemp("noise")
    write_audio(folder / "n.flac", 0.05 * np.random.default_rng(7).standard_normal(40_000), 16_000)
    (folder / "wav.scp").write_text(f"n {folder}/n.flac\n")
    return Noises((folder,))


def with_noise(noises, seed, probability=1.0, snr_db=(-5.0, 20.0)):
    """What is left of overlaps in all rows, and the noises."""
    rng, mix = np.random.default_rng(seed), NoiseMix(noises, probability, snr_db, 16_000)
    pieces = draw_overlaps(batch(), LENGTHS, probability=1.0, ratio_db=(0.0, 0.0), rng=rng)
    return pieces, *draw_noises(pieces, batch(), LENGTHS, mix, rng)


@pytest.mark.parametrize("decibel", [-5.0, 7.5, 20.0])
def test_noise_takes_the_place_of_an_overlap_at_the_ratio_that_is_asked(noises, decibel):
    pieces, left, found = with_noise(noises, 3, snr_db=(decibel, decibel))
    assert len(left.target) == 0
    assert found.target.tolist() == pieces.target[pieces.length > 0].tolist()
    mixed = add_pieces(batch(), LENGTHS, left, noises=found).astype(np.float64)
    for row, start, noise in zip(found.target, found.start, found.noise, strict=True):
        added = mixed[row] - batch()[row]
        inside = np.arange(len(added)) - start
        inside = (inside >= 0) & (inside < len(noise))
        assert not added[~inside].any()
        assert len(noise) == pieces.length[row]  # a piece for each row, in their order
        speech = np.square(batch()[row, : LENGTHS[row]], dtype=np.float64).mean()
        assert 10 * np.log10(speech / np.square(added[inside]).mean()) == pytest.approx(decibel, abs=0.05)


def test_share_and_range_of_noises(noises):
    found = [with_noise(noises, seed, probability=0.3) for seed in range(300)]
    count = sum(len(pieces.target) for pieces, _, _ in found)
    assert sum(len(left.target) for _, left, _ in found) / count == pytest.approx(0.7, abs=0.05)
    levels = [
        10 * np.log10(np.square(batch()[row, : LENGTHS[row]], dtype=np.float64).mean() / np.square(noise).mean())
        for _, _, mixed in found
        for row, noise in zip(mixed.target, mixed.noise, strict=True)
    ]
    assert np.histogram(levels, bins=5, range=(-5.01, 20.01))[0] / len(levels) == pytest.approx(0.2, abs=0.08)
    assert len(levels) == np.histogram(levels, bins=1, range=(-5.01, 20.01))[0][0]


def test_noisy_rows_are_normalised_again(noises):
    _, left, found = with_noise(noises, 1)
    mixed = add_pieces(batch(), LENGTHS, left, noises=found, normalise=True)
    for row in found.target[:2]:
        assert mixed[row, : LENGTHS[row]].var() == pytest.approx(1, abs=0.01)


def test_a_noise_that_cannot_be_used_does_not_end_the_batch(noises, tmp_path):
    sound = noises._dirs[0].path / "n.flac"
    write_audio(tmp_path / "s.flac", np.zeros(2000), 16_000)
    (tmp_path / "wav.scp").write_text(f"n {sound}\ns {tmp_path}/s.flac\n")
    for seed in range(5):
        _, _, found = with_noise(Noises((tmp_path,)), seed)
        assert all(noise.any() for noise in found.noise)
