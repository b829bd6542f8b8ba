from __future__ import annotations

import inspect
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from audiossl.nn import span_masks
from audiossl.nn.masking import valid_frames
from audiossl.nn.span_masks import channel_mask, span_mask


def slow_mask(frames, prob, length, least, rng):
    """The definition, one utterance, one span and one frame at a time."""
    count = max(least, int(prob * frames / length + rng.random()))
    places = list(range(frames - length))
    mask = [False] * frames
    for start in rng.sample(places, min(count, len(places))):
        for frame in range(start, start + length):
            mask[frame] = True
    return mask


def masks(frames, seed=0, **options):
    options = {"mask_prob": 0.65, "mask_length": 10} | options
    return span_mask(frames, generator=np.random.default_rng(seed), **options)


@pytest.mark.parametrize(("prob", "share"), [(0.65, 0.491), (0.80, 0.567)])
def test_masked_share_of_a_long_utterance(prob, share):
    found = masks(np.full(4000, 781), mask_prob=prob).mean(1)
    # The given shares are rounded to 0.0005; the mean of 4000 draws adds four standard errors.
    assert abs(found.mean() - share) < 0.0005 + 4 * found.std() / np.sqrt(4000)


@pytest.mark.parametrize(("frames", "prob", "length"), [(60, 0.65, 10), (23, 0.8, 5), (14, 0.9, 3), (11, 0.3, 10)])
def test_same_distribution_as_the_slow_loop(frames, prob, length):
    draws = 4000
    rng = random.Random(1)
    slow = np.array([slow_mask(frames, prob, length, 2, rng) for _ in range(draws)])
    fast = masks(np.full(draws, frames), mask_prob=prob, mask_length=length)
    # Share of each frame, joint share of each pair of frames, and mean and spread of the count: five standard errors of a share.
    tolerance = 5 * np.sqrt(2 * 0.25 / draws)
    assert np.abs(slow.mean(0) - fast.mean(0)).max() < tolerance
    pairs = [m.astype(float).T @ m / draws for m in (slow, fast)]
    assert np.abs(pairs[0] - pairs[1]).max() < tolerance
    counts = [m.sum(1) for m in (slow, fast)]
    levels = range(frames + 1)
    shares = [np.array([(c <= level).mean() for level in levels]) for c in counts]
    assert np.abs(shares[0] - shares[1]).max() < tolerance


def test_sets_of_starts_are_uniform():
    # Length 1 shows the starts themselves: 2 of {0, 1, 2, 3}, six sets; and 3 of 4, which is drawn by its complement.
    for prob, sets in ((0.4, 6), (0.6, 4)):
        found = masks(np.full(12000, 5), mask_prob=prob, mask_length=1, min_masks=int(5 * prob))
        exact = found[found.sum(1) == int(5 * prob)]
        _, counts = np.unique(exact, axis=0, return_counts=True)
        assert len(counts) == sets
        expected = len(exact) / sets
        assert ((counts - expected) ** 2 / expected).sum() < 25  # chi square with 5 degrees of freedom: p = 1e-4


@pytest.mark.parametrize("count", [1, 3, 6])
def test_every_start_is_as_likely_as_any(count):
    found = masks(np.full(6000, 8), mask_prob=0.0, mask_length=1, min_masks=count)
    assert (found.sum(1) == count).all()
    assert np.abs(found[:, :7].mean(0) - count / 7).max() < 5 * np.sqrt(0.25 / 6000)


def test_never_the_last_frame_and_never_padding():
    frames = np.random.default_rng(0).integers(12, 200, size=300)
    mask = masks(frames, mask_prob=0.9)
    assert mask.shape == (300, frames.max())
    for row, count in zip(mask, frames, strict=True):
        assert not row[count - 1 :].any()
        assert row[: count - 1].any()


def test_utterances_too_short_for_a_span():
    mask = masks([0, 1, 2, 10, 11, 12])
    assert mask.sum(1).tolist()[:5] == [0, 0, 1, 9, 10]
    assert mask[3, :9].all()
    assert mask[4, :10].all()
    assert masks([3, 5]).sum(1).tolist() == [2, 4]
    assert masks([]).shape == (0, 0)
    assert masks([1, 1]).tolist() == [[False], [False]]


@pytest.mark.parametrize("frames", [[781] * 6, [150, 90, 60, 140], [1, 40, 50], [750, 120, 120, 120]])
def test_same_count_only_unmasks_down_to_the_least_share(frames):
    for seed in range(20):
        free, same = masks(frames, seed), masks(frames, seed, same_count=True)
        assert not (same & ~free).any()
        valid = np.array([count for count in frames if count > 1])
        before, after = (found.sum(1)[np.array(frames) > 1] for found in (free, same))
        assert np.abs(after - valid * (before / valid).min()).max() <= 0.5
        least = (before / valid).argmin()
        assert after[least] == before[least]


def test_same_count_of_one_length_is_the_least_count():
    free, same = masks([781] * 6), masks([781] * 6, same_count=True)
    assert set(same.sum(1)) == {free.sum(1).min()}


def test_a_short_row_leaves_a_long_one_masked():
    shares = [masks([750, 120, 120, 120], seed, same_count=True)[0].mean() for seed in range(50)]
    assert np.mean(shares) > 0.38  # the least of four rows, of which each masks 49 % in the mean


@pytest.mark.parametrize("short", [40, 310])
def test_same_count_unmasks_uniformly(short):
    shares = []
    for seed in range(1000):
        free, same = masks([short, 400], seed=seed), masks([short, 400], seed=seed, same_count=True)
        removed = (free & ~same)[1]
        if removed.any():
            ranks = np.flatnonzero(removed[free[1]]) / (free[1].sum() - 1)
            shares.append(ranks.mean())
    assert len(shares) > 350
    assert abs(np.mean(shares) - 0.5) < 0.01


def test_every_set_of_frames_is_as_likely_to_stay():
    # Length 3 and one span: frames 0 to 2, 1 to 3, ..., of which two stay, for the row of 18 masks a sixth; one set is as likely as another.
    found = masks(np.tile([12, 18], 6000), mask_prob=0.0, mask_length=3, min_masks=1, same_count=True)[::2]
    assert (found.sum(1) == 2).all()
    gaps = np.diff(np.nonzero(found)[1].reshape(-1, 2), axis=1).ravel()
    starts, counts = np.unique(gaps, return_counts=True)
    assert starts.tolist() == [1, 2]
    assert abs(counts[1] / 6000 - 1 / 3) < 5 * np.sqrt(2 / 9 / 6000)


def test_same_seed_same_mask():
    assert (masks([100, 200], seed=3) == masks([100, 200], seed=3)).all()
    assert (masks([100, 200], seed=3) != masks([100, 200], seed=4)).any()


def test_accepts_torch_lengths():
    assert (masks(torch.tensor([50, 60])) == masks([50, 60])).all()


def test_channel_mask():
    few = channel_mask(4000, 256, mask_prob=0.1, mask_length=64, generator=np.random.default_rng(0))
    assert few.mean() == pytest.approx(0.1, abs=0.01)  # no least number of spans: 0.4 of them in the mean
    mask = channel_mask(3, 768, mask_prob=0.5, mask_length=64, generator=np.random.default_rng(0))
    assert mask.shape == (3, 768)
    assert mask.any(1).all()
    runs = np.diff(np.flatnonzero(np.diff(np.pad(mask[0], 1).astype(int))))[::2]
    assert runs.min() >= 64
    same = channel_mask(
        13, 768, mask_prob=0.5, mask_length=64, generator=np.random.default_rng(0), same_count=True
    ).sum(1)
    assert set(same) == {same.min()}


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        ([10], {"mask_prob": 1.5}, "mask_prob 1.5"),
        ([10], {"mask_length": 0}, "mask_length 0"),
        ([[10]], {}, "num_frames"),
        ([-1], {}, "num_frames"),
    ],
)
def test_errors(frames, options, words):
    with pytest.raises(ValueError, match=words):
        masks(frames, **options)


def test_valid_frames():
    assert valid_frames(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_without_a_place_for_a_cache_it_is_compiled_all_the_same(tmp_path):
    # As where packages are installed read-only and the home folder cannot be written: neither can hold numba's cache.
    (tmp_path / "uncached.py").write_text(inspect.getsource(span_masks))
    (tmp_path / "__pycache__").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), os.devnull)
    code = (
        "import json, numpy, uncached\n"
        "mask = uncached.span_mask([40, 30], mask_prob=0.5, mask_length=5, generator=numpy.random.default_rng(3))\n"
        "print(json.dumps(mask.tolist()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | nowhere,
        capture_output=True,
        check=False,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == masks([40, 30], seed=3, mask_prob=0.5, mask_length=5).tolist()
