import numpy as np
import torch

from audiossl.nn.random_projection_quantiser import RandomProjectionQuantiser


def make(seed=0):
    torch.manual_seed(seed)
    return RandomProjectionQuantiser(12, code_dim=4, num_codes=9, books=3)


def test_codes_are_the_nearest_ones():
    quantiser, frames = make(), torch.randn(20, 12)
    found = quantiser(frames)
    assert found.shape == (20, 3)
    assert len(found.unique()) > 5
    for book in range(3):
        codes = quantiser.codes[book].double().numpy()
        for frame, code in zip(frames.double().numpy(), found[:, book].tolist(), strict=True):
            projected = frame @ quantiser.projection[book].double().numpy()
            distances = ((codes - projected / np.linalg.norm(projected)) ** 2).sum(axis=1)
            assert distances.argmin() == code


def test_loudness_changes_nothing():
    quantiser, frames = make(), torch.randn(20, 12)
    assert torch.equal(quantiser(frames), quantiser(5 * frames))


def test_nothing_learns_and_all_is_saved():
    quantiser, other = make(), make(1)
    assert list(quantiser.parameters()) == []
    assert set(quantiser.state_dict()) == {"projection", "codes"}
    assert not torch.equal(quantiser.codes, other.codes)
    torch.testing.assert_close(quantiser.codes.norm(dim=2), torch.ones(3, 9))
    bound = (6 / 16) ** 0.5  # Xavier uniform: sqrt(6 / (in + out))
    assert 0.8 * bound < quantiser.projection.abs().max() <= bound
    frames = torch.randn(20, 12)
    other.load_state_dict(quantiser.state_dict())
    assert torch.equal(quantiser(frames), other(frames))


def test_the_seed_is_torchs():
    assert torch.equal(make().codes, make().codes)
    assert torch.equal(make().projection, make().projection)


def test_autocast_changes_no_code():
    quantiser, frames = make(), torch.randn(200, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = quantiser(frames)
    assert torch.equal(half, quantiser(frames))
