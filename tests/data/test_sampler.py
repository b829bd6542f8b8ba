from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from audiossl.data.sampler import BucketSampler


def speech_durations(count, seed=0):
    """Like read speech: log-normal around 8 s, up to 35 s."""
    return np.random.default_rng(seed).lognormal(np.log(8.0), 0.6, count).clip(0.5, 35.0)


def epoch_batches(sampler, epoch):
    number = sampler.batches_per_epoch(epoch)
    return [sampler.batch(epoch * number + i) for i in range(number)]


@pytest.mark.parametrize("crop", [None, 6.0])
@pytest.mark.parametrize("epoch", [0, 3])
def test_each_epoch_holds_each_utterance_once_within_the_limit(crop, epoch):
    durations = speech_durations(3000)
    sampler = BucketSampler(durations, batch_seconds=87.5, seed=1, crop_duration=crop)
    batches = epoch_batches(sampler, epoch)
    assert {found for found, _ in batches} == {epoch}
    assert sorted(np.concatenate([indices for _, indices in batches])) == list(range(3000))
    seconds = durations if crop is None else np.minimum(durations, crop)
    assert max(seconds[indices].max() * indices.size for _, indices in batches) <= 87.5 * (1 + 1e-9)


@pytest.mark.parametrize("shuffle", [True, False])
def test_useful_fraction_is_at_least_95_percent_and_counted_right(shuffle):
    durations = speech_durations(20_000)
    sampler = BucketSampler(durations, batch_seconds=87.5, seed=1, shuffle=shuffle)
    batches = [indices for _, indices in epoch_batches(sampler, 0)]
    padded = sum(durations[indices].max() * len(indices) for indices in batches)
    assert sampler.useful_fraction(0) == pytest.approx(durations.sum() / padded)
    assert sampler.useful_fraction(0) >= 0.95
    # And the batches are nearly as full as they may be: fewer than 15 % more of them than seconds of audio ask for.
    assert len(batches) <= 1.15 * padded / 87.5


def test_epochs_and_seeds_differ_and_repeat():
    durations = speech_durations(500)

    def batches(seed, epoch):
        sampler = BucketSampler(durations, batch_seconds=60, seed=seed)
        return [tuple(indices) for _, indices in epoch_batches(sampler, epoch)]

    first = batches(0, 0)
    assert batches(0, 0) == first
    for other in (batches(0, 1), batches(1, 0)):
        together = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in other}
        assert len(together) < 0.2 * len(first)


def test_batches_come_in_no_order_of_length():
    durations = speech_durations(3000)
    sampler = BucketSampler(durations, batch_seconds=60, seed=0)
    lengths = [durations[indices].mean() for _, indices in epoch_batches(sampler, 0)]
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.2


def test_sizes_and_the_longest_are_those_of_the_batches():
    sampler = BucketSampler(speech_durations(200), batch_seconds=87.5, seed=1, crop_duration=20.0)
    for epoch in (0, 2):
        held = [indices.size for _, indices in epoch_batches(sampler, epoch)]
        assert sorted(held) == sorted(sampler.batch_sizes)
    assert sampler.longest == 20.0


def test_positions_run_on_over_epochs_in_any_order():
    sampler = BucketSampler(speech_durations(200), batch_seconds=60, seed=0)
    number = sampler.batches_per_epoch(0)
    straight = [sampler.batch(position) for position in range(4 * number)]
    assert [epoch for epoch, _ in straight] == [epoch for epoch in range(4) for _ in range(number)]
    fresh = BucketSampler(speech_durations(200), batch_seconds=60, seed=0)
    for position in np.random.default_rng(0).permutation(4 * number):
        np.testing.assert_array_equal(fresh.batch(position)[1], straight[position][1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fresh)).batch(7)[1], straight[7][1])


def test_ranks_share_the_batches_of_an_epoch():
    sampler = BucketSampler(speech_durations(300), batch_seconds=60, seed=0)
    number = sampler.batches_per_epoch(0)
    dealt = [
        indices for rank in range(3) for position in range(rank, number, 3) for indices in sampler.batch(position)[1]
    ]
    assert sorted(dealt) == list(range(300))


def test_evaluation_is_one_epoch_longest_first():
    durations = speech_durations(100)
    sampler = BucketSampler(durations, batch_seconds=60, seed=0, shuffle=False)
    order = np.concatenate([indices for _, indices in epoch_batches(sampler, 0)])
    np.testing.assert_array_equal(order, np.argsort(-durations, kind="stable"))
    assert sampler.batches_per_epoch(1) == 0
    with pytest.raises(IndexError):
        sampler.batch(sampler.batches_per_epoch(0))
    with pytest.raises(IndexError):
        sampler.batch(-1)


def test_short_and_long_utterances_are_left_out_and_counted():
    sampler = BucketSampler([0.5, 1.0, 2.0, 10.0, 11.0], batch_seconds=20, seed=0, min_duration=1.0, max_duration=10.0)
    assert (sampler.num_short, sampler.num_long, sampler.num_dropped, len(sampler)) == (1, 1, 2, 3)
    assert sorted(np.concatenate([i for _, i in epoch_batches(sampler, 0)])) == [1, 2, 3]
    assert "left out: 1 too short, 1 too long" in sampler.summary()
    with pytest.raises(ValueError, match="none of 2 utterances"):
        BucketSampler([5.0, 6.0], batch_seconds=20, seed=0, max_duration=1.0)


def test_an_utterance_longer_than_a_batch_is_a_batch_of_its_own():
    sampler = BucketSampler([100.0, 1.0, 1.0, 90.0], batch_seconds=20, seed=0)
    batches = sorted(tuple(sorted(i)) for _, i in epoch_batches(sampler, 0))
    assert batches == [(0,), (1, 2), (3,)]


def test_cropped_utterances_fill_batches_exactly():
    sampler = BucketSampler(np.full(70, 40.0), batch_seconds=87.5, seed=0, crop_duration=12.5)
    assert {i.size for _, i in epoch_batches(sampler, 0)} == {7}
    assert sampler.useful_fraction(0) == 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"durations": [1.0, 0.0]}, "utterance 1 .* lasts 0.0 s"),
        ({"durations": [np.nan, 1.0]}, "utterance 0 .* lasts nan s"),
        ({"batch_seconds": 0}, "batch_seconds is 0"),
        ({"min_duration": 2.0, "max_duration": 1.0}, "below min_duration"),
        ({"crop_duration": 0.0}, "crop_duration is 0.0"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"batch_utterances": -1}, "batch_utterances is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_values_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        BucketSampler(**({"durations": [1.0, 2.0], "batch_seconds": 10, "seed": 0} | changed))


def test_a_million_utterances_are_planned_in_two_seconds():
    durations = speech_durations(1_000_000)
    start = time.process_time()
    sampler = BucketSampler(durations, batch_seconds=87.5, seed=0)
    epoch, indices = sampler.batch(1_000_000)
    assert time.process_time() - start < 2.0
    assert epoch > 0
    assert indices.size > 0
    kept = (sampler._kept, sampler._seconds, sampler._cuts, *sampler._plans[epoch])
    assert sum(array.nbytes for array in kept) <= 28 * 1_000_000


@pytest.mark.parametrize("count", [9, 10, 13, 16])
def test_no_batch_is_a_small_remainder(count):
    sampler = BucketSampler(np.full(count, 1.0), batch_seconds=8.0, seed=0, jitter=0.0)
    sizes = [len(sampler.batch(number)[1]) for number in range(sampler.batches_per_epoch())]
    assert sum(sizes) == count
    assert max(sizes) <= 8
    assert min(sizes) >= 4


def test_batches_by_number_hold_neighbours_in_length_and_seconds_still_split_them():
    durations = speech_durations(1000)
    sampler = BucketSampler(durations, batch_seconds=200.0, batch_utterances=16, seed=1)
    batches = [indices for _, indices in epoch_batches(sampler, 2)]
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert max(map(len, batches)) == 16
    assert max(durations[indices].max() * len(indices) for indices in batches) <= 200.0 * (1 + 1e-9)
    # Full but where seconds forbid it, and at the end of the list.
    short = [indices for indices in batches if durations[indices].max() * 1.06 <= 200.0 / 16]
    assert sum(len(indices) < 16 for indices in short) <= 2
    assert any(len(indices) < 16 for indices in batches if durations[indices].max() > 200.0 / 16)
    assert np.mean([durations[i].max() / durations[i].min() for i in batches]) < 1.25


def test_a_batch_by_number_alone_ignores_seconds():
    sampler = BucketSampler(speech_durations(160), batch_seconds=1e9, batch_utterances=16, seed=0)
    assert {len(indices) for _, indices in epoch_batches(sampler, 0)} == {16}


@pytest.mark.parametrize("batch_seconds", [1e18, 1e300, np.inf])
def test_seconds_without_a_limit(batch_seconds):
    sampler = BucketSampler([1.0, 2.0, 3.0], batch_seconds=batch_seconds, seed=0)
    assert [len(indices) for _, indices in epoch_batches(sampler, 0)] == [3]
