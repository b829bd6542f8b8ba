"""Block masks: exact shares, blocks where they should be, and the published counts."""

import numpy as np
import pytest

from audiossl.nn.block_masking import _blocks, block_mask

FRAMES = np.array([100, 1, 37, 999, 0, 2])


def draw(frames=FRAMES, seed=0, **changes):
    options = {"mask_prob": 0.5, "mask_length": 5, "adjust": 0.05, "inverse": False} | changes
    return block_mask(frames, generator=np.random.default_rng(seed), **options)


@pytest.mark.parametrize("mask_prob", [0.0, 0.3, 0.5, 0.8])
def test_share_is_exact(mask_prob):
    mask = draw(mask_prob=mask_prob)
    assert mask.shape == (6, 999)
    assert mask.sum(1).tolist() == [int(np.floor(mask_prob * t)) for t in FRAMES]
    kept = FRAMES - draw(mask_prob=mask_prob, inverse=True).sum(1)
    assert kept.tolist() == [max(int(np.floor((1 - mask_prob) * t)), min(t, 1)) for t in FRAMES]
    assert not any(row[t:].any() for row, t in zip(mask, FRAMES, strict=True))


@pytest.mark.parametrize("inverse", [False, True])
def test_one_frame_stays(inverse):
    mask = draw(mask_prob=1.0, inverse=inverse)
    for row, frames in zip(mask, FRAMES, strict=True):
        expected = np.arange(999) < frames - 1
        assert np.array_equal(row, expected)


def test_rows_may_have_one_count():
    mask = draw(np.array([100, 40, 60]), same_count=True)
    assert mask.sum(1).tolist() == [20, 20, 20]


def test_blocks_are_where_their_centres_are():
    frames, counts = np.array([30, 12]), np.array([3, 2])
    rng = np.random.default_rng(4)
    centres = (rng.random(5) * np.repeat(frames, counts)).astype(int)
    expected = np.zeros((2, 30), dtype=bool)
    for row, centre in zip((0, 0, 0, 1, 1), centres, strict=True):
        for t in range(centre - 2, centre + 3):
            if 0 <= t < 30:
                expected[row, t] = True
    assert np.array_equal(_blocks(frames, counts, 5, np.random.default_rng(4)), expected)


def changes(mask):
    return int((mask[:, 1:] != mask[:, :-1]).sum())


def test_masked_or_kept_frames_come_in_blocks():
    frames = np.full(200, 400)
    blocks = changes(draw(frames, mask_prob=0.3, adjust=0.0))
    singles = changes(draw(frames, mask_prob=0.3, mask_length=1, adjust=0.0))
    inverse = changes(draw(frames, mask_prob=0.7, adjust=0.0, inverse=True))
    assert blocks < 0.75 * singles
    assert inverse == pytest.approx(blocks, rel=0.1)


def test_every_frame_is_masked_as_often_away_from_the_ends():
    share = draw(np.full(4000, 60)).mean(0)
    # 4000 draws of probability 0.5: five standard errors are 0.04
    assert abs(share[5:55] - 0.5).max() < 0.06


def test_same_generator_same_mask():
    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(seed=1))
