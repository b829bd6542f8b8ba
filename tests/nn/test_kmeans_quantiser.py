from __future__ import annotations

import pytest
import torch

from audiossl.nn.kmeans_quantiser import KMeansQuantiser

LENGTHS = torch.tensor([7, 4])


def make(shared=True):
    torch.manual_seed(0)
    quantiser = KMeansQuantiser(6, groups=2, entries=5, shared=shared).double()
    torch.nn.init.normal_(quantiser.codebook)
    return quantiser, torch.randn(2, 7, 6, dtype=torch.float64)


def normalised(quantiser, row):
    """(frame, dim): each half by its own map, then zero mean and unit variance over its channels and all frames."""
    weight = quantiser.projection.weight.squeeze(2)
    halves = []
    for g in range(2):
        half = row[:, 3 * g : 3 * g + 3] @ weight[3 * g : 3 * g + 3].T
        halves.append((half - half.mean()) / (half.var(correction=0) + 1e-5).sqrt())
    return torch.cat(halves, dim=1)


@pytest.mark.parametrize("shared", [True, False])
def test_each_frame_by_its_nearest_entries(shared):
    quantiser, x = make(shared)
    quantiser.requires_grad_(False)
    found = quantiser(x, LENGTHS)
    for row, length in enumerate(LENGTHS):
        z = normalised(quantiser, x[row, :length])
        total = 0.0
        for t in range(length):
            for g in range(2):
                entries = quantiser.codebook[0 if shared else g]
                half = z[t, 3 * g : 3 * g + 3]
                code = min(range(5), key=lambda v: float((half - entries[v]).norm()))
                assert found.codes[row, t, g] == code
                torch.testing.assert_close(found.q[row, t, 3 * g : 3 * g + 3], entries[code], rtol=0, atol=0)
                total += float((half - entries[code]).square().sum())
        assert float(found.loss[row]) == pytest.approx(1.25 * total / (6 * int(length)), abs=1e-10)


def test_gradients_are_straight_through_to_frames_and_by_the_loss_to_entries():
    quantiser, x = make()
    found = quantiser(x, LENGTHS)
    weight = torch.randn_like(found.q)
    z = quantiser.norm((x @ _dense(quantiser).T), LENGTHS)
    wanted = torch.autograd.grad((z * weight).sum(), quantiser.projection.weight, retain_graph=True)[0]
    given = torch.autograd.grad(
        (found.q * weight).sum(),
        [quantiser.projection.weight, quantiser.codebook],
        retain_graph=True,
        allow_unused=True,
    )
    torch.testing.assert_close(given[0], wanted, rtol=0, atol=1e-10)
    assert given[1] is None
    entry, moved = torch.autograd.grad(found.loss.sum(), [quantiser.codebook, quantiser.projection.weight])
    chosen = torch.zeros_like(entry[0])
    scale = (LENGTHS * 6.0).tolist()
    commitment = 0.0
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            for g in range(2):
                half, code = z[row, t, 3 * g : 3 * g + 3], int(found.codes[row, t, g])
                chosen[code] += 2 * (quantiser.codebook[0, code] - half).detach() / scale[row]
                commitment = (
                    commitment + 0.25 * (half - quantiser.codebook[0, code].detach()).square().sum() / scale[row]
                )
    torch.testing.assert_close(entry[0], chosen, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        moved, torch.autograd.grad(commitment, quantiser.projection.weight)[0], rtol=0, atol=1e-10
    )


def _dense(quantiser):
    weight = quantiser.projection.weight.squeeze(2)
    return torch.block_diag(weight[:3], weight[3:])


def test_bf16_is_computed_in_float32():
    quantiser, x = make()
    quantiser = quantiser.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantiser(x.float(), LENGTHS)
    assert found.q.dtype == found.loss.dtype == torch.float32


def test_groups_must_divide_the_features():
    with pytest.raises(ValueError, match="6 features do not split into 4 groups"):
        KMeansQuantiser(6, groups=4, entries=5)


@pytest.mark.parametrize("shared", [True, False])
def test_entries_from_data_are_all_in_use(shared):
    quantiser, _ = make(shared)
    quantiser = quantiser.float()
    x, lengths = torch.randn(4, 100, 6), torch.full((4,), 100)
    quantiser.start_from(quantiser.normalised(x, lengths).flatten(0, 1))
    found = quantiser(x, lengths)
    for group in range(2):
        counts = found.codes[..., group].flatten().bincount(minlength=5)
        assert counts.min() > 0
    assert found.loss.max() < 1.0  # 1.25 times the variance is what one entry at the mean would give
