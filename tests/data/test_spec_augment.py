from __future__ import annotations

import pytest
import torch

from audiossl.data.spec_augment import spec_augment

LENGTHS = torch.tensor([200, 37, 1])


def augment(seed=0, features=None, **settings):
    features = torch.ones(3, 200, 80) if features is None else features
    return spec_augment(features, LENGTHS, generator=torch.Generator().manual_seed(seed), **settings)


def runs(hidden):
    """Lengths of the runs of True."""
    found, run = [], 0
    for flag in [*hidden.tolist(), False]:
        if flag:
            run += 1
        elif run:
            found.append(run)
            run = 0
    return found


@pytest.mark.parametrize("seed", range(5))
def test_one_time_mask_is_one_run_of_whole_frames_within_the_length(seed):
    masked = augment(seed, num_time_masks=1, time_width=30, time_fraction=0.5, num_frequency_masks=0) == 0
    assert (masked == masked[:, :, :1]).all()
    for row, length in zip(masked[:, :, 0], LENGTHS.tolist(), strict=True):
        found = runs(row)
        assert len(found) <= 1
        assert sum(found) <= min(30, length // 2)
        assert not row[length:].any()


@pytest.mark.parametrize("seed", range(5))
def test_frequency_masks_cover_whole_channels_of_valid_frames(seed):
    masked = augment(seed, num_time_masks=0, num_frequency_masks=2, frequency_width=10) == 0
    for row, length in zip(masked, LENGTHS.tolist(), strict=True):
        assert (row[:length] == row[0]).all()
        assert not row[length:].any()
        found = runs(row[0])
        assert len(found) <= 2
        assert sum(found) <= 20


def test_widths_and_starts_are_uniform():
    features, lengths = torch.ones(20_000, 12, 1), torch.full((20_000,), 12)
    generator = torch.Generator().manual_seed(0)
    masked = spec_augment(features, lengths, generator=generator, num_time_masks=1, time_width=4, num_frequency_masks=0)
    hidden = masked[:, :, 0] == 0
    widths = torch.bincount(hidden.sum(1), minlength=5)
    torch.testing.assert_close(widths / 20_000, torch.full((5,), 0.2), atol=0.015, rtol=0)
    four = hidden[hidden.sum(1) == 4]
    starts = torch.bincount(four.int().argmax(1), minlength=9) / len(four)
    torch.testing.assert_close(starts, torch.full((9,), 1 / 9), atol=0.02, rtol=0)


def test_other_values_pass_unchanged_and_gradients_with_them():
    features = torch.randn(3, 200, 80, generator=torch.Generator().manual_seed(1)).requires_grad_()
    masked = augment(features=features, value=-7.0)
    hidden = masked == -7.0
    assert torch.equal(masked[~hidden], features[~hidden])
    masked.sum().backward()
    assert torch.equal(features.grad == 0, hidden)
    assert 0.05 < hidden[0].float().mean() < 0.95


def test_the_generator_decides():
    assert torch.equal(augment(3), augment(3))
    assert not torch.equal(augment(3), augment(4))


def test_nothing_to_mask_leaves_the_features():
    assert (augment(num_time_masks=0, num_frequency_masks=0) == 1).all()
    assert (augment(time_width=0, frequency_width=0) == 1).all()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="time_fraction is 2"):
        augment(time_fraction=2)
    with pytest.raises(ValueError, match="0 or more"):
        augment(num_time_masks=-1)
